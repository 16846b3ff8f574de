"""A transaction of a channel: what its block publishes and settles happens as a whole, or not at all.

Made by `Channel.transaction` for one block, and the channel's only one until the broker has answered. A
channel that has once begun one commits by itself whatever is done outside of a block.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import TagElement

from .errors import BrokerError, ConnectionLost, LeveretError, Unroutable
from .message import Message

if TYPE_CHECKING:
    from .channel import Channel
    from .incoming import IncomingMessage


class Transaction:
    """See the module's docstring. Raises when the channel can have none now."""

    def __init__(self, channel: "Channel") -> None:
        if channel.publisher_confirms:
            raise LeveretError(
                "a channel with publisher confirms has no transactions; "
                "open one with connection.channel(publisher_confirms=False)"
            )
        if channel.current_transaction is not None:
            raise LeveretError("this channel is in a transaction; let it end, or open another channel")
        self.is_open = True  # False: the end is sent, what follows is not part of it
        self._channel = channel
        self._publishes: dict[int, tuple[Message, str, str]] = {}  # by publish tag
        self._settled: list[IncomingMessage] = []
        self._settler = channel.settler
        self._settled_through = channel.settler.settled_through
        self._failed: dict[int, LeveretError] = {}  # by publish tag: what will not arrive, and why
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
        tags = [tag for tag in publish_tags if tag in self._publishes]
        self._failed.update((tag, Unroutable(*self._publishes[tag])) for tag in tags)
        return bool(tags)

    def refused(self, publish_tags: list[TagElement], refusal: Callable[[], BrokerError]) -> bool:
        """REFUSE, of tags one by one. Whether it was about a publish of this block."""
        tags = [tag for tag in publish_tags if isinstance(tag, int) and tag in self._publishes]
        for tag in tags:
            self._failed[tag] = error = refusal()
            error.message = self._publishes[tag][0]
        return bool(tags)

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
        """When it raises, nothing has happened; but ConnectionLost may leave that open."""
        try:
            if self._interruption is not None:
                raise self._interruption
            committing = self._channel.start_request(FrameType.TX_COMMIT, True)
            self.is_open = False
            await committing
        except ConnectionLost as lost:
            self._unsettle()
            raise (self._interruption or lost) from None
        except BrokerError as error:
            self._unsettle()
            raise (self._first_failure() or error) from None
        except LeveretError:
            self._unsettle()
            raise

    def _first_failure(self) -> LeveretError | None:
        """Of the publishes; it knows of the others."""
        if not self._failed:
            return None
        first, *others = [self._failed[tag] for tag in sorted(self._failed)]
        if others:
            first.others = others
            first.add_note(f"{len(others)} more publishes of the transaction failed; the next: {others[0]}")
        return first

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
