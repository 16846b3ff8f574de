"""Spills: writes what only the memory has of long backlogs, transient messages, to files beside the log.

Nothing of it is durable or recovered. It is packed as in the log, but by lane, so that a lane reads back its
own; what lies in several lanes is written once. Copies stay in memory until their blob is written, and leave
it then, if nobody took them meanwhile.

When the disk is full or fails, messages stay in memory, and the memory alarm holds publishers up.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter

from leveret.storage.blob import CHAIN_START, encode_blob
from leveret.storage.engine import EngineError
from leveret.storage.spill import Spill

from ..alarms import Alarms
from ..message import Message, QueuedMessage
from ..queues.lane import Lane
from ..queues.windows import Windows
from . import records
from .spilled import SpilledBlob, SpilledBlobs

log = logging.getLogger(__name__)

BLOB_BYTES = 256 * 1024  # a larger message has a blob of its own
AT_ONCE_BYTES = 2 * 1024 * 1024  # of memory: to pack that takes some milliseconds
BEHIND_BYTES = 48 * 1024 * 1024  # in all windows: above it publishers wait for the spiller
RETRY_S = 5.0  # after a failure
HOLD_MAX_S = 1.0  # by then it may long have caught up
LOOK_MAX = 100  # lanes that are looked at before each read
INTAKE_BYTES_PER_S = 16 * 1024 * 1024
"""Of all publishers together, while queues that have consumers are spilled.

What goes over the disk costs five times as much of the loop as what does not. Publishers that do not wait for
confirms would use it up, and their consumers never catch up: one that had slept for a second then got 10,000
to 26,000 messages of 1 KiB a second, and gets 134,000 to 190,000 at this pace.
"""

Contents = tuple[bytes, list[QueuedMessage]]
"""Of a blob: its payload, and the copies that lie in it, those of each lane in order."""


class Spiller:
    """One per broker; `run` is its task."""

    def __init__(self, spill: Spill, windows: Windows, alarms: Alarms) -> None:
        self._wakeup = asyncio.Event()
        self.blobs = SpilledBlobs(spill, self._wakeup.set)
        self._windows = windows
        self._alarms = alarms
        self._lanes: dict[Lane, None] = {}  # that may have too much in memory
        self._waiting: list[Callable[[], None]] = []
        self._is_failing = False
        self._intake_free_at_s = 0.0  # by then all publishers have waited for what they sent

    def look_at(self, lane: Lane) -> None:
        """The lane has grown by copies that are in memory only, or were given back."""
        if self._windows.has_too_much(lane):
            self._lanes[lane] = None
            self._wakeup.set()

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to be written."""
        return bool(self._lanes)

    @property
    def is_behind(self) -> bool:
        """Whether it cannot keep up with the publishers. A disk that fails is no reason for them to wait."""
        return bool(self._lanes) and self._windows.total > BEHIND_BYTES and not self._is_failing

    def hold_s(self, size: int, now_s: float) -> float:
        """For how long not to read on from a peer that has sent so many bytes; by the loop's time."""
        lanes = islice(self._lanes, LOOK_MAX)
        if self._is_failing or not any(lane.queue.consumer_count for lane in lanes):
            return 0.0
        self._intake_free_at_s = max(self._intake_free_at_s, now_s) + size / INTAKE_BYTES_PER_S
        return min(self._intake_free_at_s - now_s, HOLD_MAX_S)

    def when_caught_up(self, callback: Callable[[], None]) -> None:
        """Call back once, when it is not behind any more."""
        self._waiting.append(callback)

    async def run(self) -> None:
        """Spill until cancelled."""
        while True:
            await self._wakeup.wait()
            while self._lanes or self.blobs.is_releasing:
                self.blobs.release_more()
                await self.spill()
                if self._is_failing:
                    await asyncio.sleep(RETRY_S)
            self._wakeup.clear()

    async def spill(self) -> None:
        """Write some of what there is too much of, once the log's part of it is let go of."""
        for lane in list(self._lanes):
            while self._windows.fit(lane):  # noqa: ASYNC110 # it gives way, it waits for nothing
                await asyncio.sleep(0)
        contents = list(_pack(self._collect()))
        self._alarms.wrote(sum(len(payload) for payload, _ in contents))
        answers = await asyncio.gather(*(self._write(payload) for payload, _ in contents))
        for (_, copies), blob in zip(contents, answers, strict=True):
            if isinstance(blob, SpilledBlob):
                self._hand_over(blob, copies)
        self._note_failure(next((answer for answer in answers if isinstance(answer, EngineError)), None))
        if not self.is_behind:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def _collect(self) -> list[QueuedMessage]:
        """Copies that had better not be in memory. Their lanes are looked at again after this."""
        found: list[QueuedMessage] = []
        more: dict[Lane, None] = {}
        room = AT_ONCE_BYTES
        while self._lanes and room > 0:
            lane = next(iter(self._lanes))
            del self._lanes[lane]
            if not self._windows.has_too_much(lane):
                continue
            copies, size = lane.spillable(self._windows.keep_bytes, room)
            room -= size
            found += copies
            if copies:
                more[lane] = None
        self._lanes |= more
        return found

    async def _write(self, payload: bytes) -> SpilledBlob | EngineError:
        try:
            return await self.blobs.write(encode_blob(0, 0, 0, CHAIN_START, payload))
        except EngineError as error:
            return error

    def _hand_over(self, blob: SpilledBlob, copies: Iterable[QueuedMessage]) -> None:
        by_lane: dict[Lane, list[QueuedMessage]] = {}
        for copy in copies:
            by_lane.setdefault(copy.lane, []).append(copy)
        for lane, its_copies in by_lane.items():
            lane.spill(its_copies, blob)
            self._windows.weigh(lane)
        if not blob.live_copies:
            self.blobs.drop(blob)

    def _note_failure(self, error: EngineError | None) -> None:
        if error is not None and not self._is_failing:
            log.warning("the transient messages of long backlogs stay in memory: %s", error)
        elif error is None and self._is_failing:
            log.warning("the transient messages of long backlogs go to the disk again")
        self._is_failing = error is not None


def _pack(copies: Iterable[QueuedMessage]) -> Iterator[Contents]:
    """What lies in several lanes goes by sequence, everything else by lane: each lane's order holds."""
    by_message: dict[Message, list[QueuedMessage]] = {}
    for copy in copies:
        by_message.setdefault(copy.message, []).append(copy)
    shared = [message for message, its_copies in by_message.items() if len(its_copies) > 1]
    shared.sort(key=attrgetter("sequence"))
    yield from _fill([by_message.pop(message) for message in shared])
    yield from _fill(by_message.values())


def _fill(messages: Iterable[Sequence[QueuedMessage]]) -> Iterator[Contents]:
    """One after the other into blobs. Of each message there are its copies."""
    pieces: list[bytes] = []
    packed: list[QueuedMessage] = []
    size = 0
    for copies in messages:
        message = copies[0].message
        head, body = records.pack_publish(
            message.sequence,
            message.published_at,
            [copy.queue.id for copy in copies],
            message.exchange,
            message.routing_key,
            message.properties,
            message.body,
        )
        if packed and size + len(head) + len(body) > BLOB_BYTES:
            yield b"".join(pieces), packed
            pieces, packed, size = [], [], 0
        pieces += (head, body)
        packed += copies
        size += len(head) + len(body)
    if packed:
        yield b"".join(pieces), packed
