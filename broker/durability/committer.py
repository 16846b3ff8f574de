"""Group commit: takes what the journal has pending, makes it durable with one append, then lets it be
confirmed.

While one batch is on its way to the disk, the next one gathers. What somebody waits for waits for no timer,
but for a millisecond while messages come few at a time; acks alone wait a little longer. Every confirm goes
this way, also one that has nothing to store, so confirms never overtake each other. Checkpoints and cleaning
go on beside it.

Any error of the engine is fatal: nothing of that batch is confirmed, `run` raises, the server ends the
process, and the next start recovers. After a failed fsync nobody knows what the disk holds, so a retry would
be a lie. A full disk is one, too, but only when even the reserve is used up; publishers are blocked long
before (`alarms.py`).
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from leveret.storage.blob import chain_hash, encode_blob
from leveret.storage.engine import Append, EngineError, Full, LogEngine

from ..broker import Broker
from ..queues.queue import Queue
from ..queues.runs import NEVER
from .batch import Batch
from .checkpointer import Checkpointer
from .cleaner import Cleaner
from .log import LogTail

ACKS_WAIT_S = 0.005
"""Until acks are committed, unless there is something else to commit.

Nobody is told when an ack is durable. A publisher that waits for each confirm met the commit of the ack
before: every second commit was for nothing but one ack (its rate: 1.25 times what it was).
"""
PAUSE_S = 0.001
"""Before the next commit, while messages trickle in.

At 5,000 a second every other one had a commit of its own, and those that came meanwhile waited for the loop:
delivery p50 0.235 -> 0.175 ms, CPU per message 157 -> 130 us, confirm p50 0.90 -> 1.04 ms (medians of 4).
"""
TRICKLE_MESSAGES = range(2, 33)  # in a commit: one alone may be of a publisher that waits for each confirm
TRICKLE_BYTES = 64 * 1024  # pending: with more the next commit is worth it at once
LANES_AT_ONCE = 64  # looked at before others get their turn
WORTH_RECLAIMING_BYTES = 1024 * 1024  # of dead blobs, while the disk is low
PARTS_AT_ONCE = 16  # blobs of a large message in one append: 4 MiB


class Committer:
    """One per broker. Owns the log's tail; `run` is its task."""

    def __init__(
        self,
        engine: LogEngine,
        broker: Broker,
        tail: LogTail,
        checkpoint_every_bytes: int,
    ) -> None:
        self._engine = engine
        self._broker = broker
        self._journal = broker.journal
        self._tail = tail
        self._checkpointer = Checkpointer(engine, broker, tail, checkpoint_every_bytes)
        self._cleaner = Cleaner(engine, tail.group, broker.journal, self.commit)
        self._upkeep: asyncio.Task[None] | None = None  # writes a checkpoint, drops, cleans
        self._committing = asyncio.Lock()
        self._wakeup = asyncio.Event()
        self._acks_timer: asyncio.TimerHandle | None = None
        self._messages = 0  # of the last commit
        self._closing = False

    def kick(self) -> None:
        """The end of a turn: there may be something to commit."""
        if self._journal.is_awaited or self._must_make_room:
            self._wakeup.set()
        elif self._journal.has_pending and self._acks_timer is None:
            self._acks_timer = asyncio.get_running_loop().call_later(ACKS_WAIT_S, self._wakeup.set)

    async def run(self) -> None:
        """Commit until closed. Raises EngineError when a commit or a checkpoint failed."""
        if self._cleaner.is_needed:  # what the last process left to do
            self._upkeep = self._beside(self._clean())
        while not self._closing:
            await self._wakeup.wait()
            self._wakeup.clear()
            self._keep_up()
            if self._journal.has_pending:
                await self.commit()
            while self._journal.is_awaited or self._checkpointer.is_walking or self._must_make_room:
                self._keep_up()
                await self.commit()
                if self._is_trickling:
                    await asyncio.sleep(PAUSE_S)
            self._keep_up()
            self.kick()
        if self._upkeep is not None:
            await self._upkeep

    @property
    def _is_trickling(self) -> bool:
        """Whether messages come few at a time, from somebody who does not wait for each confirm."""
        return self._messages in TRICKLE_MESSAGES and self._journal.pending_bytes < TRICKLE_BYTES

    def _keep_up(self) -> None:
        """Begin what is due beside the commits. Raises what it failed with."""
        if self._upkeep is not None:
            if not self._upkeep.done():
                return
            self._upkeep.result()
            self._upkeep = None
        if self._checkpointer.is_complete:
            self._upkeep = self._beside(self._write_checkpoint())

    def _beside(self, upkeep: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(upkeep, name="upkeep")
        task.add_done_callback(lambda _: self._wakeup.set())
        return task

    async def _write_checkpoint(self) -> None:
        await self._checkpointer.write()
        await self._clean()

    async def _clean(self) -> None:
        await self._cleaner.clean(self._checkpointer.worth_bytes)

    async def keep_up(self) -> None:
        """Do now what is due beside the commits; for those who call `commit` themselves."""
        if self._checkpointer.is_complete:
            await self._write_checkpoint()

    def stop(self) -> None:
        """Let `run` end after the commit that is under way."""
        self._closing = True
        self._cleaner.stop()
        self._wakeup.set()

    async def finish(self) -> None:
        """After `run` has ended and nothing changes the domain any more: the last commit, and a checkpoint.

        The next start then has nothing to replay.
        """
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """A whole checkpoint, now, and what follows it."""
        if self._checkpointer.is_walking:
            await self.commit(whole_checkpoint=True)
        if self._checkpointer.is_complete:
            await self._checkpointer.write()
        await self.commit(whole_checkpoint=True)
        await self._write_checkpoint()

    async def commit(self, *, whole_checkpoint: bool = False) -> None:
        """One group commit of what is pending now."""
        async with self._committing:
            await self._commit(whole_checkpoint)

    async def _commit(self, whole_checkpoint: bool) -> None:
        if self._acks_timer is not None:
            self._acks_timer.cancel()
            self._acks_timer = None
        batch = self._journal.take(self._tail.position + 1, self._durable_queues)
        items = self._encode(batch)
        self._walk(whole_checkpoint)
        if items:
            started_s = self._broker.clock.monotonic_s()
            await self._append(items, batch.part_blobs)
            self._journal.blobs.under_way_from = NEVER
            self._broker.reader.committed()
            counters = self._broker.counters
            counters.commit_seconds.observe(self._broker.clock.monotonic_s() - started_s)
            counters.commit_messages.observe(batch.messages)
        else:
            await asyncio.sleep(0)
        self._messages = batch.messages
        batch.committed()
        for number, lane in enumerate(batch.lanes, 1):
            while self._broker.windows.fit(lane):  # noqa: ASYNC110 # it gives way, it waits for nothing
                await asyncio.sleep(0)
            if number % LANES_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _walk(self, whole_checkpoint: bool) -> None:
        checkpointer = self._checkpointer
        if not (checkpointer.is_walking or checkpointer.is_complete) and (
            checkpointer.is_due or whole_checkpoint or self._must_make_room
        ):
            checkpointer.begin()
        if checkpointer.is_walking:
            checkpointer.go_on(to_the_end=whole_checkpoint)

    @property
    def _must_make_room(self) -> bool:
        """The disk is low, and there is something to reclaim: publishers wait for it."""
        if self._upkeep is not None:
            return False
        blobs = self._journal.blobs
        return self._broker.alarms.disk_is_low and (
            blobs.dead_size >= WORTH_RECLAIMING_BYTES or (self._cleaner.is_needed and bool(blobs.sparse))
        )

    def _durable_queues(self) -> dict[int, Queue]:
        return {
            queue.id: queue
            for vhost in self._broker.vhosts.values()
            for queue in vhost.queues.values()
            if queue.durable
        }

    def _encode(self, batch: Batch) -> list[Append]:
        tail = self._tail
        counters = self._broker.counters
        items = []
        for pieces in batch.payloads:
            blob = encode_blob(tail.group, tail.epoch, tail.idx, tail.chain_hash, b"".join(pieces))
            items.append(Append(tail.group, tail.epoch, tail.idx, blob))
            tail.chain_hash = chain_hash(blob)
            tail.idx += 1
        if items:
            sizes = [len(item.blob) for item in items]
            total = sum(sizes)
            self._checkpointer.wrote(total)
            self._broker.alarms.wrote(total)
            counters.commits += 1
            counters.committed_bytes += total
            counters.committed_messages += batch.messages
            counters.blobs_cleaned += batch.blobs_cleaned
            counters.copies_moved += batch.copies_moved
            first = self._journal.blobs.under_way_from = tail.position + 1 - len(items)
            for stored, size in zip(batch.blobs, sizes[batch.part_blobs :], strict=True):
                stored.size = size + sum(sizes[position - first] for position in stored.parts)
                self._journal.blobs.enter(stored)
        return items

    async def _append(self, items: list[Append], part_blobs: int) -> None:
        """The pieces of large messages may go ahead: nobody knows of them before the rest is there."""
        for at in range(0, part_blobs, PARTS_AT_ONCE):
            await self._append_whole(items[at : min(at + PARTS_AT_ONCE, part_blobs)])
        await self._append_whole(items[part_blobs:])

    async def _append_whole(self, items: Sequence[Append]) -> None:
        answers = await self._engine.append(items)
        if any(isinstance(answer, Full) for answer in answers):
            answers = await self._engine.append(items, urgent=True)
        for answer in answers:
            if isinstance(answer, EngineError):
                raise answer
