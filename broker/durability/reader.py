"""Reads back what lanes need of their cold runs: blobs are fetched off the loop, of the log and of the spill
alike; their copies are made on it.

Lanes that want the same blob at the same time share one read and one pass over it. What was read but is not
wanted any more (purged, moved to another blob meanwhile) is passed over; what is only just being written
waits for its commit. Nothing is guessed: a blob that is missing, damaged, or holds fewer copies than it must
ends the broker with `Corrupt`.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from leveret.protocol.amqp.properties import read_facts
from leveret.storage.blob import decode_blob, iter_records
from leveret.storage.engine import Corrupt, LogEngine, Position

from ..counters import Counters
from ..message import Message, QueuedMessage
from ..queues.lane import Lane
from ..queues.runs import SPILLED_FROM, Row
from ..queues.windows import Windows
from . import records
from .blobs import StoredBlob
from .journal import Journal
from .records import HOLDS_MESSAGE, RecordType
from .spilled import SpilledBlobs

if TYPE_CHECKING:
    from .records import PublishRecord

BLOBS_AT_ONCE = 16
PENDING_MAX_BYTES = 16 * 1024 * 1024  # of what waits for a commit: it may be what was read, dead-lettered


class _Wish:
    """A cold run that a lane wants, and the copies of it that were found."""

    __slots__ = ("copies", "copies_max", "is_of_head", "lane", "last", "row")

    def __init__(self, lane: Lane, row: Row, copies_max: int | None) -> None:
        self.lane = lane
        self.row = row
        self.is_of_head = lane.wants_head  # or only because something has expired
        self.copies_max = row.live if copies_max is None else min(copies_max, row.live)
        self.copies: list[QueuedMessage] = []
        self.last = row.last  # up to this sequence they are all of them

    def wants(self, sequence: int) -> bool:
        row = self.row
        return (
            row.first <= sequence <= self.last
            and not row.gone >> (sequence - row.first) & 1
            and len(self.copies) < row.live
        )

    def take(self, message: Message) -> None:
        """Of the lane, and wanted: it is brought, or what stays on the disk begins with it."""
        if len(self.copies) == self.copies_max:
            self.last = message.sequence - 1
            return
        spilled = self.lane.spilled if self.row.is_spilled else None
        self.copies.append(self.lane.queue.revive(message, spilled))


class Reader:
    """One per broker; `run` is its task."""

    def __init__(self, journal: Journal, spilled: SpilledBlobs, windows: Windows, counters: Counters) -> None:
        self._journal = journal
        self._blobs = journal.blobs
        self._spilled = spilled
        self._windows = windows
        self._counters = counters
        self._lanes: dict[Lane, None] = {}  # that want something
        self._early_lanes: dict[Lane, None] = {}  # that want something which is not on the disk yet
        self._wakeup = asyncio.Event()
        self._shared: WeakValueDictionary[int, Message] = WeakValueDictionary()  # those of several queues

    def want(self, lane: Lane) -> None:
        """Read what the lane's `wanted_rows` says, soon; then call its queue's `was_read`."""
        if lane not in self._lanes:
            self._lanes[lane] = None
            self._wakeup.set()

    def committed(self) -> None:
        """The committer: everything is on the disk."""
        lanes, self._early_lanes = self._early_lanes, {}
        for lane in lanes:
            self.want(lane)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self._lanes)

    async def run(self, engine: LogEngine, group: int) -> None:
        """Read until cancelled. Raises EngineError."""
        while True:
            await self._wakeup.wait()
            while self._lanes:
                await self._let_disk_catch_up()
                await self.read(engine, group)
            self._wakeup.clear()

    async def _let_disk_catch_up(self) -> None:
        while self._journal.pending_bytes > PENDING_MAX_BYTES:
            is_durable = asyncio.Event()
            self._journal.when_durable(is_durable.set)
            await is_durable.wait()

    async def read(self, engine: LogEngine, group: int) -> None:
        """Fetch some of the blobs that are wanted now, and hand out what is in them."""
        wishes = self._collect()
        for position, data in await self._fetch(engine, group, wishes):
            if await self._bring(engine, group, position, data, wishes[position]):
                await asyncio.sleep(0)  # a blob may take a millisecond

    async def _bring(
        self, engine: LogEngine, group: int, position: int, data: bytes | None, wishes: list[_Wish]
    ) -> bool:
        """Hand out what is wished for of a blob; returns whether anything is by now."""
        wanted = self._current(wishes)
        if not wanted:
            return False
        if data is None:
            raise Corrupt(f"the blob at position {position}, which holds live messages, is missing")
        try:
            payload = decode_blob(data).payload
            blob = None if position >= SPILLED_FROM else self._blobs[position]
            body = await _join_parts(engine, group, blob.parts) if blob and blob.parts else None
            wanted = self._current(wanted)
            self._find(payload, wanted, body)
            self._hand_over(blob, wanted)
        except Corrupt as error:
            if self._current(wanted):  # else the parts were dropped because nobody needs them any more
                place = "spill" if position >= SPILLED_FROM else f"log of group {group}"
                raise Corrupt(f"{place}, position {position}: {error}") from error
        return True

    async def _fetch(
        self, engine: LogEngine, group: int, positions: Iterable[int]
    ) -> list[tuple[int, bytes | None]]:
        """Blobs with their positions; None where the log has none."""
        logged = [Position(position) for position in positions if position < SPILLED_FROM]
        spilled = [position for position in positions if position >= SPILLED_FROM]
        found: list[tuple[int, bytes | None]] = []
        if spilled:  # these first: one that was dropped meanwhile could not be asked for
            found += zip(spilled, await self._spilled.read(spilled), strict=True)
        if logged:
            found += zip(logged, await engine.read_many(group, logged), strict=True)
        return found

    def _collect(self) -> dict[int, list[_Wish]]:
        """Wishes by the position of their blob."""
        wishes: dict[int, list[_Wish]] = {}
        while self._lanes and len(wishes) < BLOBS_AT_ONCE:
            lane = next(iter(self._lanes))
            del self._lanes[lane]
            for row in lane.wanted_rows(self._windows.read_bytes):
                if row.is_spilled or row.position < self._blobs.under_way_from:
                    wishes.setdefault(row.position, []).append(_Wish(lane, row, self._windows.copies_max))
                else:
                    self._early_lanes[lane] = None
        return wishes

    def _current(self, wishes: list[_Wish]) -> list[_Wish]:
        return [wish for wish in wishes if self._is_current(wish)]

    def _is_current(self, wish: _Wish) -> bool:
        """Whether the run is still as it was when it was wished for; a moved one is wished for again."""
        row = wish.lane.cold_row(wish.row.first)
        if row == wish.row:
            return True
        if row is not None:
            self.want(wish.lane)
        return False

    def _find(self, payload: bytes, wishes: list[_Wish], large_body: bytes | None) -> None:
        """Make the copies that are wished for."""
        by_queue: dict[int, list[_Wish]] = {}
        for wish in wishes:
            by_queue.setdefault(wish.lane.queue.id, []).append(wish)
        for record_type, start, end in iter_records(payload):
            if record_type not in HOLDS_MESSAGE:
                continue
            sequence, count, queue_id = records.peek_publish(payload, start)
            if count == 1:
                wished = by_queue.get(queue_id)
                if wished is None:
                    continue
            else:
                ids = records.queue_ids_at(payload, start, count)
                wished = [wish for queue_id in ids for wish in by_queue.get(queue_id, ())]
            wished = [wish for wish in wished if wish.wants(sequence)]
            if wished:
                self._make_copies(payload[start:end], wished, count > 1, large_body)

    def _make_copies(self, record: bytes, wished: list[_Wish], is_shared: bool, body: bytes | None) -> None:
        publish = records.unpack_publish(record)
        message = self._shared.get(publish.sequence) if is_shared else None
        if message is None:
            message = make_message(publish, body)
            if is_shared:
                self._shared[publish.sequence] = message
        for wish in wished:
            if wish.lane.queue.priority_of(message.facts) == wish.lane.priority:
                wish.take(message)

    def _hand_over(self, blob: StoredBlob | None, wishes: list[_Wish]) -> None:
        counters = self._counters
        counters.blobs_read += 1
        for wish in wishes:
            lane, row, copies = wish.lane, wish.row, wish.copies
            if len(copies) < wish.copies_max or (len(copies) < row.live and wish.last == row.last):
                raise Corrupt(f"{row.live} messages of {lane.queue} must be there, {len(copies)} are")
            counters.window_misses += lane.is_waited_for
            lane.admit(row, blob, copies, wish.last)
            counters.copies_read += len(copies)
            self._windows.weigh(lane)
        for queue in {wish.lane.queue: None for wish in wishes}:
            queue.was_read()  # last of all, for who waits may do anything
        for lane in {wish.lane: None for wish in wishes if not wish.is_of_head}:
            self._windows.fit(lane)  # of what was read, perhaps little has expired
            lane.queue.has_grown = True  # and of what was spilled


def make_message(publish: "PublishRecord", large_body: bytes | None) -> Message:
    """The message of a record; the body of a LARGE one is given apart."""
    return Message(
        publish.sequence,
        publish.published_at,
        publish.exchange,
        publish.routing_key,
        publish.properties,
        read_facts(publish.properties),
        publish.body if large_body is None else large_body,
    )


async def _join_parts(engine: LogEngine, group: int, parts: range) -> bytes:
    """The body of a large message."""
    pieces: list[bytes] = []
    for at in range(0, len(parts), BLOBS_AT_ONCE):
        some = parts[at : at + BLOBS_AT_ONCE]
        for position, data in zip(
            some, await engine.read_many(group, [Position(position) for position in some]), strict=True
        ):
            if data is None:
                raise Corrupt(f"the blob at position {position} with a part of its body is missing")
            payload = decode_blob(data).payload
            for record_type, start, end in iter_records(payload):
                if record_type != RecordType.PART:
                    raise Corrupt(f"the blob at position {position} is not a part of its body")
                pieces.append(payload[start:end])
    return b"".join(pieces)
