"""Room is given back to the disk, and nothing that is in use with it."""

import os
import random
from pathlib import Path

import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage import lmdb_holes, lmdb_room
from leveret.storage.engine import LogEngine, Position
from leveret.storage.lmdb_file import punch_hole
from leveret.storage.tail import APPEND_BYTES_MAX

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_holes, "KEPT_FREE_BYTES", 256 * KIB)
    monkeypatch.setattr(lmdb_room, "AHEAD_BYTES", 256 * KIB)
    monkeypatch.setattr(lmdb_room, "RESERVE_BYTES", 128 * KIB)
    monkeypatch.setattr(lmdb_room, "FILL_BELOW_BYTES", 0)
    with (tmp_path / "probe").open("wb") as file:
        file.write(bytes(64 * KIB))
        file.flush()
        if not punch_hole(file.fileno(), 0, 64 * KIB):
            pytest.skip("this file system makes no holes, so NOTHING IS TESTED")


async def fill(engine: LogEngine, owner: LogOwner, rng: random.Random, size: int) -> dict[int, bytes]:
    """Append blobs of any size, so many bytes of them."""
    taken = {}
    while size > 0:
        item = owner.make(rng.randbytes(rng.choice((50, 3_000, 20_000, 200_000))))
        taken[int(await owner.append_item(item))] = item.blob
        size -= len(item.blob)
    return taken


async def drop_but(engine: LogEngine, owner: LogOwner, live: dict[int, bytes], kept: list[int]) -> None:
    """Drop all but a few."""
    await engine.checkpoint(0, owner.lease.epoch, Position(max(live)), [b"state"])
    await engine.drop(0, owner.lease.epoch, [Position(at) for at in live if at not in kept])
    for at in set(live) - set(kept):
        del live[at]


async def test_the_file_becomes_small_again(kit: LmdbKit) -> None:
    engine, rng = await kit.open(), random.Random(1)
    owner = await LogOwner.acquire(engine)
    live = await fill(engine, owner, rng, 20 * MIB)
    assert (await engine.stats()).file_bytes > 20 * MIB
    await drop_but(engine, owner, live, [max(live)])
    stats = await engine.stats()
    assert stats.file_bytes < 3 * MIB
    assert stats.file_bytes == os.stat(kit.path / "log" / "data.mdb").st_blocks * 512
    assert await read_all(engine) == live


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_in_use_stays_whatever_is_given_back(kit: LmdbKit, seed: int) -> None:
    engine, rng = await kit.open(), random.Random(seed)
    owner = await LogOwner.acquire(engine)
    live: dict[int, bytes] = {}
    for n in range(8):
        live |= await fill(engine, owner, rng, rng.randrange(6 * MIB))
        share = rng.choice((0.0, 0.05, 0.5))
        await drop_but(engine, owner, live, [at for at in live if rng.random() < share] + [max(live)])
        assert await read_all(engine) == live
        stats = await engine.stats()
        # Runs that are too short, and what was freed last, are not given back.
        assert stats.file_bytes < 2 * stats.used_bytes + 12 * MIB
        if n % 4 == 3:
            engine = await kit.crash()
            assert await read_all(engine) == live
            owner = await LogOwner.acquire(engine)


async def test_holes_are_filled_before_the_disk_is_full(
    kit: LmdbKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, rng = await kit.open(), random.Random(1)
    owner = await LogOwner.acquire(engine)
    live = await fill(engine, owner, rng, 20 * MIB)
    await drop_but(engine, owner, live, [max(live)])
    file = kit.path / "log" / "data.mdb"
    assert os.stat(file).st_blocks * 512 < os.stat(file).st_size
    monkeypatch.setattr(lmdb_room, "FILL_BELOW_BYTES", 2**62)
    await owner.append(bytes(APPEND_BYTES_MAX))  # more than the tail takes
    assert os.stat(file).st_blocks * 512 >= os.stat(file).st_size
    live = {at: blob for at, blob in (await read_all(engine)).items() if at in live}
    assert len(live) == 1


async def test_a_crowded_disk_is_left_as_it_is(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_room, "FILL_BELOW_BYTES", 2**62)
    engine, rng = await kit.open(), random.Random(1)
    owner = await LogOwner.acquire(engine)
    live = await fill(engine, owner, rng, 8 * MIB)
    await drop_but(engine, owner, live, [max(live)])
    assert (await engine.stats()).file_bytes > 8 * MIB
