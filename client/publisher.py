"""The publishing half of a channel: batches out, confirms in. Made and owned by `Channel`.

All publishes of one loop turn leave as one frame. So much may wait for its confirm: `IN_FLIGHT_MAX` messages,
`IN_FLIGHT_BYTES_MAX` of them. What is more than that waits here, in order, and so does everything while the
socket is full, the broker blocks publishers, or there is no link.

A publish stays in `_pending` until the broker has answered it. On a channel with a producer id the tags go on
over all links, and the broker knows the last one that it has: what is pending is sent again on the next
link, under its old tag, and is neither lost nor doubled.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from copy import copy
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from leveret.protocol.native.connection import BATCH_BYTES, ENTRY_OVERHEAD_BYTES
from leveret.protocol.native.fields import ENTRIES_MAX, MANDATORY
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import TagElement
from leveret.protocol.reply_codes import ReplyCode

from .batch import Batch
from .errors import Blocked, LeveretError, Nacked, PublishTimeout, Unroutable, WrongLoop, broker_error
from .exchange import Exchange, exchange_name
from .message import Message, check_names
from .queue import Queue
from .transport import Transport

if TYPE_CHECKING:
    from .channel import Channel

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 2048  # unconfirmed publishes of a channel: enough for any disk, and a bound for memory
IN_FLIGHT_BYTES_MAX = 32 << 20  # of them
UNLIMITED = 1 << 64
STRIDE = 1024  # how much of a batch is put in at a time, while as much may be unsettled
PRODUCER_WINDOW = 65_536  # between the lowest unanswered tag and the highest: the broker remembers no more
KNOWN_NAMES_MAX = 1024  # exchanges and routing keys that need not be checked again

Entry = tuple[str, str, int, bytes, bytes]  # as it travels: exchange, routing key, flags, properties, body


Waiter = asyncio.Future[LeveretError | None] | Batch
Record = tuple[Waiter, Entry, Message, int]  # a publish; the int is its size in bytes


class Publisher:
    """See the module's docstring."""

    def __init__(self, channel: "Channel", *, confirms: bool, producer: bytes) -> None:
        self.producer = producer  # its id; empty: publishes do not survive their link
        self._channel = channel
        self._confirms = confirms
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()  # the loop's; to ask for the running loop each time is a system call
        self._transport: Transport  # the present one, or the last; used only while `_tag_limit` is not 0
        self._body_max_bytes = 0  # set by the link
        self._next_tag = 1
        self._tag_limit = 0  # the highest tag that may be used now: all bounds in one; 0 between links
        self._batch: list[Entry] = []  # what this turn has brought, up to the tag before `_next_tag`
        self._batch_bytes = 0
        self._pending: dict[int, Record] = {}  # sent, not answered; by tag, rising
        self._pending_bytes = 0
        self._waiting: deque[Record] = deque()  # not sent
        self._returned: set[int] = set()  # unroutable; their confirm is still to come
        self._known_names: set[str] = set()
        self._refusal: LeveretError | None = None  # why nothing can be published

    # What the application publishes

    def start(
        self, message: Message, exchange: Exchange | str, routing_key: Queue | str, mandatory: bool
    ) -> "asyncio.Future[LeveretError | None]":
        """Publish. The future becomes the outcome: why it failed, or None."""
        if get_ident() != self._thread:
            self.require_loop()
        entry = self._entry(message, exchange, routing_key, mandatory)
        outcome: asyncio.Future[LeveretError | None] = self._loop.create_future()
        self._put((outcome, entry, message, len(entry[3]) + len(entry[4]) + ENTRY_OVERHEAD_BYTES))
        return outcome

    async def publish_all(
        self,
        messages: list[Message],
        exchange: Exchange | str,
        routing_key: Queue | str,
        mandatory: bool,
        timeout_s: float | None,
    ) -> list[LeveretError]:
        """Publish all; returns when all are settled, or the time is over: how some of them failed."""
        self.require_loop()
        entries = [self._entry(message, exchange, routing_key, mandatory) for message in messages]
        batch = Batch(len(messages))
        started = 0
        try:
            async with asyncio.timeout(timeout_s):
                for message, entry in zip(messages, entries, strict=True):
                    self._put((batch, entry, message, len(entry[3]) + len(entry[4]) + ENTRY_OVERHEAD_BYTES))
                    started += 1
                    if started % STRIDE == 0:
                        await batch.until_left(len(messages) - started + STRIDE)
                await batch.until_left(0)
        except TimeoutError:
            assert timeout_s is not None
            sent = [record[2] for record in self._pending.values() if record[0] is batch]
            unsent = self._withdraw(batch) + messages[started:]
            late = [self._timeout(message, timeout_s, was_sent=True) for message in sent]
            late += [self._timeout(message, timeout_s, was_sent=False) for message in unsent]
            return [*batch.errors, *late]
        finally:
            if batch.left:  # its publisher was cancelled, or has waited enough
                batch.is_over = True
                self._withdraw(batch)
        return batch.errors

    def require_loop(self) -> None:
        """Raise WrongLoop in another loop than the channel's."""
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop(
                "this channel belongs to another event loop: publish in that loop "
                "(`asyncio.run_coroutine_threadsafe`), or open a connection in this one"
            )

    def _entry(
        self, message: Message, exchange: Exchange | str, routing_key: Queue | str, mandatory: bool
    ) -> Entry:
        """What travels. Raises TypeError or ValueError for what no broker would take."""
        if not isinstance(message, Message):
            raise TypeError(f"publish takes a leveret.Message, not {type(message).__name__}")
        names = self._known_names
        if exchange not in names or routing_key not in names:
            exchange, routing_key = self._names(exchange, routing_key)
        body = message.body
        if len(body) > self._body_max_bytes:
            raise ValueError(f"the body has {len(body)} bytes; the broker takes up to {self._body_max_bytes}")
        return exchange, routing_key, MANDATORY if mandatory else 0, message.encode_properties(), body

    def _names(self, exchange: Exchange | str, routing_key: Queue | str) -> tuple[str, str]:
        """Those of objects, or names that are not known yet."""
        exchange = exchange_name(exchange)
        if isinstance(routing_key, Queue):
            routing_key = routing_key.name
        check_names(exchange=exchange, routing_key=routing_key)
        if len(self._known_names) >= KNOWN_NAMES_MAX:
            self._known_names.clear()
        self._known_names.update((exchange, routing_key))
        return exchange, routing_key

    def withdraw(self, outcome: "asyncio.Future[LeveretError | None]") -> None:
        """Its publisher was cancelled: if it was not sent yet, it will not be."""
        self._withdraw(outcome)

    def timed_out(
        self, outcome: "asyncio.Future[LeveretError | None]", message: Message, timeout_s: float
    ) -> PublishTimeout:
        """`withdraw`, for its time is over. The error to raise."""
        return self._timeout(message, timeout_s, was_sent=not self._withdraw(outcome))

    def _withdraw(self, waiter: Waiter) -> list[Message]:
        """What was not sent, and will not be."""
        withdrawn = [record[2] for record in self._waiting if record[0] is waiter]
        if withdrawn:
            self._waiting = deque(record for record in self._waiting if record[0] is not waiter)
        return withdrawn

    def _timeout(self, message: Message, timeout_s: float, *, was_sent: bool) -> PublishTimeout:
        if not self._tag_limit:
            why = "the connection is broken and not restored yet"
            return PublishTimeout(message, timeout_s, was_sent=was_sent, why=why)
        if self._transport.blocked_reason is not None:
            return Blocked(message, self._transport.blocked_reason, timeout_s, was_sent=was_sent)
        return PublishTimeout(message, timeout_s, was_sent=was_sent)

    # Sending

    def _put(self, record: Record) -> None:
        if self._refusal is not None:
            _fail_at_end(record, self._refusal)
        elif self._next_tag <= self._tag_limit and not self._waiting and self._transport.is_writable:
            self._send(record)
        else:
            self._waiting.append(record)

    def pump(self) -> None:
        """Something has changed: send what may be sent now."""
        while self._waiting and self._next_tag <= self._tag_limit and self._transport.is_writable:
            record = self._waiting.popleft()
            if not record[0].done():
                self._send(record)

    def _send(self, record: Record) -> None:
        outcome, entry, message, size = record
        if self._batch_bytes + size > BATCH_BYTES or len(self._batch) == ENTRIES_MAX:
            self.write_batch()
            self._transport.flush()  # which may find that the socket is full
        if not self._batch:
            self._transport.request_flush(self._channel)
        self._batch.append(entry)
        self._batch_bytes += size
        tag = self._next_tag
        self._next_tag = tag + 1
        if self._confirms:
            self._pending[tag] = record
            self._pending_bytes += size
            if self._pending_bytes >= IN_FLIGHT_BYTES_MAX:
                self._tag_limit = tag
            return
        transaction = self._channel.current_transaction
        if transaction is not None and transaction.is_open:
            transaction.published(tag, message, entry[0], entry[1])
        outcome.set_result(None)

    def write_batch(self) -> bool:
        """Turn what was collected into a frame; returns whether there was something."""
        if not self._batch:
            return False
        first = self._next_tag - len(self._batch)
        self._transport.protocol.send_batch(FrameType.PUBLISH, self._channel.number, first, self._batch)
        self._batch = []
        self._batch_bytes = 0
        return True

    # What the broker answers

    def confirmed(self, tags: list[TagElement]) -> None:
        """CONFIRM"""
        pop = self._pending.pop
        returned = self._returned
        freed_bytes = 0
        for element in tags:
            for tag in self._range(element):
                record = pop(tag, None)
                if record is None:
                    continue
                freed_bytes += record[3]
                if returned and tag in returned:
                    returned.discard(tag)
                    _fail(record, Unroutable(record[2], record[1][0], record[1][1]))
                elif not record[0].done():
                    record[0].set_result(None)
        self._settled(freed_bytes)

    def refused(self, tags: list[TagElement], code: int, text: str) -> None:
        """REFUSE"""
        kind = Nacked if code == ReplyCode.RESOURCE_ERROR else broker_error
        refusal = partial(kind, code, text, "publish")
        if not self._confirms:
            transaction = self._channel.current_transaction
            if transaction is None or not transaction.refused(tags, refusal):
                log.warning("a publish without confirms was refused: %d %s", code, text)
            return
        freed_bytes = 0
        for element in tags:
            for tag in self._range(element):
                record = self._pending.pop(tag, None)
                if record is not None:
                    self._returned.discard(tag)
                    freed_bytes += record[3]
                    _fail(record, refusal())
        self._settled(freed_bytes)

    def returned(self, messages: list[list[Any]]) -> None:
        """RETURN"""
        tags = [tag for tag, _, _ in messages]
        transaction = self._channel.current_transaction
        if self._confirms:
            self._returned.update(tag for tag in tags if tag in self._pending)
        elif transaction is None or not transaction.returned(tags):
            log.warning("%d mandatory messages without confirms reached no queue", len(messages))

    def _range(self, element: TagElement) -> range:
        if isinstance(element, int):
            return range(element, element + 1)
        first, last = element
        if not last or last >= self._next_tag:
            last = self._next_tag - 1
        return range(first or self._lowest_tag(), last + 1)

    def _lowest_tag(self) -> int:
        """That has no answer yet."""
        return next(iter(self._pending), self._next_tag)

    def _settled(self, freed_bytes: int) -> None:
        self._pending_bytes -= freed_bytes
        self._set_tag_limit()
        if self._waiting:
            self.pump()

    def _set_tag_limit(self) -> None:
        if not self._confirms:
            self._tag_limit = UNLIMITED
        elif self._pending_bytes >= IN_FLIGHT_BYTES_MAX:
            self._tag_limit = self._next_tag - 1
        else:
            free = IN_FLIGHT_MAX - len(self._pending)
            self._tag_limit = min(self._next_tag - 1 + free, self._lowest_tag() + PRODUCER_WINDOW - 1)

    # The links

    def attach(self, transport: Transport) -> None:
        """There is a link; nothing is sent before `resume`."""
        self._body_max_bytes = transport.protocol.message_max

    def resume(self, transport: Transport, last_tag: int) -> None:
        """The channel is open on this link. The broker knows the producer's tags up to the last one."""
        self._transport = transport
        self._next_tag = max(self._next_tag, last_tag + 1)
        for tag, record in list(self._pending.items()):
            # Where its publisher waits no more, whether it arrived stays unknown.
            if record[0].done() or self._is_too_large(record):
                del self._pending[tag]
                self._pending_bytes -= record[3]
        self._waiting = deque(record for record in self._waiting if not self._is_too_large(record))
        for first, entries in _runs(self._pending):
            transport.protocol.send_batch(FrameType.PUBLISH, self._channel.number, first, entries)
        transport.request_flush(self._channel)
        self._settled(0)

    def _is_too_large(self, record: Record) -> bool:
        """For this broker, which takes less than the one before: it fails, lest it breaks the link."""
        size = len(record[1][4])
        if size <= self._body_max_bytes:
            return False
        text = f"message size {size} is larger than the {self._body_max_bytes} that the broker takes now"
        _fail(record, broker_error(ReplyCode.PRECONDITION_FAILED, text, "publish"))
        return True

    def suspend(self) -> None:
        """The link is gone. What it has not confirmed is kept; without confirms, it is not known."""
        self._tag_limit = 0
        self._batch = []
        self._batch_bytes = 0
        self._returned.clear()
        if not self._confirms:
            self._next_tag = 1

    def ended(self, error: LeveretError) -> None:
        """No confirm will come any more."""
        self._tag_limit = 0
        self._batch = []
        self._returned.clear()
        pending, self._pending = self._pending, {}
        for record in pending.values():
            _fail_at_end(record, error)
        self.refuse(error)

    def refuse(self, error: LeveretError | None) -> None:
        """Whatever is not sent yet raises this error, and so does what is published from now on."""
        self._refusal = error
        if error is not None:
            waiting, self._waiting = self._waiting, deque()
            for record in waiting:
                _fail_at_end(record, error)


def _runs(pending: dict[int, Record]) -> Iterator[tuple[int, list[Entry]]]:
    """What is pending, as PUBLISH carries it: the first tag, and as many neighbours as fit."""
    entries: list[Entry] = []
    next_tag = size = 0
    for tag, record in pending.items():
        if entries and (tag != next_tag or size + record[3] > BATCH_BYTES or len(entries) == ENTRIES_MAX):
            yield next_tag - len(entries), entries
            entries, size = [], 0
        entries.append(record[1])
        next_tag = tag + 1
        size += record[3]
    if entries:
        yield next_tag - len(entries), entries


def _fail(record: Record, error: LeveretError) -> None:
    """Settle it with an error, which carries what was published."""
    waiter, _, message, _ = record
    if not waiter.done():
        error.message = message
        waiter.set_result(error)


def _fail_at_end(record: Record, error: LeveretError) -> None:
    """`_fail` with an error that many publishes share."""
    own = copy(error)
    own.__cause__ = error.__cause__
    _fail(record, own)
