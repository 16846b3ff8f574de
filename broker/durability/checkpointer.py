"""When and how checkpoints are made: a little of one after each `Journal.take`, so that nobody waits for it.

Right after a take the memory is what the log says up to the end of that batch. At the first take the topology
and the producers are copied; then, for some milliseconds after each, blobs and queues are added. When all are
in and the batch of the last of them is durable, the checkpoint is written, blobs without live copies are
dropped, and the cleaner has a look.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leveret.storage import failpoints
from leveret.storage.engine import LogEngine, Position

from .checkpoint import Checkpoint
from .log import LogTail

if TYPE_CHECKING:
    from ..broker import Broker
    from .blobs import StoredBlob

log = logging.getLogger(__name__)

SLICE_S = 0.002  # of the loop's time after a take
STEP_BLOBS = 1000
LOG_PER_CHECKPOINT = 4  # a large checkpoint is made when the log has grown to so many times its size


class Checkpointer:
    """One per broker; the committer calls it."""

    def __init__(self, engine: LogEngine, broker: "Broker", tail: LogTail, every_bytes: int) -> None:
        self._engine = engine
        self._broker = broker
        self._tail = tail
        self._every_bytes = every_bytes
        self._grown_bytes = 0  # since the last one was begun
        self._last_size = 0
        self._checkpoint: Checkpoint | None = None
        self._steps: Iterator[None] | None = None
        self._dead: list[StoredBlob] = []
        self._begun_at_s = 0.0

    def wrote(self, size: int) -> None:
        """The log has grown."""
        self._grown_bytes += size

    @property
    def worth_bytes(self) -> int:
        """If the log has grown by so much, or there is so much to drop, one is worth the writing."""
        return max(self._every_bytes, self._last_size * LOG_PER_CHECKPOINT)

    @property
    def is_due(self) -> bool:
        return max(self._grown_bytes, self._broker.journal.blobs.dead_size) >= self.worth_bytes

    @property
    def is_walking(self) -> bool:
        """Whether the next take is needed to go on."""
        return self._steps is not None

    @property
    def is_complete(self) -> bool:
        """Whether there is one to be written, as soon as the last batch taken is durable."""
        return self._checkpoint is not None and self._steps is None

    def begin(self) -> None:
        """Right after a take, encoded already: topology and producers as they are now."""
        broker, tail = self._broker, self._tail
        blobs = broker.journal.blobs
        self._grown_bytes = 0
        self._begun_at_s = broker.clock.monotonic_s()
        self._checkpoint = Checkpoint(
            position=tail.position,
            last_sequence=broker.last_sequence,
            last_queue_id=broker.last_queue_id,
            chain_hash=tail.chain_hash,
            topology=[record for vhost in broker.vhosts.values() for record in vhost.snapshot()],
            producers=list(broker.producers.images()),
        )
        # What is dead by now is in no image that follows.
        self._dead = list(blobs.dead)
        self._steps = self._walk(self._checkpoint)

    def go_on(self, *, to_the_end: bool = False) -> None:
        """Right after a take, encoded already: add as much as there is time for."""
        assert self._steps is not None
        clock = self._broker.clock
        started_s = clock.monotonic_s()
        for _ in self._steps:
            if not to_the_end and clock.monotonic_s() - started_s > SLICE_S:
                return
        self._steps = None

    def _walk(self, checkpoint: Checkpoint) -> Iterator[None]:
        broker = self._broker
        # The lists are of this instant; what comes later is in the log after the checkpoint.
        queues = [
            queue for vhost in broker.vhosts.values() for queue in vhost.queues.values() if queue.durable
        ]
        blobs = list(broker.journal.blobs)
        for at in range(0, len(blobs), STEP_BLOBS):
            for blob in blobs[at : at + STEP_BLOBS]:
                checkpoint.add_blob(blob)
            yield
        for queue in queues:
            if not queue.is_deleted:
                checkpoint.add_queue(queue, self._tail.position)
            yield

    async def write(self) -> None:
        """All up to the end of the last image is durable: make it the checkpoint, drop what is dead."""
        checkpoint, dead = self._checkpoint, self._dead
        assert checkpoint is not None
        self._dead = []
        tail = self._tail
        if not tail.position:
            self._checkpoint = None
            return  # nothing was ever written
        packed = checkpoint.pack()
        size = self._last_size = sum(map(len, packed))
        await self._engine.checkpoint(tail.group, tail.epoch, Position(checkpoint.position), packed)
        self._count(size)
        blobs = self._broker.journal.blobs
        positions = [Position(position) for blob in dead for position in blob.positions]
        await self._engine.drop(tail.group, tail.epoch, positions)
        for blob in dead:
            blobs.remove(blob)
        self._broker.counters.blobs_dropped += len(dead)
        self._checkpoint = None
        if failpoints.armed:
            failpoints.hit("after_checkpoint")
        log.debug("checkpoint at %d: %d bytes, %d blobs dropped", checkpoint.position, size, len(dead))

    def _count(self, size: int) -> None:
        counters, latest, clock = self._broker.counters, self._broker.latest, self._broker.clock
        counters.checkpoints += 1
        counters.checkpointed_bytes += size
        counters.checkpoint_seconds.observe(clock.monotonic_s() - self._begun_at_s)
        latest.checkpoint_bytes = size
        latest.checkpoint_at_s = clock.now_ms() / 1000
