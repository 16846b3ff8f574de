import asyncio

import pytest
from log_owner import LogOwner, read_all

from leveret.storage.engine import Ambiguous, EngineError, Full, Position, Unavailable
from leveret.storage.simulated import Faults, Keep, SimulatedDisk, SimulatedEngine

NO_FAULTS = Faults()
SLOW = Faults(sync_turns_max=1000)


async def open_engine(disk: SimulatedDisk, faults: Faults = NO_FAULTS) -> SimulatedEngine:
    engine = SimulatedEngine(disk, faults)
    await engine.open()
    return engine


async def crash_with_appends_under_way(seed: int, keep: Keep, *, multi_group_atomic: bool) -> tuple[int, int]:
    """How many of eight unsynced appends to each of two groups are left."""
    disk = SimulatedDisk(seed, multi_group_atomic=multi_group_atomic)
    engine = await open_engine(disk, SLOW)
    owners = [await LogOwner.acquire(engine, group) for group in (1, 2)]
    items = [owner.make(b"%d" % n) for n in range(8) for owner in owners]
    calls = [asyncio.ensure_future(engine.append([item])) for item in items]
    await asyncio.sleep(0)
    disk.crash(keep)
    answers = [(await call)[0] for call in calls]
    assert all(isinstance(answer, Ambiguous) for answer in answers)
    again = await open_engine(disk)
    left = [await read_all(again, group) for group in (1, 2)]
    for owner, found in zip(owners, left, strict=True):
        mine = [item.blob for item in items if item.group == owner.group]
        assert list(found.values()) == mine[: len(found)]
    return len(left[0]), len(left[1])


async def test_a_crash_keeps_what_it_is_told_to() -> None:
    assert await crash_with_appends_under_way(1, Keep.NOTHING, multi_group_atomic=True) == (0, 0)
    assert await crash_with_appends_under_way(1, Keep.EVERYTHING, multi_group_atomic=True) == (8, 8)


async def test_without_atomicity_groups_lose_independently() -> None:
    left = {
        await crash_with_appends_under_way(seed, Keep.SOME, multi_group_atomic=False) for seed in range(30)
    }
    assert any(abs(one - two) > 1 for one, two in left)
    left = {
        await crash_with_appends_under_way(seed, Keep.SOME, multi_group_atomic=True) for seed in range(30)
    }
    assert len(left) > 5
    assert all(0 <= one - two <= 1 for one, two in left)


async def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(5):
        runs = [
            await crash_with_appends_under_way(seed, Keep.SOME, multi_group_atomic=False) for _ in range(2)
        ]
        assert runs[0] == runs[1]


async def test_nothing_is_readable_before_it_is_durable() -> None:
    disk = SimulatedDisk(3)
    engine = await open_engine(disk, SLOW)
    owner = await LogOwner.acquire(engine)
    call = asyncio.ensure_future(engine.append([owner.make()]))
    await asyncio.sleep(0)
    assert await read_all(engine) == {}
    assert list(await read_all(engine)) == ([] if not call.done() else call.result())
    (position,) = await call
    assert list(await read_all(engine)) == [position]


async def test_a_dead_engine_stays_dead() -> None:
    disk = SimulatedDisk(1)
    engine = await open_engine(disk)
    owner = await LogOwner.acquire(engine)
    disk.crash()
    assert isinstance((await engine.append([owner.make()]))[0], Unavailable)
    with pytest.raises(Unavailable, match="crashed"):
        await engine.stats()
    await engine.close()


@pytest.mark.parametrize("seed", range(10))
async def test_an_owner_that_repeats_the_same_idx_loses_and_doubles_nothing(seed: int) -> None:
    disk = SimulatedDisk(seed)
    engine = await open_engine(disk, Faults(full=0.1, unavailable=0.1, ambiguous=0.4))
    owner = await LogOwner.acquire(engine)
    items = [owner.make(b"%d" % n) for n in range(50)]
    errors: set[type[EngineError]] = set()
    positions: list[Position] = []
    for item in items:
        while True:
            (answer,) = await engine.append([item])
            if not isinstance(answer, EngineError):
                positions.append(answer)
                break
            errors.add(type(answer))
    assert errors == {Full, Unavailable, Ambiguous}
    assert await read_all(engine) == dict(zip(positions, (item.blob for item in items), strict=True))


async def test_an_ambiguous_append_may_be_durable_or_not() -> None:
    durable = set()
    for seed in range(20):
        engine = await open_engine(SimulatedDisk(seed), Faults(ambiguous=1.0))
        owner = await LogOwner.acquire(engine)
        assert isinstance((await engine.append([owner.make()]))[0], Ambiguous)
        durable.add(len(await read_all(engine)))
    assert durable == {0, 1}
