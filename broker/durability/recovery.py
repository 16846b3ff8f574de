"""Recovery: the durable state of the broker, rebuilt from the last checkpoint and the blobs after it.

No message is brought into memory: queues get the runs of what they hold (`queues/runs.py`). Up to the
checkpoint's position no blob is read, it only must be there; after it every record is applied in order.
Nothing is guessed: a blob that is missing, changed or out of its chain, a record of an unknown kind raise
`Corrupt` with what is wrong and where. What is wrong inside a blob below the checkpoint shows when it is
read, in the same way.
"""

import asyncio
import logging
import struct
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from leveret.protocol.amqp.properties import read_facts
from leveret.protocol.errors import AmqpError
from leveret.storage import failpoints
from leveret.storage.blob import CHAIN_START, Blob, chain_hash, decode_blob, iter_records
from leveret.storage.engine import BEGINNING, Corrupt, Lease, LogEngine, Position

from ..broker import Broker
from ..channels.producers import Producer, ProducerKey, TagRun
from ..queues.queue import Queue
from ..queues.runs import NEVER, RunTable, keep_live
from . import records
from .blobs import StoredBlob
from .checkpoint import STEP_QUEUES, LoadedCheckpoint, QueueImage
from .log import LogTail
from .records import PublishRecord, RecordType

log = logging.getLogger(__name__)

STEP_BLOBS = 2000  # entered at once: 41,000 took 140 ms in which nobody got a /healthz
STEP_ROWS = 20_000  # counted at once

T = TypeVar("T")

# What comes of applying bytes that mean nothing.
MALFORMED = (struct.error, ValueError, LookupError, TypeError, AttributeError, AmqpError)


@dataclass(slots=True)
class _LaneState:
    """A lane while records are applied."""

    table: RunTable = field(default_factory=RunTable)
    body_bytes: int = 0


@dataclass(slots=True)
class _QueueState:
    """A durable queue while records are applied."""

    queue: Queue
    seen_up_to: int = 0
    """The position up to which its image in the checkpoint has seen everything."""
    lanes: dict[int, _LaneState] = field(default_factory=dict)
    """By priority."""

    def lane(self, priority: int) -> _LaneState:
        state = self.lanes.get(priority)
        if state is None:
            state = self.lanes[priority] = _LaneState()
        return state


class Fold:
    """Applies a checkpoint and then records to the broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queues: dict[int, _QueueState] = {}
        self.copies: dict[int, int] = {}  # published ones, by the position of their blob
        self.parts: dict[int, range] = {}  # of large messages, likewise
        self.producers: dict[ProducerKey, Producer] = {}
        self.records = 0  # that were applied
        self._position = 0  # of the blob that is being applied

    def apply_checkpoint(self, loaded: LoadedCheckpoint) -> Generator[None, None, None]:
        """Step by step. Raises Corrupt."""
        try:
            yield from self._apply_checkpoint(loaded)
        except MALFORMED as error:
            raise Corrupt(f"the checkpoint cannot be applied: {error!r}") from error

    def _apply_checkpoint(self, loaded: LoadedCheckpoint) -> Generator[None, None, None]:
        checkpoint = loaded.checkpoint
        self.broker.last_sequence = checkpoint.last_sequence
        self.broker.last_queue_id = checkpoint.last_queue_id
        for number, packed in enumerate(checkpoint.topology, 1):
            self._topology(records.unpack_map(packed))
            if number % STEP_QUEUES == 0:
                yield
        for producer in checkpoint.producers:
            self.producers[producer.key] = Producer.from_image(producer)
        for number, image in enumerate(loaded.queues, 1):
            self._apply_image(image)
            if number % STEP_QUEUES == 0:
                yield
        self.copies.update(loaded.blob_copies())
        for position, (first, count) in checkpoint.parts.items():
            self.parts[position] = range(first, first + count)

    def _apply_image(self, image: QueueImage) -> None:
        state = self.queues.get(image.queue_id)
        if state is None:
            raise Corrupt(
                f"the checkpoint names messages of queue number {image.queue_id}, which its topology lacks"
            )
        state.seen_up_to = image.position
        state.queue.delivering = image.delivering
        state.queue.redelivered_up_to = image.redelivered_up_to
        state.queue.returned = image.returned
        for lane in image.lanes:
            state.lanes[lane.priority] = _LaneState(lane.table, lane.body_bytes)

    def apply(self, blob: Blob, position: int) -> None:
        """A blob after the checkpoint: every record counts."""
        self._position = position
        for record_type, start, end in iter_records(blob.payload):
            self.records += 1
            record = blob.payload[start:end]
            try:
                self._apply_record(record_type, record)
            except MALFORMED as error:
                raise Corrupt(
                    f"the record at byte {start} of the payload cannot be applied: {error!r}"
                ) from error

    def _apply_record(self, record_type: int, record: bytes) -> None:
        match record_type:
            case RecordType.PUBLISH:
                publish = records.unpack_publish(record)
                self._publish(publish, len(publish.body))
            case RecordType.LARGE:
                publish = records.unpack_publish(record)
                first, count, size = records.unpack_large_body(publish.body)
                self.parts[self._position] = range(first, first + count)
                self._publish(publish, size)
            case RecordType.SETTLE:
                self._settle(record)
            case RecordType.PURGE:
                self._purge(record)
            case RecordType.MOVED:
                self._move(records.unpack_publish(record))
            case RecordType.REQUEUE:
                self._requeue(record)
            case RecordType.DELIVERING:
                queue_id, delivering = records.unpack_delivering(record)
                state = self._state(queue_id)
                if state is not None:
                    state.queue.delivering = delivering
            case RecordType.TOPOLOGY:
                self._topology(records.unpack_map(record))
            case RecordType.PRODUCER:
                self._producer(*records.unpack_producer(record))
            case RecordType.PART:
                pass  # what it belongs to follows, or was never confirmed
            case _:
                raise ValueError(f"unknown record type {record_type}")

    def _state(self, queue_id: int) -> _QueueState | None:
        """The queue, if it exists still and its image has not seen this blob."""
        state = self.queues.get(queue_id)
        return None if state is None or state.seen_up_to >= self._position else state

    def _publish(self, publish: PublishRecord, body_bytes: int) -> None:
        self.broker.last_sequence = max(self.broker.last_sequence, publish.sequence)
        facts = read_facts(publish.properties)
        position = self._position
        for queue_id in publish.queue_ids:
            if queue_id in self.queues:
                self.copies[position] = self.copies.get(position, 0) + 1
            state = self._state(queue_id)
            if state is None:
                continue
            lane = state.lane(state.queue.priority_of(facts))
            expires_at = state.queue.expires_at(facts, publish.published_at)
            lane.table.publish(publish.sequence, position, NEVER if expires_at is None else expires_at)
            lane.body_bytes += body_bytes

    def _settle(self, record: bytes) -> None:
        queue_id, priority, body_bytes, sequences = records.unpack_settle(record)
        state = self._state(queue_id)
        if state is None:
            return
        lane = state.lane(priority)
        lane.body_bytes -= body_bytes
        returned = state.queue.returned
        for sequence in sequences:
            lane.table.settle(sequence)
            returned.pop(sequence, None)

    def _requeue(self, record: bytes) -> None:
        queue_id, copies = records.unpack_requeue(record)
        state = self._state(queue_id)
        if state is not None:
            state.queue.returned |= dict(copies)

    def _purge(self, record: bytes) -> None:
        queue_id, priority, body_bytes, stretches = records.unpack_purge(record)
        state = self._state(queue_id)
        if state is not None:
            lane = state.lane(priority)
            lane.body_bytes -= body_bytes
            for first, last, live in stretches:
                lane.table.purge(first, last, live)
            keep_live(state.queue.returned, [lane.table for lane in state.lanes.values()])

    def _move(self, publish: PublishRecord) -> None:
        position = self._position
        facts = read_facts(publish.properties)
        for queue_id in publish.queue_ids:
            if queue_id in self.queues:
                self.copies[position] = self.copies.get(position, 0) + 1
            state = self._state(queue_id)
            if state is not None:
                state.lane(state.queue.priority_of(facts)).table.move(publish.sequence, position)

    def _producer(self, vhost: str, id_: bytes, runs: list[tuple[int, int, bool]]) -> None:
        key = ProducerKey(vhost, id_)
        if not runs:
            self.producers.pop(key, None)
            return
        producer = self.producers.get(key)
        if producer is None:
            producer = self.producers[key] = Producer(key)
        for run in runs:
            producer.store(TagRun(*run))

    def _topology(self, change: dict[str, object]) -> None:
        vhost = self.broker.vhosts[str(change["vhost"])]
        if change["op"] == "queue_delete":
            queue = vhost.queues.get(str(change["name"]))
            if queue is not None:
                self.queues.pop(queue.id, None)
        vhost.restore(change)
        if change["op"] == "queue_declare":
            queue = vhost.queues[str(change["name"])]
            self.queues[queue.id] = _QueueState(queue)
            self.broker.last_queue_id = max(self.broker.last_queue_id, queue.id)

    def enter_blobs(self, sizes: dict[int, int]) -> Generator[None, None, None]:
        """Tell the journal what the log holds, and how much of it is alive, step by step. Raises Corrupt."""
        live: dict[int, int] = {}
        rows = 0
        for state in self.queues.values():
            for lane in state.lanes.values():
                rows += len(lane.table)
                if rows > STEP_ROWS:
                    rows = 0
                    yield
                for position, count in lane.table.live_by_position():
                    if position not in sizes:
                        raise Corrupt(
                            f"the blob at position {position}, which holds {count} messages of "
                            f"{state.queue}, is missing"
                        )
                    live[position] = live.get(position, 0) + count
        blobs = self.broker.journal.blobs
        pieces = {piece for position, parts in self.parts.items() if position in live for piece in parts}
        for number, (position, size) in enumerate(sizes.items()):
            if number % STEP_BLOBS == 0:
                yield
            if position in pieces:
                continue
            blob = StoredBlob(blobs, position)
            blob.live_copies = live.get(position, 0)
            blob.copies = max(self.copies.get(position, 0), blob.live_copies)
            blob.size = size
            if blob.live_copies:
                blob.parts = self.parts.get(position, blob.parts)
                if not sizes.keys() >= set(blob.parts):
                    raise Corrupt(
                        f"a part of the large message in the blob at position {position} is missing"
                    )
                blob.size += sum(sizes[part] for part in blob.parts)
            blobs.enter(blob)

    def fill_queues(self) -> Generator[None, None, int]:
        """Hand the runs to their queues, step by step. Returns how many messages there are."""
        total = 0
        for number, state in enumerate(self.queues.values(), 1):
            if number % STEP_QUEUES == 0:
                yield
            queue = state.queue
            if queue.delivering:
                # Any copy of it may have been with a consumer when the process died.
                queue.redelivered_up_to = self.broker.last_sequence
            for priority, lane in state.lanes.items():
                if len(lane.table):
                    queue.lane(priority).begin_cold(lane.table, lane.body_bytes)
                    total += lane.table.copies
            queue.recovered()
        return total


async def recover(engine: LogEngine, group: int, lease: Lease, broker: Broker) -> LogTail:
    """Rebuild the broker's durable state. Raises Corrupt rather than leaving anything out."""
    latest, clock = broker.latest, broker.clock
    started_s = clock.monotonic_s()
    fold = Fold(broker)
    position = BEGINNING
    chain = CHAIN_START
    found = await engine.last_checkpoint(group)
    if found is not None:
        position, data = found
        latest.checkpoint_bytes = len(data)
        loaded = await _by_steps(LoadedCheckpoint.unpack_by_steps(data))
        chain = loaded.checkpoint.chain_hash
        await _by_steps(fold.apply_checkpoint(loaded))
    chain = await _replay(engine, group, position, lease, fold, chain)
    await _by_steps(fold.enter_blobs(dict(await engine.blobs(group))))
    broker.producers.come_back(fold.producers.values())
    latest.recovery_messages = messages = await _by_steps(fold.fill_queues())
    latest.recovery_records = fold.records
    latest.recovery_s = clock.monotonic_s() - started_s
    blobs = broker.journal.blobs
    log.info("recovered %d queues and %d messages in %d blobs", len(fold.queues), messages, len(blobs))
    return LogTail(group, lease.epoch, lease.fence, 1, chain)


async def _by_steps(steps: Generator[None, None, T]) -> T:
    """Do it, giving way to others between the steps. Returns what it does."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


async def _replay(
    engine: LogEngine, group: int, after: Position, lease: Lease, fold: Fold, chain: bytes
) -> bytes:
    """Apply the blobs after the checkpoint; returns the chain hash of the last one."""
    latest = fold.broker.latest
    expected = after + 1
    async for at, data in engine.read(group, after):
        try:
            if at != expected:
                raise Corrupt(f"the log goes on at position {at} instead of {expected}")
            blob = decode_blob(data)
            if blob.previous != chain:
                raise Corrupt("it does not continue the blob before it: a blob was lost or exchanged")
            chain = chain_hash(data)
            expected = at + 1
            fold.apply(blob, at)
            latest.recovery_blobs += 1
            latest.recovery_bytes += len(data)
            if failpoints.armed:
                failpoints.hit("during_recovery")
        except Corrupt as error:
            raise Corrupt(f"log of group {group}, position {at}: {error}") from error
    if expected != lease.fence + 1:
        raise Corrupt(
            f"log of group {group}: it ends at position {expected - 1}, but {lease.fence} was acknowledged"
        )
    return chain
