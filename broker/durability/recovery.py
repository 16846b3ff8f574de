"""Recovery: the durable state of the broker, rebuilt from the last checkpoint and the blobs after it.

Up to the checkpoint's position only publishes are read, and only of copies that the checkpoint says are
alive; after it every record is applied in order. Nothing is guessed: a blob that is missing, changed or out
of its chain, a live copy without its message, a record of an unknown kind raise `Corrupt` with what is wrong
and where.
"""

import logging
import struct
from dataclasses import dataclass, field

from leveret.protocol.amqp.properties import read_facts
from leveret.protocol.errors import AmqpError
from leveret.storage.blob import CHAIN_START, Blob, chain_hash, decode_blob, iter_records
from leveret.storage.engine import BEGINNING, Corrupt, Lease, LogEngine, Position

from ..broker import Broker
from ..message import Message
from ..queues.queue import Queue
from . import records
from .checkpoint import Checkpoint
from .committer import LogTail
from .journal import StoredBlob
from .records import PublishRecord, RecordType

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Copy:
    """A live copy while records are applied."""

    message: Message
    blob: StoredBlob
    redelivered: bool = False
    delivery_count: int = 0


@dataclass(slots=True)
class _QueueState:
    """A durable queue while records are applied."""

    queue: Queue
    copies: dict[int, _Copy] = field(default_factory=dict)
    """By sequence."""
    expected: set[int] = field(default_factory=set)
    """Sequences of the live copies that the checkpoint names, while blobs up to it are read."""


class _Fold:
    """Applies a checkpoint and then records to the broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queues: dict[int, _QueueState] = {}

    def apply_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.broker.last_sequence = checkpoint.last_sequence
        self.broker.last_queue_id = checkpoint.last_queue_id
        for packed in checkpoint.topology:
            self._topology(records.unpack_map(packed))
        for image in checkpoint.queues:
            state = self._state(image.queue_id)
            state.queue.delivering = image.delivering
            state.expected = set(image.sequences)

    def read_live(self, blob: Blob, stored: StoredBlob) -> None:
        """A blob at or below the checkpoint: only its live messages matter."""
        for record_type, start, end in iter_records(blob.payload):
            if record_type == RecordType.PUBLISH:
                publish = _unpack_publish(blob.payload[start:end])
                self._add(publish, stored, only_expected=True)

    def finish_checkpoint(self, checkpoint: Checkpoint) -> None:
        """All blobs up to the checkpoint were read: every live copy must have been found."""
        for image in checkpoint.queues:
            state = self.queues[image.queue_id]
            missing = [sequence for sequence in image.sequences if sequence not in state.copies]
            if missing:
                raise Corrupt(
                    f"{len(missing)} messages of {state.queue} are gone from the log, "
                    f"the first is number {missing[0]}"
                )
            state.expected = set()
            for sequence in image.redelivered:
                state.copies[sequence].redelivered = True
            for sequence, count in image.delivery_counts.items():
                state.copies[sequence].delivery_count = count

    def apply(self, blob: Blob, stored: StoredBlob) -> None:
        """A blob after the checkpoint: every record counts."""
        for record_type, start, end in iter_records(blob.payload):
            record = blob.payload[start:end]
            try:
                self._apply_record(record_type, record, stored)
            except (struct.error, ValueError, KeyError, IndexError, TypeError, AmqpError) as error:
                raise Corrupt(
                    f"the record at byte {start} of the payload cannot be applied: {error!r}"
                ) from error

    def _apply_record(self, record_type: int, record: bytes, stored: StoredBlob) -> None:
        if record_type == RecordType.PUBLISH:
            self._add(records.unpack_publish(record), stored, only_expected=False)
        elif record_type == RecordType.SETTLE:
            queue_id, sequences = records.unpack_settle(record)
            state = self.queues.get(queue_id)
            if state is not None:  # else the queue was deleted in the same batch, before its settles
                for sequence in sequences:
                    state.copies.pop(sequence, None)
        elif record_type == RecordType.REQUEUE:
            self._requeue(*records.unpack_requeue(record))
        elif record_type == RecordType.DELIVERING:
            queue_id, delivering = records.unpack_delivering(record)
            state = self.queues.get(queue_id)
            if state is not None:
                state.queue.delivering = delivering
        elif record_type == RecordType.TOPOLOGY:
            self._topology(records.unpack_map(record))
        else:
            raise ValueError(f"unknown record type {record_type}")

    def _add(self, publish: PublishRecord, stored: StoredBlob, *, only_expected: bool) -> None:
        states = [self.queues[queue_id] for queue_id in publish.queue_ids if queue_id in self.queues]
        if only_expected:
            states = [state for state in states if publish.sequence in state.expected]
        self.broker.last_sequence = max(self.broker.last_sequence, publish.sequence)
        if not states:
            return
        message = Message(
            publish.sequence,
            publish.published_at,
            publish.exchange,
            publish.routing_key,
            publish.properties,
            read_facts(publish.properties),
            publish.body,
        )
        message.blob = stored
        for state in states:
            state.copies[publish.sequence] = _Copy(message, stored)

    def _requeue(self, queue_id: int, copies: list[tuple[int, int]]) -> None:
        state = self.queues.get(queue_id)
        if state is None:
            return
        for sequence, delivery_count in copies:
            copy = state.copies.get(sequence)
            if copy is not None:
                copy.redelivered = True
                copy.delivery_count = delivery_count

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

    def _state(self, queue_id: int) -> _QueueState:
        state = self.queues.get(queue_id)
        if state is None:
            raise Corrupt(
                f"the checkpoint names messages of queue number {queue_id}, which its topology lacks"
            )
        return state

    def fill_queues(self) -> int:
        """Hand the surviving copies to their queues, in order. Returns how many there are."""
        total = 0
        for state in self.queues.values():
            queue = state.queue
            for sequence in sorted(state.copies):
                copy = state.copies[sequence]
                # A copy of a queue that was delivering may have been with a consumer when the process died.
                redelivered = copy.redelivered or queue.delivering
                restored = queue.restore(copy.message, redelivered, copy.delivery_count)
                restored.is_durable = True
                copy.blob.live_copies += 1
                total += 1
        return total


async def recover(engine: LogEngine, group: int, lease: Lease, broker: Broker) -> LogTail:
    """Rebuild the broker's durable state. Raises Corrupt rather than leaving anything out."""
    found = await engine.last_checkpoint(group)
    fold = _Fold(broker)
    checkpoint: Checkpoint | None = None
    position = BEGINNING
    chain = CHAIN_START
    live: set[int] = set()
    if found is not None:
        position, data = found
        checkpoint = Checkpoint.unpack(data)
        chain = checkpoint.chain_hash
        live = set(checkpoint.blobs)
        fold.apply_checkpoint(checkpoint)
    blobs: dict[Position, StoredBlob] = {}
    expected = position + 1
    async for at, data in engine.read(group, BEGINNING):
        stored = blobs[at] = StoredBlob(at)
        try:
            if at <= position:
                if at in live:
                    live.discard(at)
                    fold.read_live(decode_blob(data), stored)
                continue
            if checkpoint is not None:
                _finish(fold, checkpoint, live)
                checkpoint = None
            if at != expected:
                raise Corrupt(f"the log goes on at position {at} instead of {expected}")
            blob = decode_blob(data)
            if blob.previous != chain:
                raise Corrupt("it does not continue the blob before it: a blob was lost or exchanged")
            chain = chain_hash(data)
            expected = at + 1
            fold.apply(blob, stored)
        except Corrupt as error:
            raise Corrupt(f"log of group {group}, position {at}: {error}") from error
    if checkpoint is not None:
        _finish(fold, checkpoint, live)
    if expected != lease.fence + 1:
        raise Corrupt(
            f"log of group {group}: it ends at position {expected - 1}, but {lease.fence} was acknowledged"
        )
    messages = fold.fill_queues()
    log.info("recovered %d queues and %d messages from %d blobs", len(fold.queues), messages, len(blobs))
    return LogTail(group, lease.epoch, 1, chain, blobs)


def _finish(fold: _Fold, checkpoint: Checkpoint, missing_blobs: set[int]) -> None:
    if missing_blobs:
        raise Corrupt(f"the blob at position {min(missing_blobs)}, which holds live messages, is missing")
    fold.finish_checkpoint(checkpoint)


def _unpack_publish(record: bytes) -> PublishRecord:
    try:
        return records.unpack_publish(record)
    except (struct.error, ValueError, IndexError) as error:
        raise Corrupt(f"a publish record cannot be read: {error!r}") from error
