"""The publishing half of a channel: batches out, confirms in.

All publishes of one loop turn leave as one frame. At most `IN_FLIGHT_MAX` wait for their confirm; whoever
publishes more waits for a slot, and everybody waits while the socket is full. Made and owned by `Channel`.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from leveret.protocol.native.connection import BATCH_BYTES, ENTRY_OVERHEAD_BYTES
from leveret.protocol.native.fields import ENTRIES_MAX, MANDATORY
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import TagElement
from leveret.protocol.reply_codes import ReplyCode

from .errors import LeveretError, Nacked, Unroutable, broker_error
from .message import Message
from .transport import Transport

if TYPE_CHECKING:
    from .channel import Channel

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 2048  # unconfirmed publishes of a channel: enough for any disk, and a bound for memory


class Publisher:
    """See the module's docstring."""

    def __init__(self, channel: "Channel", transport: Transport, number: int, *, confirms: bool) -> None:
        self._channel = channel
        self._transport = transport
        self._number = number
        self._confirms = confirms
        self._loop = asyncio.get_running_loop()
        self._next_tag = 1
        self._batch: list[tuple[str, str, int, bytes, bytes]] = []
        self._batch_bytes = 0
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._pending: dict[
            int, asyncio.Future[LeveretError | None]
        ] = {}  # publish tag, rising -> its outcome
        self._returned: set[int] = set()  # unroutable; their confirm is still to come
        self._ended: LeveretError | None = None

    async def publish(self, message: Message, exchange: str, routing_key: str, mandatory: bool) -> None:
        """See `Channel.publish`."""
        properties = message.encode_properties()
        body = message.body
        flags = MANDATORY if mandatory else 0
        if not self._transport.is_writable:
            await self._transport.drained()
        if self._confirms:
            await self._slots.acquire()
        if self._ended is not None:
            self._slots.release()
            raise self._ended.with_traceback(None)
        size = len(body) + len(properties) + ENTRY_OVERHEAD_BYTES
        if self._batch_bytes + size > BATCH_BYTES or len(self._batch) == ENTRIES_MAX:
            self.write_batch()
            self._transport.flush()  # which may find that the socket is full
        tag = self._next_tag
        self._next_tag = tag + 1
        self._batch.append((exchange, routing_key, flags, properties, body))
        self._batch_bytes += size
        self._transport.request_flush(self._channel)
        if not self._confirms:
            transaction = self._channel.current_transaction
            if transaction is not None and transaction.is_open:
                transaction.published(tag, message, exchange, routing_key)
            return
        self._pending[tag] = confirmed = self._loop.create_future()
        outcome = await confirmed
        if outcome is not None:
            raise outcome.with_traceback(None)
        if tag in self._returned:
            self._returned.discard(tag)
            raise Unroutable(message, exchange, routing_key)

    def write_batch(self) -> bool:
        """Turn what was collected into a frame; returns whether there was something."""
        if not self._batch:
            return False
        first = self._next_tag - len(self._batch)
        self._transport.protocol.send_batch(FrameType.PUBLISH, self._number, first, self._batch)
        self._batch = []
        self._batch_bytes = 0
        return True

    # What the broker answers

    def confirmed(self, tags: list[TagElement]) -> None:
        """CONFIRM"""
        self._settle(tags, None)

    def refused(self, tags: list[TagElement], code: int, text: str) -> None:
        """REFUSE"""
        kind = Nacked if code == ReplyCode.RESOURCE_ERROR else broker_error
        error = kind(code, text, "publish")
        transaction = self._channel.current_transaction
        if self._confirms:
            self._settle(tags, error)
        elif transaction is None or not transaction.refused(tags, error):
            log.warning("a publish without confirms was refused: %d %s", code, text)

    def returned(self, messages: list[list[Any]]) -> None:
        """RETURN"""
        tags = [tag for tag, _, _ in messages]
        transaction = self._channel.current_transaction
        if self._confirms:
            self._returned.update(tag for tag in tags if tag in self._pending)
        elif transaction is None or not transaction.returned(tags):
            log.warning("%d mandatory messages without confirms reached no queue", len(messages))

    def _settle(self, tags: list[TagElement], outcome: LeveretError | None) -> None:
        for element in tags:
            if isinstance(element, int):
                self._settle_one(element, outcome)
            else:
                for tag in self._pending_in(*element):
                    self._settle_one(tag, outcome)

    def _pending_in(self, first: int, last: int) -> list[int]:
        """What of a range is pending. Tags were put in rising, so a run from the bottom is soon found."""
        tags = []
        for tag in self._pending:
            if tag > last > 0:
                break
            if tag >= first:
                tags.append(tag)
        return tags

    def _settle_one(self, tag: int, outcome: LeveretError | None) -> None:
        confirmed = self._pending.pop(tag, None)
        if confirmed is None:
            return
        self._slots.release()
        if not confirmed.done():
            confirmed.set_result(outcome)
        else:
            self._returned.discard(tag)  # its publisher was cancelled

    def ended(self, error: LeveretError) -> None:
        """No confirm will come any more."""
        self._ended = error
        self._batch = []
        for tag in list(self._pending):
            self._settle_one(tag, error)
