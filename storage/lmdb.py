"""The LMDB engine: every group's log in one file, and every returned position on the disk.

LMDB is used as an atomic, fsynced container of blobs, not as an index of messages. Small appends come into it
by way of the tail (`tail.py`). Four databases:

    log         (group, position) -> blob, exactly as given
    checkpoint  (group, generation, number) -> chunk
    meta        key -> sealed (revision, value): the compare-and-set store
    state       the superblock, the root row, the tail's key, one row per epoch

Threads: one writer runs all write transactions, one reader all read transactions, each short; the loop's
thread touches no page of the map. Whatever waits for the writer shares one transaction. An append to the tail
is the kernel's to write (`aio.py`) while the writer has nothing to do, else the writer's.

A commit that failed may have happened or not: the engine is then over, every later call answers `Ambiguous`,
and opening the store anew is the one way to find out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
from .lmdb_file import sync_path
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
from .tail import TAIL_NAME, Frame, Tail, make_tail, new_key, read_items
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

FRAME_BYTES_MAX = 16 * 1024
"""More is the writer's. Where much is under way, quick commits are small ones, and so many that a pair of
publisher and consumer at full speed lost a tenth of its rate."""

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
        self._tail: Tail | None = None  # the writer thread's while that has something to do, else the loop's
        self._frame_is_under_way = False
        self._behind_frame: list[tuple[Job, asyncio.Future[Any]]] = []  # what the writer gets after it
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
        assert self._tail is not None
        if not self._sync_delay_s:
            self._tail.attend()
        self._writer = Worker("leveret-log-writer", self._transact)
        self._reader = Worker("leveret-log-reader", run_each)

    async def close(self) -> None:
        async with self._closing:
            if self._store is None or self._directory is None or self._writer is None or self._reader is None:
                return
            writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
            with suppress(EngineError):  # what is left in the tail is for the next start
                await self._submit(writer, self._end_tail)
            await writer.stop()
            assert self._tail is not None
            await reader.stop()
            self._tail.close()
            self._store.close()
            self._directory.close()
            self._store = None

    async def acquire(self, group: int, node: str) -> Lease:
        return await self._write(lambda write: write.acquire(group, node))

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        appending = _Appending(items, urgent)
        try:
            frame = self._frame_to_start(appending)
            return await (self._write(appending) if frame is None else self._start_frame(appending, frame))
        except EngineError as error:
            return [error] * len(items)

    async def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        await self._bring_up()
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
        if positions and max(positions) > self._root.group(group).position:
            await self._bring_up()
        return await self._read(partial(read_many, group, positions))

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        await self._bring_up()
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

    async def checkpoint(self, group: int, epoch: int, position: Position, pieces: Sequence[bytes]) -> None:
        blob = await asyncio.to_thread(b"".join, pieces)  # tens of megabytes, if there are many queues
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
        data = memoryview(blob)  # a large one is not copied for its chunks
        count = CHECKPOINT_BYTES_PER_COMMIT // chunk_bytes
        chunks = -(-len(blob) // chunk_bytes)
        last = max(0, chunks - 1) // count * count

        def put(write: Write, first: int) -> None:
            starts = range(first * chunk_bytes, len(blob), chunk_bytes)[:count]
            write.put_chunks(group, epoch, first, [data[start : start + chunk_bytes] for start in starts])

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
        found = await self._read(partial(read_stats, self._commits, self._last_commit_ms))
        assert self._tail is not None
        waiting = self._tail.bytes
        return replace(
            found,
            used_bytes=found.used_bytes + waiting,
            log_bytes=found.log_bytes + waiting,
            blobs=found.blobs + len(self._tail.items),
        )

    async def _bring_up(self) -> None:
        """See that LMDB has what the tail has."""
        if self._tail is not None and self._tail.items:
            await self._write(lambda _: None)

    # Frames of the tail that the loop has the kernel write

    def _frame_to_start(self, append: "_Appending") -> Frame | None:
        """What to write for an append; None if that is for the writer to do."""
        writer, tail, store = self._writer, self._tail, self._store
        if self._frame_is_under_way or writer is None or not writer.is_idle or self._failure is not None:
            return None
        if append.urgent or not 0 < sum(len(item.blob) for item in append.items) <= FRAME_BYTES_MAX:
            return None
        assert tail is not None
        assert store is not None
        frame = tail.frame(append.items, self._root.groups)
        if frame is None or not store.room.has_allocated(tail.bytes + frame.blob_bytes):
            return None
        return frame

    async def _start_frame(self, append: "_Appending", frame: Frame) -> list[Position | EngineError]:
        """The answers; what the kernel does not write is the writer's."""
        writer, tail = self._writer, self._tail
        assert writer is not None
        assert tail is not None
        answer: asyncio.Future[list[Position | EngineError]] = asyncio.get_running_loop().create_future()
        ended = partial(self._frame_ended, writer, append, frame, time.perf_counter(), answer)
        try:
            if failpoints.armed:
                failpoints.hit("put")
                failpoints.hit("before_commit")
            self._frame_is_under_way = tail.start(frame, ended)
        except OSError as error:
            raise self._end_in_doubt(error) from error
        if not self._frame_is_under_way:
            writer.submit(append, answer)
        return await answer

    def _frame_ended(
        self,
        writer: Worker,
        append: "_Appending",
        frame: Frame,
        started: float,
        answer: "asyncio.Future[list[Position | EngineError]]",
        octets: int,
    ) -> None:
        """Whoever came meanwhile gets his turn before the next frame can be started."""
        assert self._tail is not None
        self._frame_is_under_way = False
        answers: list[Position | EngineError] | None = None
        try:
            if self._tail.written(frame, octets):
                self._note_commit(started)
                answers = list(frame.positions)
                if failpoints.armed:
                    failpoints.hit("after_commit_before_confirm")
        except Exception as error:  # a bug as well: nobody may wait for ever
            answers = [self._end_in_doubt(error)] * len(frame.items)
        if answers is None:
            writer.submit(append, answer)
        elif not answer.done():  # the caller may have been cancelled
            answer.set_result(answers)
        behind, self._behind_frame = self._behind_frame, []
        for operation, future in behind:
            writer.submit(operation, future)

    # On the writer thread

    def _end_tail(self, write: Write) -> None:
        """Nothing more will go there: the store is whole without it."""
        assert self._tail is not None
        write.end_tail(is_known=self._tail.is_known)

    async def _write(self, operation: Callable[[Write], T]) -> T:
        """Run an operation in the writer's next transaction; returns when it is on the disk."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self._writer is None:
            raise Unavailable("the LMDB engine is not open")
        answer: T = await self._submit(self._writer, operation)
        return answer

    def _submit(self, writer: Worker, operation: Job) -> "asyncio.Future[Any]":
        """Hand it to the writer, in its turn: what is asked for while a frame is under way comes after it."""
        if not self._frame_is_under_way:
            return writer.submit(operation)
        answer = asyncio.get_running_loop().create_future()
        self._behind_frame.append((operation, answer))
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

    def _append_to_tail(self, operations: Sequence[Job]) -> list[object] | None:
        """The answers of operations that are small appends; None if they have to go to LMDB at once."""
        tail, store = self._tail, self._store
        assert tail is not None
        assert store is not None
        appends = [operation for operation in operations if isinstance(operation, _Appending)]
        items = [item for append in appends for item in append.items]
        size = sum(len(item.blob) for item in items)
        if not (tail.is_known and items) or len(appends) < len(operations):
            return None
        if any(append.urgent for append in appends):
            return None
        started = time.perf_counter()
        if not store.room.has_ahead(tail.bytes + size):
            return None
        if failpoints.armed:
            failpoints.hit("put")
            failpoints.hit("before_commit")
        try:
            positions = tail.place(items, self._root.groups)
            if positions is None:
                return None
            if failpoints.armed:
                failpoints.hit("after_commit_before_confirm")
        except OSError as error:
            self._end_in_doubt(error)
            return [self._failure] * len(operations)
        self._note_commit(started)
        answers = iter(positions)
        return [[next(answers) for _ in append.items] for append in appends]

    def _end_in_doubt(self, error: Exception) -> EngineError:
        self._failure = Ambiguous(
            f"{self._path}: a commit failed, and may have happened or not; open the store anew: {error}"
        )
        return self._failure

    def _note_commit(self, started: float) -> None:
        if self._sync_delay_s:
            time.sleep(self._sync_delay_s)
        self._commits += 1
        self._last_commit_ms = (time.perf_counter() - started) * 1000

    def _commit(self, operations: Sequence[Job], *, in_need: bool = False) -> list[object]:
        """Run operations in one transaction. Raises NoRoom; any other error ends the engine."""
        if self._failure is None:
            try:
                answers = None if in_need else self._append_to_tail(operations)
                return self._try_commit(operations, in_need) if answers is None else answers
            except (lmdb.Error, OSError) as error:
                self._failure = translate(error, self._path)
        return [self._failure] * len(operations)

    def _try_commit(self, operations: Sequence[Job], in_need: bool) -> list[object]:
        started = time.perf_counter()
        tail = self._tail
        assert self._store is not None
        assert tail is not None
        txn = self._store.begin(in_need=in_need)
        write = Write(self._store, txn, self._root, in_pieces=in_need)
        key = None
        try:
            write.move_tail(tail.items)
            answers = [_answer(operation, write) for operation in operations]
            if not write.changed:
                txn.abort()
                return answers
            if tail.items or write.ends_tail or not tail.is_known:
                key = b"" if write.ends_tail else new_key()
                write.put_tail_key(key)
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
            self._end_in_doubt(error)
            return [self._failure] * len(operations)
        self._root = write.root
        if key is not None:
            tail.clear(key)
        self._note_commit(started)
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
                self._tail = _open_tail(store, self._root)
            except BaseException:
                store.close()
                raise
        except BaseException:
            directory.close()
            raise
        self._directory, self._store = directory, store


@dataclass(frozen=True, slots=True)
class _Appending:
    """An operation that may go to the tail."""

    items: Sequence[Append]
    urgent: bool

    def __call__(self, write: Write) -> list[Position | EngineError]:
        return write.append(self.items, urgent=self.urgent)


def _open_tail(store: Store, root: Root) -> Tail:
    path, key = store.path / TAIL_NAME, store.tail_key()
    items = [] if key is None else read_items(path, key, root.groups)
    try:
        if not path.exists():  # an older Leveret made the store, or it was copied without, empty
            make_tail(path)
        if key is None:
            sync_path(store.path)
        return Tail(path, items)
    except OSError as error:
        raise translate(error, path) from error


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
