"""The LMDB engine: every group's log in one file, and every returned position on the disk.

LMDB is used as an atomic, fsynced container of blobs, not as an index of messages. Four databases:

    log         (group, position) -> blob, exactly as given
    checkpoint  (group, generation, number) -> chunk
    meta        key -> sealed (revision, value): the compare-and-set store
    state       the superblock, the root row, one row per epoch

Threads: one writer runs all write transactions, one reader all read transactions, each short; the loop's
thread touches no page of the map. Whatever waits for the writer shares one transaction, and so one fsync.

A commit that failed may have happened or not: the engine is then over, every later call answers `Ambiguous`,
and opening the store anew is the one way to find out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import lmdb

from . import failpoints
from .directory import DataDirectory
from .engine import (
    BEGINNING,
    Ambiguous,
    Append,
    Caps,
    Corrupt,
    Durability,
    EngineError,
    EngineStats,
    Full,
    Lease,
    Position,
    Revision,
    Unavailable,
)
from .lmdb_read import (
    join_chunks,
    read_blobs,
    read_checkpoint_entry,
    read_chunks,
    read_many,
    read_meta,
    read_sizes,
    read_stats,
)
from .lmdb_room import NoRoom
from .lmdb_rows import Root
from .lmdb_store import MAP_BYTES, Store, create_store, read_meta_pages, translate, verify_pages
from .lmdb_write import CHECKPOINT_BYTES_PER_COMMIT, CHUNK_BYTES, PIECE_BYTES, Write
from .worker import Job, Worker, run_each

BLOB_MAX_BYTES = 64 * 4096 - 16
"""Fills 64 pages exactly.

LMDB needs contiguous free pages for a blob, and much longer runs get hard to find.
"""

INFLIGHT_MAX = 8
"""Appends the owner may have under way; the writer commits together what waits."""

DROP_BLOBS_PER_COMMIT = 256
"""16,000 pages in one free list record at most."""

SLOW_DROP_MS = 20.0
"""Fewer are then dropped at a time. Of each, LMDB reads a page, which may have to come from the disk."""

META_VALUE_MAX_BYTES = 1024 * 1024

T = TypeVar("T")


VERIFY_BYTES_MAX = 1024 * 1024 * 1024
"""Up to this size, all pages are verified at open. It takes 0.1 s per GB of full blobs, 2 s of small
ones, and start-up must not grow with the backlog; `leveret check` always does it."""


class LmdbEngine:
    """A `LogEngine` on the LMDB store in a data directory."""

    def __init__(self, path: Path | str, *, map_bytes: int = MAP_BYTES, sync_delay_ms: float = 0.0) -> None:
        """Make a closed engine.

        Args:
            path: The data directory; made by `open` if it does not exist.
            map_bytes: The store can never hold more; costs address space only.
            sync_delay_ms: Added to every commit, to measure as if the disk were slower.
        """
        self._path = Path(path)
        self._map_bytes = map_bytes
        self._sync_delay_s = sync_delay_ms / 1000
        self._failure: EngineError | None = None  # why the engine is over; written by the writer thread
        self._last_commit_ms = 0.0
        self._commits = 0
        self._root = Root()  # as of the last commit; replaced by the writer thread, never changed
        self._directory: DataDirectory | None = None
        self._store: Store | None = None
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._checkpointing = asyncio.Lock()
        self._closing = asyncio.Lock()

    @property
    def caps(self) -> Caps:
        return Caps(Durability.FSYNC, BLOB_MAX_BYTES, INFLIGHT_MAX, multi_group_atomic=True)

    async def open(self) -> None:
        assert self._store is None
        await asyncio.to_thread(self._open_store)
        self._writer = Worker("leveret-log-writer", self._transact)
        self._reader = Worker("leveret-log-reader", run_each)

    async def close(self) -> None:
        async with self._closing:
            if self._store is None or self._directory is None or self._writer is None or self._reader is None:
                return
            writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
            await writer.stop()
            await reader.stop()
            self._store.close()
            self._directory.close()
            self._store = None

    async def acquire(self, group: int, node: str) -> Lease:
        return await self._write(lambda write: write.acquire(group, node))

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        try:
            return await self._write(lambda write: write.append(items, urgent=urgent))
        except EngineError as error:
            return [error] * len(items)

    async def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        end = upto
        while end is None or after < end:
            found, end = await self._read(partial(read_blobs, group, after, end))
            if not found:
                return
            for position, blob in found:
                yield position, blob
            after = found[-1][0]

    async def read_one(self, group: int, position: Position) -> bytes | None:
        (blob,) = await self.read_many(group, [position])
        return blob

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        return await self._read(partial(read_many, group, positions))

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        found: list[tuple[Position, int]] = []
        while some := await self._read(partial(read_sizes, group, found[-1][0] if found else BEGINNING)):
            found += some
        return found

    async def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        done, count = 0, DROP_BLOBS_PER_COMMIT
        while done < len(positions):
            some = positions[done : done + count]
            try:
                await self._write(partial(Write.drop, group=group, epoch=epoch, positions=some))
            except Full:
                # LMDB lists the freed pages in one piece, for which there may be no room on a full disk.
                if len(some) == 1:
                    raise
                count = len(some) // 2
            else:
                done += len(some)
                if self._last_commit_ms > SLOW_DROP_MS:
                    count = max(count // 2, DROP_BLOBS_PER_COMMIT // 16)
                else:
                    count = min(2 * count, DROP_BLOBS_PER_COMMIT)

        left = await self._write(Write.begin_giving_back)
        while left:
            left = await self._write(Write.give_back)

    async def checkpoint(self, group: int, epoch: int, position: Position, blob: bytes) -> None:
        async with self._checkpointing:
            try:
                await self._put_checkpoint(group, epoch, position, blob, CHUNK_BYTES)
            except Full:
                await self._put_checkpoint(group, epoch, position, blob, PIECE_BYTES)

    async def _put_checkpoint(
        self, group: int, epoch: int, position: Position, blob: bytes, chunk_bytes: int
    ) -> None:
        left = await self._write(lambda write: write.begin_checkpoint(group, epoch, position))
        while left:
            left = await self._write(lambda write: write.sweep_chunks(group))
        chunks = [blob[start : start + chunk_bytes] for start in range(0, len(blob), chunk_bytes)]
        count = CHECKPOINT_BYTES_PER_COMMIT // chunk_bytes
        last = max(0, len(chunks) - 1) // count * count

        def put(write: Write, first: int) -> None:
            write.put_chunks(group, epoch, first, chunks[first : first + count])

        def finish(write: Write) -> bool:
            put(write, last)
            return write.finish_checkpoint(group, position, blob)

        for first in range(0, last, count):
            await self._write(partial(put, first=first))
        left = await self._write(finish)
        while left:
            left = await self._write(lambda write: write.sweep_chunks(group))

    async def last_checkpoint(self, group: int) -> tuple[Position, bytes] | None:
        while True:
            entry = await self._read(partial(read_checkpoint_entry, group))
            if entry is None:
                return None
            chunks: list[bytes] = []
            while some := await self._read(partial(read_chunks, group, entry, chunks)):
                chunks += some
            if some is not None:  # else it was replaced since: begin again with the newer one
                return Position(entry.position), join_chunks(group, entry, chunks)

    async def meta_get(self, key: bytes) -> tuple[bytes, Revision] | None:
        return await self._read(partial(read_meta, key))

    async def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        if value is not None and len(value) > META_VALUE_MAX_BYTES:
            raise ValueError(f"a metadata value of {len(value)} bytes is above {META_VALUE_MAX_BYTES}")
        return await self._write(lambda write: write.meta_cas(key, value, revision))

    async def stats(self) -> EngineStats:
        return await self._read(partial(read_stats, self._commits, self._last_commit_ms))

    # On the writer thread

    async def _write(self, operation: Callable[[Write], T]) -> T:
        """Run an operation in the writer's next transaction; returns when it is on the disk."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self._writer is None:
            raise Unavailable("the LMDB engine is not open")
        answer: T = await self._writer.submit(operation)
        return answer

    def _transact(self, operations: Sequence[Job]) -> Sequence[object]:
        """Run operations in one transaction; what they answer may be told when this returns."""
        try:
            return self._commit(operations)
        except NoRoom:
            return [self._transact_in_need(operation) for operation in operations]

    def _transact_in_need(self, operation: Job) -> object:
        """Give an operation that found no room, maybe only for the company it was in, a transaction of its
        own.

        What a transaction frees can be used by the second one after it, so there must be one in between.
        """
        try:
            self._commit([Write.touch], in_need=True)
            return self._commit([operation], in_need=True)[0]
        except NoRoom:
            return Full(f"{self._path}: the store is full")

    def _commit(self, operations: Sequence[Job], *, in_need: bool = False) -> list[object]:
        """Run operations in one transaction. Raises NoRoom; any other error ends the engine."""
        if self._failure is None:
            try:
                return self._try_commit(operations, in_need)
            except (lmdb.Error, OSError) as error:
                self._failure = translate(error, self._path)
        return [self._failure] * len(operations)

    def _try_commit(self, operations: Sequence[Job], in_need: bool) -> list[object]:
        started = time.perf_counter()
        assert self._store is not None
        txn = self._store.begin(in_need=in_need)
        write = Write(self._store, txn, self._root, in_pieces=in_need)
        try:
            answers = [_answer(operation, write) for operation in operations]
            if not write.changed:
                txn.abort()
                return answers
            write.put_root()
            if failpoints.armed:
                failpoints.hit("before_commit")
        except lmdb.MapFullError as error:
            txn.abort()
            raise NoRoom from error
        except BaseException:
            txn.abort()
            raise
        try:
            if failpoints.armed:
                failpoints.hit("commit")
            txn.commit()
            if failpoints.armed:
                failpoints.hit("after_commit_before_confirm")
        except lmdb.MapFullError as error:
            # No doubt here: LMDB saves its free list, which may need a page, before it writes anything.
            raise NoRoom from error
        except (lmdb.Error, OSError) as error:
            txn.abort()
            self._failure = Ambiguous(
                f"{self._path}: a commit failed, and may have happened or not; open the store anew: {error}"
            )
            return [self._failure] * len(operations)
        self._root = write.root
        if self._sync_delay_s:
            time.sleep(self._sync_delay_s)
        self._commits += 1
        self._last_commit_ms = (time.perf_counter() - started) * 1000
        return answers

    # On the reader thread

    async def _read(self, query: Callable[[Store], T]) -> T:
        """Run a query on the reader thread."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self._reader is None or self._store is None:
            raise Unavailable("the LMDB engine is not open")
        try:
            answer: T = await self._reader.submit(partial(query, self._store))
        except lmdb.Error as error:
            raise translate(error, self._path) from error
        return answer

    def _open_store(self) -> None:
        directory = DataDirectory.open(self._path)
        try:
            if not directory.log.exists():
                create_store(directory)
            _verify_pages(directory.log)
            store = Store.open(directory.log, self._map_bytes)
            try:
                self._root = store.check()
            except BaseException:
                store.close()
                raise
        except BaseException:
            directory.close()
            raise
        self._directory, self._store = directory, store


def _verify_pages(path: Path) -> None:
    """Refuse damaged pages before liblmdb maps them: following a wrong length beyond the file is a SIGBUS."""
    read_meta_pages(path).close()
    if (path / "data.mdb").stat().st_size > VERIFY_BYTES_MAX:
        return
    problems = verify_pages(path)
    if problems:
        raise Corrupt(f"{problems[0]} ({len(problems)} findings; run `leveret check`)")


def _answer(operation: Job, write: Write) -> object:
    """An operation's answer; a refusal is one, too, and leaves the transaction as it was."""
    try:
        return operation(write)
    except (EngineError, ValueError) as refusal:
        return refusal
