"""A consumer: one subscription of a channel to a queue.

`Channel.consume` makes it; the channel and the queue both hold it until it is cancelled, its channel closes
or its queue is deleted. The channel counts `unacked_count` up and down, the queue's `Consumers` decides
when it gets a message.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..message import QueuedMessage

if TYPE_CHECKING:
    from .queue import Queue


class ConsumingChannel(Protocol):
    """What a consumer and its queue need of the channel."""

    def can_take(self, consumer: "Consumer") -> bool:
        """Whether the channel-wide limit and the socket leave room for a delivery."""

    def deliver(self, consumer: "Consumer", copy: QueuedMessage) -> None:
        """Send an UNACKED copy; with no_ack, settle it at once."""

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

    def can_take(self) -> bool:
        """Whether it may get one more message now."""
        limit = self.prefetch_count
        return (not limit or self.unacked_count < limit) and self.channel.can_take(self)


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
