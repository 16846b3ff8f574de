"""The acks, nacks and rejects of a channel, collected: those of one loop turn leave as one frame per kind.

A settler belongs to one link: a channel that reconnects ends it with `DeliveryLost` and makes a new one, and
each message keeps the settler that it came with. So a delivery of an earlier link can never settle one that
has the same tag on the present link.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import TagElement, pack_tags

from .errors import LeveretError, WrongLoop
from .transport import Transport

if TYPE_CHECKING:
    from .channel import Channel
    from .incoming import IncomingMessage

log = logging.getLogger(__name__)

ACK = FrameType.ACK  # looking into an enumeration costs more than the rest of an ack
NO_REPLY = 0  # the request id of settlements: they are answered only when they fail
ACKS_AT_ONCE = 64  # acks that do not wait for the turn's end: the broker must not run out of credit to give


class Settler:
    """Made and owned by `Channel`; `IncomingMessage` sees to it that each message is settled once."""

    def __init__(self, channel: "Channel", transport: Transport, number: int) -> None:
        self.channel = channel
        self.error: LeveretError | None = None  # why nothing can be settled any more
        self.settled_through = 0  # by `multiple`: this delivery tag and all before it are settled
        self._transport = transport
        self._protocol = transport.protocol
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._acks: list[int] = []
        self._others: dict[tuple[FrameType, bool], list[int]] = {}  # nacks and rejects, by requeue
        self._through: tuple[FrameType, int, bool] | None = None  # a `multiple`, before all of these

    def end(self, error: LeveretError) -> None:
        """The link is gone, or the channel closed: what is settled from now on raises this error."""
        if self.error is None:
            self.error = error

    def admit(self, message: "IncomingMessage") -> bool:
        """Somebody is about to settle a message. False: from a thread without a loop, so `hand_over` it.

        Raises when that is not possible any more, or happens in another event loop.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop and loop is not None:
            raise WrongLoop(
                "this message came over a connection of another event loop: settle it in that loop "
                "(`asyncio.run_coroutine_threadsafe`), or open a connection in this one"
            )
        transaction = self.channel.current_transaction
        if transaction is not None and transaction.is_open:
            transaction.settled(message)
        return loop is not None

    def hand_over(self, type_: FrameType, delivery_tag: int, requeue: bool, multiple: bool) -> None:
        """`settle`, from a thread that has no event loop, such as one that runs a `def` handler."""
        self._loop.call_soon_threadsafe(self._take_over, type_, delivery_tag, requeue, multiple)

    def _take_over(self, type_: FrameType, delivery_tag: int, requeue: bool, multiple: bool) -> None:
        if self.error is not None:
            log.info("message %d was settled too late: %s", delivery_tag, self.error)
        else:
            self.settle(type_, delivery_tag, requeue, multiple)

    # In the loop

    def ack(self, delivery_tag: int) -> None:
        """Ack at the end of this turn."""
        acks = self._acks
        acks.append(delivery_tag)
        if len(acks) == 1:
            self._transport.request_flush(self.channel)
        elif len(acks) >= ACKS_AT_ONCE:
            self._transport.flush()

    def settle(self, type_: FrameType, delivery_tag: int, requeue: bool, multiple: bool) -> None:
        """Ack, nack or reject at the end of this turn; `multiple`: all deliveries up to this one."""
        if multiple:
            self.channel.write_batches()  # what was settled one by one is no part of it
            self.settled_through = max(self.settled_through, delivery_tag)
            self._through = (type_, delivery_tag, requeue)
            self._transport.request_flush(self.channel)
        elif type_ is ACK:
            self.ack(delivery_tag)
        else:
            self._others.setdefault((type_, requeue), []).append(delivery_tag)
            self._transport.request_flush(self.channel)

    async def extend(self, delivery_tags: Iterable[int]) -> None:
        """Have the broker wait for these anew, behind everything that was settled before."""
        packed = pack_tags(delivery_tags)
        for start in range(0, len(packed), ENTRIES_MAX):
            if self.error is not None:
                raise self.error.with_traceback(None)
            await self.channel.request(FrameType.EXTEND, packed[start : start + ENTRIES_MAX])

    def write_batches(self) -> bool:
        """Turn what was collected into frames; returns whether there was something."""
        if not self._acks and not self._others and self._through is None:
            return False
        through, self._through = self._through, None
        acks, self._acks = self._acks, []
        others, self._others = self._others, {}
        if through is not None:
            type_, delivery_tag, requeue = through
            self._write(type_, [[0, delivery_tag]], requeue)
        if acks:
            self._write(ACK, pack_tags(acks), False)
        for (type_, requeue), tags in others.items():
            self._write(type_, pack_tags(tags), requeue)
        return True

    def _write(self, type_: FrameType, tags: list[TagElement], requeue: bool) -> None:
        fields = () if type_ is ACK else (requeue,)
        for start in range(0, len(tags), ENTRIES_MAX):
            self._protocol.send(type_, NO_REPLY, self._number, tags[start : start + ENTRIES_MAX], *fields)
