"""Where transient messages of a long backlog wait: plain files, never synced, gone after a restart.

A blob goes to the end of the newest file and is read back by its handle. A file is deleted when all of its
blobs were dropped; what is left of one that is mostly dead moves on to the newest first, so that a few blobs
that nobody fetches do not pin the disk.

The broker owns one spill and calls it from its loop. Places in the files are given out on the loop; the bytes
are moved on two threads, one that writes and deletes and one that reads, so that a reader does not wait when
the kernel holds writers up. A file is deleted only when no thread is busy with it.
"""

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .directory import DIRECTORY_MODE, FILE_MODE
from .engine import Corrupt, EngineError, Full, Unavailable
from .worker import Worker, run_each

FILE_BYTES = 32 * 1024 * 1024
"""A file that is larger takes no more blobs."""

SPARSE_PART = 4
"""The rest of a file moves on when it is less than one part in so many."""

LEFT_BYTES = 64 * 1024 * 1024
"""Of the disk, for the log: durable messages come first."""

_SUFFIX = ".spill"
_CLOSED = "the spill is not open"

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class SpillHandle:
    """Stands for a blob until it is dropped."""

    size: int
    place: "_Place | None" = None  # where it lies; None when it was dropped, or in a spill without files


@dataclass(frozen=True, slots=True)
class SpillStats:
    """The blobs that were not dropped, and the files they lie in."""

    bytes: int
    blobs: int
    file_bytes: int


class Spill(Protocol):
    """What the broker needs of a spill."""

    async def open(self) -> None:
        """Begin empty, whatever an earlier process left. Raises Unavailable."""

    async def close(self) -> None:
        """Forget everything. Idempotent; blobs may be dropped even afterwards."""

    async def write(self, blob: bytes) -> SpillHandle:
        """Store a blob. Raises Full when there is no room, and Unavailable."""

    async def read(self, handles: Sequence[SpillHandle]) -> list[bytes]:
        """The blobs, in order; they may be dropped meanwhile. Raises Unavailable and Corrupt."""

    def drop(self, handle: SpillHandle) -> None:
        """Forget a blob, once."""

    @property
    def stats(self) -> SpillStats: ...


@dataclass(slots=True, eq=False)
class _File:
    """One file; opened by the writing thread, everything else belongs to the loop."""

    path: Path
    descriptor: int = -1
    end: int = 0  # behind the last place that was given out
    live: set[SpillHandle] = field(default_factory=set)
    live_bytes: int = 0
    busy: int = 0  # those who need it, live or not


@dataclass(frozen=True, slots=True)
class _Place:
    """A part of a file."""

    file: _File
    offset: int
    size: int


class FileSpill:
    """The `Spill` in a directory of its own."""

    def __init__(self, path: Path | None) -> None:
        """Without a path, a temporary directory is used."""
        self._path = path
        self._directory = Path()
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._numbers = count()
        self._files: set[_File] = set()
        self._newest: _File | None = None
        self._sparse: set[_File] = set()
        self._is_moving = False

    async def open(self) -> None:
        try:
            self._directory = await asyncio.to_thread(_empty_directory, self._path)
        except OSError as error:
            raise _translate(error) from error
        self._writer = Worker("leveret-spill-writer", run_each)
        self._reader = Worker("leveret-spill-reader", run_each)

    async def close(self) -> None:
        if self._writer is None or self._reader is None:
            return
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        await writer.stop()
        await reader.stop()
        await asyncio.to_thread(self._remove_all)
        self._files, self._sparse, self._newest = set(), set(), None

    async def write(self, blob: bytes) -> SpillHandle:
        if self._writer is None:
            raise Unavailable(_CLOSED)
        handle, place = SpillHandle(len(blob)), self._reserve(len(blob))
        self._enter(handle, place)
        try:
            await self._run(self._writer, partial(_write, place, blob), [place.file])
            with suppress(Full):  # it is only put off
                await self._move_on()
        except BaseException:
            self.drop(handle)
            raise
        return handle

    async def read(self, handles: Sequence[SpillHandle]) -> list[bytes]:
        places = [_place_of(handle) for handle in handles]
        return await self._run(self._reader, partial(_read_all, places), {place.file for place in places})

    def drop(self, handle: SpillHandle) -> None:
        file = _place_of(handle).file
        self._leave(handle)
        self._look_at(file)

    @property
    def stats(self) -> SpillStats:
        return SpillStats(
            bytes=sum(file.live_bytes for file in self._files),
            blobs=sum(len(file.live) for file in self._files),
            file_bytes=sum(file.end for file in self._files),
        )

    # Places

    def _reserve(self, size: int) -> _Place:
        """Give out the next place."""
        full = self._newest
        if full is None or full.end >= FILE_BYTES:
            self._newest = _File(self._directory / f"{next(self._numbers)}{_SUFFIX}")
            self._files.add(self._newest)
            if full is not None and full.live:
                self._look_at(full)
        assert self._newest is not None
        place = _Place(self._newest, self._newest.end, size)
        self._newest.end += size
        return place

    def _enter(self, handle: SpillHandle, place: _Place) -> None:
        handle.place = place
        place.file.live.add(handle)
        place.file.live_bytes += handle.size

    def _leave(self, handle: SpillHandle) -> None:
        file = _place_of(handle).file
        handle.place = None
        file.live.remove(handle)
        file.live_bytes -= handle.size

    def _look_at(self, file: _File) -> None:
        """Delete a file that nobody needs any more; remember one that is mostly dead."""
        if self._writer is None or file not in self._files:  # closed, or deleted before
            return
        if file.live:
            if file is not self._newest and file.live_bytes * SPARSE_PART < file.end:
                self._sparse.add(file)
        elif not file.busy:
            self._files.discard(file)
            self._sparse.discard(file)
            if file is self._newest:
                self._newest = None
            self._writer.submit(partial(_remove, file))

    async def _move_on(self) -> None:
        """Move what is left of mostly dead files to the newest."""
        while self._sparse and not self._is_moving:
            self._is_moving = True
            try:
                await self._move(self._sparse.pop())
            finally:
                self._is_moving = False

    async def _move(self, file: _File) -> None:
        handles = sorted(file.live, key=lambda handle: _place_of(handle).offset)
        moves = [(_place_of(handle), self._reserve(handle.size)) for handle in handles]
        files = [file, *{new.file for _, new in moves}]
        _hold(files)  # until the new places are entered, too
        try:
            await self._run(self._writer, partial(_copy_all, moves), files)
            for handle, (old, new) in zip(handles, moves, strict=True):
                if handle.place is old:  # else it was dropped meanwhile
                    self._leave(handle)
                    self._enter(handle, new)
        finally:
            self._let_go(files)

    # Threads

    async def _run(self, worker: Worker | None, job: Callable[[], T], files: Iterable[_File]) -> T:
        """Run a job that uses these files. They stay until it is done, even if the caller is cancelled."""
        if worker is None:
            raise Unavailable(_CLOSED)
        files = list(files)
        _hold(files)
        future = worker.submit(job)
        future.add_done_callback(lambda _: self._let_go(files))
        future.add_done_callback(_retrieve)
        try:
            answer: T = await asyncio.shield(future)
        except OSError as error:
            raise _translate(error) from error
        return answer

    def _let_go(self, files: list[_File]) -> None:
        for file in files:
            file.busy -= 1
            self._look_at(file)

    def _remove_all(self) -> None:
        for file in self._files:
            _remove(file)
        if self._path is None:
            with suppress(OSError):
                self._directory.rmdir()


def _hold(files: list[_File]) -> None:
    for file in files:
        file.busy += 1


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Take note of an error that a cancelled caller does not ask for."""
    future.exception()


def _place_of(handle: SpillHandle) -> _Place:
    if handle.place is None:
        raise Unavailable("a blob that was dropped cannot be used")
    return handle.place


def _empty_directory(path: Path | None) -> Path:
    """The directory to spill into, with nothing in it from before."""
    if path is None:
        return Path(tempfile.mkdtemp(prefix="leveret-spill-"))
    path.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    for left in path.glob(f"*{_SUFFIX}"):
        left.unlink()
    return path


def _write(place: _Place, blob: bytes) -> None:
    file = place.file
    if file.descriptor < 0:
        file.descriptor = os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    disk = os.fstatvfs(file.descriptor)
    if disk.f_bavail * disk.f_frsize < LEFT_BYTES + len(blob):
        raise OSError(errno.ENOSPC, f"{LEFT_BYTES} bytes are left for the log", os.fspath(file.path))
    view, offset = memoryview(blob), place.offset
    while view:
        written = os.pwrite(file.descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read(place: _Place) -> bytes:
    blob = os.pread(place.file.descriptor, place.size, place.offset)
    if len(blob) != place.size:
        raise Corrupt(f"{place.file.path} is truncated: it ends within the blob at {place.offset}")
    return blob


def _read_all(places: list[_Place]) -> list[bytes]:
    return [_read(place) for place in places]


def _copy_all(moves: list[tuple[_Place, _Place]]) -> None:
    for old, new in moves:
        _write(new, _read(old))


def _remove(file: _File) -> None:
    if file.descriptor >= 0:
        os.close(file.descriptor)
        file.descriptor = -1
    with suppress(OSError):  # the next start tries again
        file.path.unlink()


def _translate(error: OSError) -> EngineError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Full(f"the disk has no room to spill: {error}")
    return Unavailable(f"the spill cannot be used: {error}")
