"""A full disk refuses appends before anything is written, and room comes back by dropping."""

import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage import lmdb_room
from leveret.storage.engine import EngineError, Full, LogEngine, Position, Unavailable

KIB = 1024


class SmallDisk:
    """`os.posix_fallocate` on a disk that holds so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.refused = 0
        self._allocate = os.posix_fallocate

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        if offset + length > self.size:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._allocate(descriptor, offset, length)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    disk = SmallDisk(6 * 1024 * KIB)
    monkeypatch.setattr(os, "posix_fallocate", disk.allocate)
    monkeypatch.setattr(lmdb_room, "AHEAD_BYTES", 1024 * KIB)
    monkeypatch.setattr(lmdb_room, "RESERVE_BYTES", 512 * KIB)
    return disk


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[LmdbKit]:
    kit = LmdbKit(tmp_path)
    yield kit
    await kit.finish()


@pytest.fixture
async def engine(kit: LmdbKit, disk: SmallDisk) -> LogEngine:
    return await kit.open()


def data_bytes(kit: LmdbKit) -> int:
    return (kit.path / "log" / "data.mdb").stat().st_size


async def fill(engine: LogEngine, owner: LogOwner, sizes: random.Random) -> list[Position]:
    """Append until the engine is full."""
    taken = []
    while True:
        idx, chain = owner.idx, owner.chain
        (answer,) = await engine.append(
            [owner.make(sizes.randbytes(sizes.choice((100, 5_000, 60_000, 200_000))))]
        )
        if isinstance(answer, Full):
            owner.idx, owner.chain = idx, chain  # the idx is free again
            return taken
        assert not isinstance(answer, EngineError), answer
        taken.append(answer)


async def test_it_is_used_to_the_end_again_and_again(
    kit: LmdbKit, engine: LogEngine, disk: SmallDisk
) -> None:
    sizes = random.Random(1)
    owner = await LogOwner.acquire(engine)
    live: list[Position] = []
    for _ in range(8):
        taken = await fill(engine, owner, sizes)
        live += taken
        assert taken
        assert disk.refused
        assert data_bytes(kit) <= disk.size
        assert list(await read_all(engine)) == live
        # What frees room must work even now.
        await engine.checkpoint(0, owner.lease.epoch, live[-1], sizes.randbytes(100_000))
        gone, live = live[:-5], live[-5:]
        await engine.drop(0, owner.lease.epoch, gone)


async def test_a_disk_that_is_enlarged_is_used(kit: LmdbKit, engine: LogEngine, disk: SmallDisk) -> None:
    owner = await LogOwner.acquire(engine)
    before = len(await fill(engine, owner, random.Random(1)))
    disk.size *= 3
    assert len(await fill(engine, owner, random.Random(1))) > before
    assert data_bytes(kit) > disk.size // 3


async def test_an_append_larger_than_the_disk_is_refused_before_it_is_put(
    kit: LmdbKit, engine: LogEngine
) -> None:
    owner = await LogOwner.acquire(engine)
    (answer,) = await engine.append([owner.make(bytes(7 * 1024 * KIB))])
    assert isinstance(answer, Full)
    assert await read_all(engine) == {}


async def test_a_disk_error_while_allocating_ends_the_engine(
    engine: LogEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await LogOwner.acquire(engine)
    await owner.append(b"1")

    def fail(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    for _ in range(2):
        (answer,) = await engine.append([owner.make(bytes(3 * 1024 * KIB))])
        assert type(answer) is Unavailable
        assert "Input/output error" in str(answer)
