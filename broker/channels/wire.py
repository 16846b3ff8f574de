"""What a channel asks of the wire it is on. Each session implements it once per channel; the domain never
sees bytes.
"""

from collections.abc import Sequence
from typing import Protocol

from leveret.protocol.errors import AmqpError

from ..message import Message
from ..queues.delivery import Delivery


class Wire(Protocol):
    """One channel's way to its peer. Calls only buffer; the session writes once per turn of the loop."""

    def deliver(self, consumer_tag: str, first_tag: int, deliveries: Sequence[Delivery]) -> None:
        """basic.deliver; the delivery tags count from the first one."""

    def return_message(self, message: Message, reply_code: int, reply_text: str) -> None:
        """basic.return: a mandatory message that reached no queue"""

    def confirm(self, publish_tag: int, multiple: bool) -> None:
        """basic.ack to a publisher"""

    def refuse(self, publish_tag: int, multiple: bool) -> None:
        """basic.nack to a publisher"""

    def cancel_consumer(self, consumer_tag: str, *, queue_is_gone: bool) -> bool:
        """basic.cancel from the broker: the consumer is gone, alone or with its queue. Returns whether the
        peer understands that.
        """

    def close_channel(self, error: AmqpError) -> None:
        """The channel failed by itself (not in answer to a method); the session closes it towards the peer"""

    def room(self) -> int:
        """How many octets may still be delivered in this turn.

        Not above 0 while the peer's socket is full: do not deliver; the session wakes the channel afterwards.
        """
