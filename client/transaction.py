"""A transaction of a channel: what its block publishes and settles happens as a whole, or not at all.

Made by `Channel.transaction` for one block, and the channel's only one until the broker has answered. A
channel that has once begun one commits by itself whatever is done outside of a block.
"""

from typing import TYPE_CHECKING

from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import TagElement

from .errors import ConnectionLost, LeveretError, Unroutable
from .message import Message

if TYPE_CHECKING:
    from .channel import Channel
    from .incoming import IncomingMessage


class Transaction:
    """See the module's docstring."""

    def __init__(self, channel: "Channel") -> None:
        self.is_open = True  # False: the end is sent, what follows is not part of it
        self._channel = channel
        self._publishes: dict[int, tuple[Message, str, str]] = {}  # by publish tag
        self._settled: list[IncomingMessage] = []
        self._settler = channel.settler
        self._settled_through = channel.settler.settled_through
        self._missing: LeveretError | None = None  # what was committed without arriving
        self._interruption: ConnectionLost | None = None  # the broker has rolled back by itself

    # What the channel tells it

    def published(self, publish_tag: int, message: Message, exchange: str, routing_key: str) -> None:
        """A publish of the block is on its way."""
        self._publishes[publish_tag] = (message, exchange, routing_key)

    def settled(self, message: "IncomingMessage") -> None:
        """A message was acked, nacked or rejected in the block."""
        self._settled.append(message)

    def returned(self, publish_tags: list[int]) -> bool:
        """RETURN. Whether it was about a publish of this block."""
        publishes = [self._publishes[tag] for tag in publish_tags if tag in self._publishes]
        if publishes:
            self._missing = self._missing or Unroutable(*publishes[0])
        return bool(publishes)

    def refused(self, publish_tags: list[TagElement], error: LeveretError) -> bool:
        """REFUSE, of tags one by one. Whether it was about a publish of this block."""
        if not any(tag in self._publishes for tag in publish_tags if isinstance(tag, int)):
            return False
        self._missing = self._missing or error
        return True

    def interrupted(self) -> ConnectionLost:
        """The connection broke. What of the block is still to come fails with this error."""
        self._interruption = ConnectionLost(
            "the connection broke within the transaction: nothing of it has happened"
            if self.is_open
            else "the connection broke while the transaction ended: whether it has happened is unknown"
        )
        return self._interruption

    # How it ends

    async def commit(self) -> None:
        """Raises the broker's error, and nothing has happened; or what of it did not arrive."""
        try:
            if self._interruption is not None:
                raise self._interruption
            committing = self._channel.start_request(FrameType.TX_COMMIT)
            self.is_open = False
            await committing
        except ConnectionLost as lost:
            self._unsettle()
            raise (self._interruption or lost) from None
        except LeveretError:
            self._unsettle()
            raise
        if self._missing is not None:
            raise self._missing

    def roll_back(self) -> None:
        """Without waiting: it cannot fail."""
        if not self._channel.is_closed and self._interruption is None:
            self._channel.send(FrameType.TX_ROLLBACK)
        self.is_open = False
        self._unsettle()

    def _unsettle(self) -> None:
        for message in self._settled:
            message.unsettle()
        self._settler.settled_through = self._settled_through
