"""The second half of `leveret check`: what blobs and the checkpoint mean, and whether they fit together.

The first half (`storage/check.py`) sees that the bytes are those that were written. Here the durable state is
folded as recovery does it, from the checkpoint and the blobs after it; then every record of the log is
decoded, and every run of messages that a queue has must find just its live copies in its blob.

The log is read as a stream: in memory are one blob, the topology and the runs.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leveret.protocol.amqp.properties import read_facts
from leveret.storage.blob import CHAIN_START, iter_records
from leveret.storage.check import CheckedLog
from leveret.storage.engine import Corrupt
from leveret.storage.memory_spill import MemorySpill

from ..broker import Broker
from ..clock import SystemClock
from ..queues.queue import Queue
from ..queues.runs import NEVER, Row, RunTable
from . import records
from .checkpoint import LoadedCheckpoint
from .journal import Journal
from .records import PublishRecord, RecordType
from .recovery import MALFORMED, Fold

LaneKey = tuple[int, int]
"""Queue id and priority."""

Copies = defaultdict[LaneKey, list[tuple[int, int]]]
"""What a blob holds: sequence and size of the body of each copy."""


@dataclass(slots=True)
class _Lane:
    """What a lane must hold, and what was found of it."""

    queue: Queue
    table: RunTable
    body_bytes: int
    found_bytes: int = 0
    is_whole: bool = True
    """Whether all of it was found so far."""


def inspect(log: CheckedLog) -> None:
    """Add to the log's report what is wrong."""
    inspection = _Inspection(log)
    if inspection.fold():
        inspection.expect_runs()
    inspection.read_blobs()


class _Inspection:
    """Of one log."""

    def __init__(self, log: CheckedLog) -> None:
        self._log = log
        self._fold = Fold(_make_broker())
        self._lanes: dict[LaneKey, _Lane] = {}
        # (position of the blob, lane, first sequence) of what is still to be found, rising.
        self._runs: deque[tuple[int, LaneKey, int]] = deque()
        self._part_sizes: dict[int, int] = {}  # by position, until the large message comes
        self._reported: set[int] = set()  # positions of blobs that the report has already

    def fold(self) -> bool:
        """Whether it is known now what the queues hold."""
        log = self._log
        last, chain = log.checkpoint_position, CHAIN_START
        if log.checkpoint is not None:
            try:
                chain = self._apply_checkpoint(log.checkpoint)
            except Corrupt as error:
                self._complain(last, str(error))
                return False
        elif last:
            return False  # it is damaged
        for position, blob in log.tail:
            try:
                if position == log.checkpoint_position + 1 and blob.previous != chain:
                    raise Corrupt("it does not continue the blob that the checkpoint ends with")
                self._fold.apply(blob, position)
            except Corrupt as error:
                self._complain(position, str(error))
                self._reported.add(position)
                return False
            last = position
        return last == log.end

    def _apply_checkpoint(self, data: bytes) -> bytes:
        """Returns the chain hash that the next blob must have as its previous one."""
        loaded = LoadedCheckpoint.unpack(data)
        position = loaded.checkpoint.position
        if position != self._log.checkpoint_position:
            raise Corrupt(f"the checkpoint says that it is of position {position}")
        for _ in self._fold.apply_checkpoint(loaded):
            pass  # nobody else wants a turn
        return loaded.checkpoint.chain_hash

    def expect_runs(self) -> None:
        """Take down what must be found where."""
        runs = []
        for queue_id, state in self._fold.queues.items():
            for priority, lane in state.lanes.items():
                key = (queue_id, priority)
                self._lanes[key] = _Lane(state.queue, lane.table, lane.body_bytes)
                runs += [(row.position, key, row.first) for row in lane.table]
        self._runs.extend(sorted(runs))

    def read_blobs(self) -> None:
        """Decode everything, and find the runs."""
        for position, blob in self._log.blobs:
            self._miss_runs(position)
            rows = self._take_runs(position)
            if blob is not None:
                self._read_blob(position, blob.payload, rows)
            else:
                self._reported.add(position)
                for key, _ in rows:
                    self._lanes[key].is_whole = False
        self._miss_runs(NEVER)
        for lane in self._lanes.values():
            if lane.is_whole and lane.found_bytes != lane.body_bytes:
                self._log.report.add(
                    f"group {self._log.group}: {lane.queue} counts {lane.body_bytes} bytes of bodies, "
                    f"but its messages have {lane.found_bytes}"
                )

    def _miss_runs(self, upto: int) -> None:
        """Whatever was to be found before this position was not."""
        while self._runs and self._runs[0][0] < upto:
            position, key, first = self._runs.popleft()
            lane = self._lanes[key]
            lane.is_whole = False
            row = lane.table.get(first)
            assert row is not None
            self._complain(position, f"the blob, which holds {row.live} messages of {lane.queue}, is missing")

    def _take_runs(self, position: int) -> list[tuple[LaneKey, Row]]:
        rows = []
        while self._runs and self._runs[0][0] == position:
            _, key, first = self._runs.popleft()
            row = self._lanes[key].table.get(first)
            assert row is not None
            rows.append((key, row))
        return rows

    def _read_blob(self, position: int, payload: bytes, rows: list[tuple[LaneKey, Row]]) -> None:
        copies: Copies = defaultdict(list)
        for record_type, start, end in iter_records(payload):
            try:
                unpacked = _unpack(record_type, payload[start:end])
                if isinstance(unpacked, PublishRecord):
                    self._take_copies(unpacked, _body_bytes(record_type, unpacked), copies)
            except MALFORMED as error:
                if position not in self._reported:
                    self._complain(
                        position, f"the record at byte {start} of the payload cannot be read: {error!r}"
                    )
                continue
            if record_type == RecordType.PART:
                self._part_sizes[position] = end - start
            elif record_type == RecordType.LARGE and rows:
                self._find_parts(position, records.unpack_publish(payload[start:end]))
        for key, row in rows:
            self._compare(position, self._lanes[key], row, copies[key])

    def _take_copies(self, publish: PublishRecord, body_bytes: int, copies: Copies) -> None:
        facts = read_facts(publish.properties)
        for queue_id in publish.queue_ids:
            state = self._fold.queues.get(queue_id)
            if state is not None:
                key = (queue_id, state.queue.priority_of(facts))
                copies[key].append((publish.sequence, body_bytes))

    def _find_parts(self, position: int, publish: PublishRecord) -> None:
        """The pieces of a large message's body lie in the blobs before its own."""
        first, count, size = records.unpack_large_body(publish.body)
        if self._fold.parts.get(position) != range(first, first + count):
            self._complain(position, "the checkpoint names other parts of its large message than it does")
        found = 0
        for part in range(first, first + count):
            part_size = self._part_sizes.pop(part, None)
            if part_size is not None:
                found += part_size
            elif part in self._reported:
                return
            else:
                self._complain(position, f"the part at position {part} of its large message is missing")
                return
        if found != size:
            self._complain(position, f"the parts of its large message have {found} bytes instead of {size}")

    def _compare(self, position: int, lane: _Lane, row: Row, copies: list[tuple[int, int]]) -> None:
        found = [
            body_bytes
            for sequence, body_bytes in copies
            if row.first <= sequence <= row.last and not row.gone >> (sequence - row.first) & 1
        ]
        lane.found_bytes += sum(found)
        if len(found) != row.live:
            lane.is_whole = False
            self._complain(
                position,
                f"{row.live} messages of {lane.queue} must be there, of number {row.first} to {row.last}, "
                f"but {len(found)} are",
            )

    def _complain(self, position: int, finding: str) -> None:
        self._log.report.add(f"group {self._log.group}, position {position}: {finding}")


def _unpack(record_type: int, record: bytes) -> object:
    """Raises one of MALFORMED."""
    unpack = _UNPACK.get(record_type)
    if unpack is None:
        raise ValueError(f"unknown record type {record_type}")
    return unpack(record)


def _unpack_change(record: bytes) -> object:
    change = records.unpack_map(record)
    return change["op"], change["vhost"]


_UNPACK: Mapping[int, Callable[[bytes], object]] = {
    RecordType.PUBLISH: records.unpack_publish,
    RecordType.MOVED: records.unpack_publish,
    RecordType.LARGE: records.unpack_publish,
    RecordType.PART: bytes,
    RecordType.SETTLE: records.unpack_settle,
    RecordType.PURGE: records.unpack_purge,
    RecordType.REQUEUE: records.unpack_requeue,
    RecordType.DELIVERING: records.unpack_delivering,
    RecordType.TOPOLOGY: _unpack_change,
    RecordType.PRODUCER: records.unpack_producer,
}


def _body_bytes(record_type: int, publish: PublishRecord) -> int:
    if record_type == RecordType.LARGE:
        return records.unpack_large_body(publish.body)[2]
    return len(publish.body)


class _NoTimers:
    """Nothing expires while it is only looked at."""

    def call_at(self, when_ms: int, callback: Callable[[], None]) -> "_NoTimers":
        return self

    def cancel(self) -> None:
        """There is nothing to cancel."""


def _make_broker() -> Broker:
    """One to fold a log into, which nobody uses."""
    return Broker(
        clock=SystemClock(),
        timers=_NoTimers(),
        journal=Journal(blob_max_bytes=0),
        spill=MemorySpill(),
        schedule=lambda _: None,
        kick_committer=lambda: None,
    )
