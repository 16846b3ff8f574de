"""A consumer: one subscription of a channel to a queue.

`Channel.consume` makes it; the channel and the queue both hold it until it is cancelled, its channel closes
or its queue is deleted. The channel counts `unacked_count` up and down, the queue's `Consumers` decides
when it gets a message.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..message import QueuedMessage

if TYPE_CHECKING:
    from .queue import Queue


class ConsumingChannel(Protocol):
    """What a consumer and its queue need of the channel."""

    def credit(self) -> tuple[int, int]:
        """For how many messages, and octets of them, the channel-wide limit and the socket leave room."""

    def deliver(self, consumer: "Consumer", copies: Sequence[QueuedMessage]) -> None:
        """Send UNACKED copies; with no_ack, settle them at once."""

    def consumer_cancelled(self, consumer: "Consumer") -> None:
        """The queue is gone, and the consumer with it."""


class Consumer:
    """See the module's docstring."""

    __slots__ = (
        "ack_timeout_ms",
        "arguments",
        "channel",
        "exclusive",
        "is_blocked",
        "no_ack",
        "prefetch_count",
        "priority",
        "queue",
        "tag",
        "unacked_count",
    )

    def __init__(
        self,
        tag: str,
        queue: "Queue",
        channel: ConsumingChannel,
        *,
        no_ack: bool,
        exclusive: bool,
        arguments: Mapping[str, FieldValue],
        prefetch_count: int,
    ) -> None:
        """Raises 406 when the arguments make no sense."""
        self.tag = tag  # unique in its channel
        self.queue = queue
        self.channel = channel
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.arguments = arguments
        self.priority = _integer(arguments, "x-priority", queue) or 0
        self.ack_timeout_ms = _integer(arguments, "x-consumer-timeout", queue)  # None: the queue's
        self.prefetch_count = prefetch_count  # this consumer's own limit; 0: none
        self.unacked_count = 0  # written by the channel; stays 0 with no_ack
        self.is_blocked = False  # waits for `Queue.consumer_ready`; written by `Consumers`

    def credit(self) -> tuple[int, int]:
        """How many messages, and octets of them, it may get now: none if either is not above 0."""
        count, room = self.channel.credit()
        limit = self.prefetch_count
        if limit and limit - self.unacked_count < count:
            count = limit - self.unacked_count
        return count, room


def _integer(arguments: Mapping[str, FieldValue], name: str, queue: "Queue") -> int | None:
    """An argument that is an integer of any width, if it is there."""
    if name not in arguments:
        return None
    value = arguments[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise SoftError(
            ReplyCode.PRECONDITION_FAILED,
            f"invalid arg '{name}' for {queue}: \"expected integer, got {field_type_name(value)}\"",
        )
    return value
