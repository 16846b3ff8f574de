"""Group commit: takes what the journal has pending, makes it durable with one append, then lets it be
confirmed.

There is no timer: while one batch is on its way to the disk, the next one gathers. Every confirm goes this
way, also one that has nothing to store, so confirms never overtake each other. From time to time a batch is
followed by a checkpoint, after which blobs without live copies are dropped.

Any error of the engine is fatal: nothing of that batch is confirmed, `run` raises, the server ends the
process, and the next start recovers. After a failed fsync nobody knows what the disk holds, so a retry would
be a lie.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from leveret.storage.blob import chain_hash, encode_blob
from leveret.storage.engine import Append, EngineError, LogEngine, Position

from ..broker import Broker
from .checkpoint import Checkpoint, take_image
from .journal import Batch, StoredBlob

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LogTail:
    """Where the log ends: what the next blob continues. `recovery.recover` makes it, the committer moves it
    on.
    """

    group: int
    epoch: int
    idx: int
    """Of the next blob of this epoch."""
    chain_hash: bytes
    """Of the last blob."""
    blobs: dict[Position, StoredBlob]
    """All blobs of the log, rising."""


class Committer:
    """One per broker. Owns the log's tail; `run` is its one task."""

    def __init__(self, engine: LogEngine, broker: Broker, tail: LogTail, checkpoint_every_bytes: int) -> None:
        self._engine = engine
        self._broker = broker
        self._journal = broker.journal
        self._tail = tail
        self._checkpoint_every_bytes = checkpoint_every_bytes
        self._bytes_since_checkpoint = 0
        self._wakeup = asyncio.Event()
        self._closing = False

    @property
    def blobs(self) -> Collection[StoredBlob]:
        """What the log holds."""
        return self._tail.blobs.values()

    def kick(self) -> None:
        """The end of a turn: there may be something to commit."""
        if self._journal.has_pending:
            self._wakeup.set()

    async def run(self) -> None:
        """Commit until closed. Raises EngineError when a commit failed."""
        while not self._closing:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._journal.has_pending:
                await self.commit()

    def stop(self) -> None:
        """Let `run` end after the commit that is under way."""
        self._closing = True
        self._wakeup.set()

    async def finish(self) -> None:
        """After `run` has ended and nothing changes the domain any more: the last commit, and a checkpoint.

        The next start then has nothing to replay.
        """
        await self.commit(with_checkpoint=True)

    async def commit(self, with_checkpoint: bool = False) -> None:
        """One group commit of what is pending now."""
        batch = self._journal.take()
        items = self._encode(batch)
        with_checkpoint = with_checkpoint or self._bytes_since_checkpoint >= self._checkpoint_every_bytes
        pending = self._prepare_checkpoint(batch) if with_checkpoint else None
        if items:
            started_s = self._broker.clock.monotonic_s()
            positions = await self._append(items)
            counters = self._broker.counters
            counters.commit_seconds.observe(self._broker.clock.monotonic_s() - started_s)
            counters.commit_messages.observe(batch.messages)
            for blob, position in zip(batch.blobs, positions, strict=True):
                blob.position = position
                self._tail.blobs[position] = blob
        batch.committed()
        if pending is not None:
            await self._write_checkpoint(*pending)

    def _prepare_checkpoint(self, batch: Batch) -> tuple[Checkpoint, list[StoredBlob]]:
        """Right after `take` the memory is what the log will be after this batch: the instant to take its
        image.
        """
        topology, queues = take_image(self._broker)
        blobs = [blob for blob in (*self._tail.blobs.values(), *batch.blobs) if blob.live_copies]
        checkpoint = Checkpoint(
            last_sequence=self._broker.last_sequence,
            last_queue_id=self._broker.last_queue_id,
            chain_hash=self._tail.chain_hash,
            topology=topology,
            queues=queues,
            blobs=[],
        )
        return checkpoint, blobs

    async def _write_checkpoint(self, checkpoint: Checkpoint, live: list[StoredBlob]) -> None:
        """Called when the batch of the image is durable; only now have its blobs their positions."""
        tail = self._tail
        if not tail.blobs:
            return  # nothing was ever written
        self._bytes_since_checkpoint = 0
        position = max(tail.blobs)
        kept = {blob.position: blob for blob in live if blob.position is not None}
        checkpoint.blobs = sorted(kept)
        await self._engine.checkpoint(tail.group, tail.epoch, position, checkpoint.pack())
        dead = [at for at in tail.blobs if at not in kept and at != position]
        await self._engine.drop(tail.group, tail.epoch, dead)
        for at in dead:
            del tail.blobs[at]
        log.debug("checkpoint at %d: %d blobs kept, %d dropped", position, len(tail.blobs), len(dead))

    def _encode(self, batch: Batch) -> list[Append]:
        tail = self._tail
        items = []
        for pieces in batch.payloads:
            blob = encode_blob(tail.group, tail.epoch, tail.idx, tail.chain_hash, b"".join(pieces))
            items.append(Append(tail.group, tail.epoch, tail.idx, blob))
            tail.chain_hash = chain_hash(blob)
            tail.idx += 1
            self._bytes_since_checkpoint += len(blob)
            self._broker.counters.committed_bytes += len(blob)
        if items:
            self._broker.counters.commits += 1
            self._broker.counters.committed_messages += batch.messages
        return items

    async def _append(self, items: list[Append]) -> list[Position]:
        positions = []
        for answer in await self._engine.append(items):
            if isinstance(answer, EngineError):
                raise answer
            positions.append(answer)
        return positions
