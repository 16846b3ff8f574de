"""A full disk refuses appends before anything is written, and room comes back by dropping."""

import errno
import os
import random
from collections.abc import Callable

import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage import lmdb_room
from leveret.storage.engine import EngineError, Full, LogEngine, Position, Unavailable
from leveret.storage.lmdb_room import NoRoom, Room

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
async def engine(kit: LmdbKit, disk: SmallDisk) -> LogEngine:
    return await kit.open()


def data_bytes(kit: LmdbKit) -> int:
    return (kit.path / "log" / "data.mdb").stat().st_size


async def data_rows(engine: LogEngine) -> int:
    return (await engine.stats()).blobs


async def fill(
    engine: LogEngine, owner: LogOwner, sizes: random.Random, *, urgent: bool = False
) -> list[Position]:
    """Append until the engine is full."""
    taken = []
    while True:
        idx, chain = owner.idx, owner.chain
        (answer,) = await engine.append(
            [owner.make(sizes.randbytes(sizes.choice((100, 5_000, 60_000, 200_000))))], urgent=urgent
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
        await engine.checkpoint(0, owner.lease.epoch, live[-1], [sizes.randbytes(100_000)])
        gone, live = live[:-5], live[-5:]
        await engine.drop(0, owner.lease.epoch, gone)


async def test_the_reserve_is_there_each_time_the_disk_is_full(
    kit: LmdbKit, engine: LogEngine, disk: SmallDisk
) -> None:
    sizes = random.Random(2)
    owner = await LogOwner.acquire(engine)
    for _ in range(6):
        taken = await fill(engine, owner, sizes)
        assert taken
        # Two thirds of 512 KiB are for urgent appends; the rest is enough to make room again.

        for _ in range(5):
            (answer,) = await engine.append([owner.make(bytes(60_000))], urgent=True)
            assert not isinstance(answer, EngineError), answer
            taken.append(answer)
        await engine.checkpoint(0, owner.lease.epoch, taken[-1], [sizes.randbytes(60_000)])
        await engine.drop(0, owner.lease.epoch, taken[:-3])
        await engine.drop(0, owner.lease.epoch, [Position(position) for position in range(1, taken[0])])
        assert data_bytes(kit) <= disk.size


async def test_urgent_appends_leave_what_it_takes_to_make_room(engine: LogEngine, disk: SmallDisk) -> None:
    sizes = random.Random(3)
    owner = await LogOwner.acquire(engine)
    for _ in range(5):
        taken = await fill(engine, owner, sizes, urgent=True)
        await engine.checkpoint(0, owner.lease.epoch, taken[-1], [sizes.randbytes(60_000)])
        await engine.drop(0, owner.lease.epoch, taken)


async def test_a_blob_that_finds_no_pages_in_a_row_is_like_any_other(
    engine: LogEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await LogOwner.acquire(engine)
    items = [owner.make(os.urandom(3000)) for _ in range(3)]
    big = owner.make(os.urandom(100_000))
    require, calls = Room.require, 0

    def refuse_once(room: Room, size: int, used_bytes: Callable[[], int], *, urgent: bool) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise NoRoom
        require(room, size, used_bytes, urgent=urgent)

    monkeypatch.setattr(Room, "require", refuse_once)
    positions = await engine.append([*items, big])
    assert await data_rows(engine) == 3 + 25, "the big one lies in pieces"
    sizes = dict(await engine.blobs(0))
    assert [sizes[at] for at in positions] == [len(item.blob) for item in (*items, big)]
    assert (await engine.read_many(0, [positions[-1], positions[0]])) == [big.blob, items[0].blob]
    assert (await read_all(engine))[positions[-1]] == big.blob
    assert await engine.append([big]) == positions[-1:], "a repeated idx finds it"
    last = (await owner.append(b"last"))[0]
    await engine.checkpoint(0, owner.lease.epoch, last, [b"state"])
    await engine.drop(0, owner.lease.epoch, [positions[-1]])
    assert await engine.read_one(0, positions[-1]) is None
    assert await data_rows(engine) == 3 + 1


async def test_what_is_said_to_be_free_can_be_taken(engine: LogEngine, disk: SmallDisk) -> None:
    owner = await LogOwner.acquire(engine)
    taken = await fill(engine, owner, random.Random(1))
    used = (await engine.stats()).used_bytes
    assert disk.size - 1024 * KIB < used < disk.size - 512 * KIB
    await engine.checkpoint(0, owner.lease.epoch, taken[-1], [b"state"])
    await engine.drop(0, owner.lease.epoch, taken[::2])
    free = (disk.size - 512 * KIB) - (await engine.stats()).used_bytes
    size = 20 * KIB
    for n in range(free // (size + 8 * KIB)):
        (answer,) = await engine.append([owner.make(bytes(size))])
        assert not isinstance(answer, EngineError), (n, free)


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
