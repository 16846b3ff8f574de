"""The contract of `LogEngine`, held by every engine; after each test the checker looks at an LMDB store."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_kits import DurableKit, ForgetfulKit, LmdbKit, LogKit, MemoryKit, SimulatedKit
from log_owner import LogOwner, read_all

from leveret.storage.engine import (
    BEGINNING,
    Ambiguous,
    Append,
    Corrupt,
    Durability,
    EngineError,
    Fenced,
    Full,
    LogEngine,
    Position,
    Revision,
    Unavailable,
)

KITS = ["memory", "simulated", "lmdb"]


@pytest.fixture(params=KITS)
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogKit]:
    kits: dict[str, LogKit] = {"memory": MemoryKit(), "simulated": SimulatedKit(), "lmdb": LmdbKit(tmp_path)}
    kit = kits[request.param]
    yield kit
    await kit.finish()


@pytest.fixture
async def durable_kit(kit: LogKit) -> DurableKit:
    if not isinstance(kit, DurableKit):
        pytest.skip("the engine promises no durability")
    return kit


@pytest.fixture
async def engine(kit: LogKit) -> LogEngine:
    return await kit.open()


class TestAppendAndRead:
    async def test_a_new_log_is_empty(self, engine: LogEngine) -> None:
        assert await read_all(engine) == {}
        assert await engine.read_one(0, Position(1)) is None
        assert await engine.last_checkpoint(0) is None

    async def test_blobs_come_back_in_order_and_unchanged(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        items = [owner.make(bytes([n]) * size) for n, size in enumerate((0, 1, 100, 3000, 5000, 300_000))]
        positions = [await owner.append_item(item) for item in items]
        assert positions == sorted(set(positions))
        assert await read_all(engine) == dict(zip(positions, (item.blob for item in items), strict=True))
        assert [await engine.read_one(0, position) for position in positions] == [item.blob for item in items]

    async def test_one_call_takes_several_items_and_groups(self, engine: LogEngine) -> None:
        owners = [await LogOwner.acquire(engine, group) for group in (3, 1, 2)]
        items = [owner.make(f"{owner.group} {n}".encode()) for n in range(3) for owner in owners]
        answers = await engine.append(items)
        for owner in owners:
            mine = [
                (at, item.blob) for at, item in zip(answers, items, strict=True) if item.group == owner.group
            ]
            assert await read_all(engine, owner.group) == dict(mine)

    async def test_groups_do_not_mix_however_their_appends_interleave(self, engine: LogEngine) -> None:
        low, high = await LogOwner.acquire(engine, 1), await LogOwner.acquire(engine, 2)
        for n in range(5):
            await high.append(b"high %d" % n)
            await low.append(b"low %d" % n)
        assert len(await read_all(engine, 1)) == len(await read_all(engine, 2)) == 5

    async def test_nothing_to_append_is_nothing_to_answer(self, engine: LogEngine) -> None:
        assert await engine.append([]) == []

    async def test_calls_under_way_at_once_keep_their_order(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        items = [owner.make(b"%d" % n) for n in range(engine.caps.inflight_max)]
        answers = await asyncio.gather(*(engine.append([item]) for item in items))
        positions = [answer[0] for answer in answers]
        assert await read_all(engine) == dict(zip(positions, (item.blob for item in items), strict=True))

    @pytest.mark.parametrize(
        ("after", "upto"), [(0, 5), (2, 4), (0, 0), (4, 2), (5, 5), (1, None), (5, None)]
    )
    async def test_read_keeps_to_its_bounds(self, engine: LogEngine, after: int, upto: int | None) -> None:
        owner = await LogOwner.acquire(engine)
        positions = [Position(0), *await owner.append(b"1", b"2", b"3", b"4", b"5")]
        found = await read_all(engine, 0, positions[after], None if upto is None else positions[upto])
        assert list(found) == positions[after + 1 : (5 if upto is None else upto) + 1]

    async def test_read_goes_on_over_any_number_of_chunks(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(*(b"%d" % n * 200_000 for n in range(12)))
        assert list(await read_all(engine)) == positions

    async def test_a_reader_sees_the_end_as_it_was_when_it_began(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1", b"2")
        reader = engine.read(0, BEGINNING)
        found = [(await anext(reader))[0]]
        await owner.append(b"3")
        found += [position async for position, _ in reader]
        assert found == positions


class TestReadMany:
    async def test_it_answers_in_the_order_asked_whatever_is_gone(self, engine: LogEngine) -> None:
        owner, other = await LogOwner.acquire(engine), await LogOwner.acquire(engine, 1)
        positions = await owner.append(*(b"%d" % n * 400_000 for n in range(6)))
        await other.append(b"another group's")
        await engine.checkpoint(0, owner.lease.epoch, positions[3], [b"state"])
        await engine.drop(0, owner.lease.epoch, [positions[1]])
        asked = [positions[n] for n in (5, 1, 0, 0, 3)] + [Position(positions[5] + 1)]
        found = await engine.read_many(0, asked)
        assert found == [await engine.read_one(0, position) for position in asked]
        assert [blob is None for blob in found] == [False, True, False, False, False, True]

    async def test_nothing_asked_is_nothing_read(self, engine: LogEngine) -> None:
        assert await engine.read_many(0, []) == []


class TestBlobs:
    async def test_every_blob_is_named_with_its_size(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        # Around the sizes at which a store may put a value elsewhere than beside its key.
        items = [owner.make(bytes(size)) for size in (0, 1, 1900, 1950, 2000, 2050, 4096, 70_000, 262_000)]
        positions = [await owner.append_item(item) for item in items]
        assert await engine.blobs(0) == [
            (position, len(item.blob)) for position, item in zip(positions, items, strict=True)
        ]

    async def test_a_group_without_blobs_has_none(self, engine: LogEngine) -> None:
        assert await engine.blobs(0) == []
        await (await LogOwner.acquire(engine, 1)).append(b"another group's")
        assert await engine.blobs(0) == []
        assert await engine.blobs(2) == []

    async def test_of_many_none_is_left_out(self, engine: LogEngine) -> None:
        owners = [await LogOwner.acquire(engine, group) for group in (1, 2, 3)]
        for owner in owners:
            items = [owner.make(b"%d" % n) for n in range(9000)]
            answers = await engine.append(items)
            assert await engine.blobs(owner.group) == [
                (at, len(item.blob)) for at, item in zip(answers, items, strict=True)
            ]
        middle = owners[1]
        await engine.checkpoint(2, middle.lease.epoch, Position(9000), [b"state"])
        gone = [Position(n) for n in range(1, 9000) if n % 100]
        await engine.drop(2, middle.lease.epoch, gone)
        assert [position for position, _ in await engine.blobs(2)] == list(range(100, 9001, 100))
        assert [len(await engine.blobs(group)) for group in (1, 3)] == [9000, 9000]


class TestIdx:
    async def test_a_gap_is_refused_and_leaves_nothing(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1")
        owner.make(b"never appended")
        (answer,) = await engine.append([owner.make(b"3")])
        assert isinstance(answer, Unavailable)
        assert list(await read_all(engine)) == positions

    async def test_the_first_idx_is_1(self, engine: LogEngine) -> None:
        lease = await engine.acquire(0, "test")
        answers = await engine.append(
            [Append(0, lease.epoch, 0, b"zero"), Append(0, lease.epoch, -1, b"below")]
        )
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        assert await read_all(engine) == {}

    async def test_the_same_idx_again_answers_the_same_position(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        first, second = owner.make(b"1"), owner.make(b"2")
        positions = [await owner.append_item(first), await owner.append_item(second)]
        assert [await owner.append_item(first), await owner.append_item(second)] == positions
        assert await engine.append([second, first, second]) == [positions[1], positions[0], positions[1]]
        assert await read_all(engine) == {positions[0]: first.blob, positions[1]: second.blob}

    async def test_the_same_idx_with_another_blob_is_refused(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        first = owner.make(b"1")
        position = await owner.append_item(first)
        (answer,) = await engine.append([Append(0, owner.lease.epoch, 1, b"another")])
        assert isinstance(answer, Corrupt)
        assert await read_all(engine) == {position: first.blob}

    async def test_each_epoch_counts_anew(self, engine: LogEngine) -> None:
        first = await LogOwner.acquire(engine)
        await first.append(b"1", b"2")
        second = await LogOwner.acquire(engine)
        await second.append(b"3")
        assert second.idx == 1
        assert len(await read_all(engine)) == 3

    async def test_one_refused_item_does_not_touch_the_others(self, engine: LogEngine) -> None:
        owner, other = await LogOwner.acquire(engine, 1), await LogOwner.acquire(engine, 2)
        stale = Append(1, owner.lease.epoch - 1, 1, b"stale")
        answers = await engine.append([owner.make(b"1"), stale, other.make(b"1")])
        assert isinstance(answers[1], Fenced)
        assert len(await read_all(engine, 1)) == len(await read_all(engine, 2)) == 1


class TestFencing:
    async def test_epochs_rise_and_the_fence_is_the_last_position(self, engine: LogEngine) -> None:
        first = await LogOwner.acquire(engine)
        assert first.lease.fence == BEGINNING
        positions = await first.append(b"1", b"2")
        second = await LogOwner.acquire(engine)
        assert second.lease.epoch > first.lease.epoch
        assert second.lease.fence == positions[-1]
        assert (await second.append(b"3"))[0] > second.lease.fence

    async def test_the_former_owner_can_change_nothing(self, engine: LogEngine) -> None:
        zombie = await LogOwner.acquire(engine)
        positions = await zombie.append(b"1")
        await LogOwner.acquire(engine)
        (answer,) = await engine.append([zombie.make(b"2")])
        assert isinstance(answer, Fenced)
        with pytest.raises(Fenced):
            await engine.checkpoint(0, zombie.lease.epoch, positions[0], [b"state"])
        with pytest.raises(Fenced):
            await engine.drop(0, zombie.lease.epoch, positions)
        assert list(await read_all(engine)) == positions
        assert await engine.last_checkpoint(0) is None

    async def test_an_epoch_that_was_never_given_is_refused(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        answers = await engine.append([Append(0, owner.lease.epoch + 1, 1, b"?"), Append(7, 1, 1, b"?")])
        assert [type(answer) for answer in answers] == [Fenced, Fenced]

    @pytest.mark.parametrize("ahead", [0, 1, 3, 8])
    async def test_a_zombie_with_appends_in_flight_lands_nothing_behind_the_fence(
        self, engine: LogEngine, ahead: int
    ) -> None:
        # A new owner's own record can make a numeric "expected position" come true for a pipelining zombie.
        zombie = await LogOwner.acquire(engine)
        await zombie.append(b"before")
        flying = [zombie.make(b"zombie %d" % n) for n in range(8)]
        calls = [asyncio.ensure_future(engine.append([item])) for item in flying[:ahead]]
        taking_over = asyncio.ensure_future(LogOwner.acquire(engine))
        await asyncio.sleep(0)
        calls += [asyncio.ensure_future(engine.append([item])) for item in flying[ahead:]]
        owner = await taking_over
        at_takeover = await read_all(engine)
        await owner.append(b"after")
        answers = [(await call)[0] for call in calls]
        await owner.append(b"later")

        landed = [answer for answer in answers if not isinstance(answer, EngineError)]
        assert all(isinstance(answer, Fenced) for answer in answers[len(landed) :])
        assert all(position <= owner.lease.fence for position in landed)
        assert set(landed) <= set(at_takeover)
        found = await read_all(engine)
        assert {position for position in found if position <= owner.lease.fence} == set(at_takeover)
        assert len(found) == len(at_takeover) + 2


class TestCheckpointAndDrop:
    async def test_a_checkpoint_replaces_the_one_before(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1", b"2", b"3")
        # Sizes around the chunks of engines that cut: empty, one, exactly sixteen, many, few.
        for position, size in zip([1, 1, 2, 3, 3], [0, 10, 16 * 262128, 5_000_000, 3], strict=True):
            state = random.Random(size).randbytes(size)
            await engine.checkpoint(
                0, owner.lease.epoch, positions[position - 1], [state[:7], b"", state[7:]]
            )
            assert await engine.last_checkpoint(0) == (positions[position - 1], state)

    async def test_a_reader_gets_one_checkpoint_whole_while_it_is_replaced(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        (position,) = await owner.append(b"1")
        states = [bytes([n]) * (4_500_000 + n) for n in range(3)]
        await engine.checkpoint(0, owner.lease.epoch, position, [states[0]])

        async def replace() -> None:
            for state in states[1:]:
                await engine.checkpoint(0, owner.lease.epoch, position, [state])

        replacing = asyncio.ensure_future(replace())
        seen = []
        while not replacing.done():
            checkpoint = await engine.last_checkpoint(0)
            assert checkpoint is not None
            seen.append(states.index(checkpoint[1]))
            await asyncio.sleep(0)
        await replacing
        assert seen == sorted(seen)

    async def test_checkpoints_called_at_once_end_with_the_last_call(self, engine: LogEngine) -> None:
        owner, other = await LogOwner.acquire(engine), await LogOwner.acquire(engine, 1)
        positions, others = await owner.append(b"1", b"2"), await other.append(b"1")
        await asyncio.gather(
            *(engine.checkpoint(0, owner.lease.epoch, at, [b"%d" % at * 1_000_000]) for at in positions),
            engine.checkpoint(1, other.lease.epoch, others[0], [b"other"]),
        )
        assert await engine.last_checkpoint(0) == (positions[1], b"%d" % positions[1] * 1_000_000)
        assert await engine.last_checkpoint(1) == (others[0], b"other")

    async def test_a_checkpoint_lies_within_the_log_and_never_goes_back(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1", b"2")
        await engine.checkpoint(0, owner.lease.epoch, positions[1], [b"state"])
        with pytest.raises(ValueError, match="before the last one or beyond the log"):
            await engine.checkpoint(0, owner.lease.epoch, positions[0], [b"older"])
        with pytest.raises(ValueError, match="before the last one or beyond the log"):
            await engine.checkpoint(0, owner.lease.epoch, Position(positions[1] + 1), [b"future"])
        assert await engine.last_checkpoint(0) == (positions[1], b"state")

    async def test_dropped_blobs_are_gone_and_the_others_stay(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(*(b"%d" % n for n in range(6)))
        await engine.checkpoint(0, owner.lease.epoch, positions[4], [b"state"])
        await engine.drop(0, owner.lease.epoch, [positions[0], positions[3]])
        assert list(await read_all(engine)) == [positions[n] for n in (1, 2, 4, 5)]
        assert await engine.read_one(0, positions[3]) is None
        await engine.drop(0, owner.lease.epoch, [positions[0], positions[3]])
        await engine.drop(0, owner.lease.epoch, [])

    async def test_many_blobs_are_dropped_in_one_call(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        items = [owner.make(b"%d" % n) for n in range(600)]
        positions = await engine.append(items)
        last = positions[-1]
        assert not isinstance(last, EngineError)
        await engine.checkpoint(0, owner.lease.epoch, last, [b"state"])
        await engine.drop(0, owner.lease.epoch, [Position(n) for n in range(1, last)])
        assert list(await read_all(engine)) == [last]

    async def test_what_recovery_needs_cannot_be_dropped(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1", b"2")
        await engine.checkpoint(0, owner.lease.epoch, positions[0], [b"state"])
        with pytest.raises(ValueError, match="up to its checkpoint"):
            await engine.drop(0, owner.lease.epoch, positions)
        assert list(await read_all(engine)) == positions

    async def test_positions_are_never_used_again(self, kit: LogKit, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1", b"2", b"3")
        await engine.checkpoint(0, owner.lease.epoch, positions[-1], [b"state"])
        await engine.drop(0, owner.lease.epoch, positions)
        assert await read_all(engine) == {}
        if isinstance(kit, DurableKit):
            engine = await kit.reopen(engine)
        owner = await LogOwner.acquire(engine)
        assert owner.lease.fence == positions[-1]
        assert (await owner.append(b"4"))[0] > positions[-1]


class TestMetadata:
    async def test_compare_and_set(self, engine: LogEngine) -> None:
        key = b"owner.0"
        assert await engine.meta_get(key) is None
        first = await engine.meta_cas(key, b"a", None)
        assert first is not None
        assert await engine.meta_get(key) == (b"a", first)
        assert await engine.meta_cas(key, b"b", None) is None
        assert await engine.meta_cas(key, b"b", Revision(first + 1)) is None
        second = await engine.meta_cas(key, b"b", first)
        assert second is not None
        assert second > first
        assert await engine.meta_cas(key, b"c", first) is None
        assert await engine.meta_get(key) == (b"b", second)

    async def test_a_deleted_value_is_absent_and_its_revision_never_returns(self, engine: LogEngine) -> None:
        first = await engine.meta_cas(b"key", b"a", None)
        deleted = await engine.meta_cas(b"key", None, first)
        assert deleted is not None
        assert await engine.meta_get(b"key") is None
        assert await engine.meta_cas(b"key", b"b", first) is None
        again = await engine.meta_cas(b"key", b"b", None)
        assert again is not None
        assert again > deleted

    async def test_of_many_only_one_wins(self, engine: LogEngine) -> None:
        answers = await asyncio.gather(*(engine.meta_cas(b"key", b"%d" % n, None) for n in range(20)))
        (winner,) = [n for n, answer in enumerate(answers) if answer is not None]
        assert await engine.meta_get(b"key") == (b"%d" % winner, answers[winner])

    async def test_values_of_any_size_and_keys_side_by_side(self, engine: LogEngine) -> None:
        values = {b"a": b"", b"b": bytes(100_000), b"\x00": b"\x00"}
        for key, value in values.items():
            await engine.meta_cas(key, value, None)
        for key, value in values.items():
            found = await engine.meta_get(key)
            assert found is not None
            assert found[0] == value


class TestFull:
    async def test_a_full_engine_refuses_whole_and_takes_again_after_a_drop(self, kit: LogKit) -> None:
        engine = await kit.open(small=True)
        owner = await LogOwner.acquire(engine)
        positions: list[Position] = []
        while True:
            item = owner.make(bytes(200_000))
            (answer,) = await engine.append([item])
            if isinstance(answer, EngineError):
                break
            positions.append(answer)
        assert isinstance(answer, Full)
        assert len(positions) > 5
        assert (await engine.stats()).free_bytes < 3 * 200_000
        assert list(await read_all(engine)) == positions
        (successor,) = await engine.append([owner.make(b"small")])
        assert isinstance(successor, Unavailable | Full), "the blob before it is missing"

        await engine.checkpoint(0, owner.lease.epoch, positions[-1], [b"state"])
        await engine.drop(0, owner.lease.epoch, positions[:-2])
        assert await owner.append_item(item) == positions[-1] + 1

    async def test_an_urgent_append_uses_the_reserve(self, kit: LogKit) -> None:
        engine = await kit.open(small=True)
        owner = await LogOwner.acquire(engine)
        while not isinstance((await engine.append([item := owner.make(bytes(100_000))]))[0], Full):
            pass
        (answer,) = await engine.append([item], urgent=True)
        assert not isinstance(answer, EngineError)
        assert (await engine.read_one(0, answer)) == item.blob

    async def test_who_does_not_fit_does_not_keep_out_the_others(self, kit: LogKit) -> None:
        engine = await kit.open(small=True)
        big, small = await LogOwner.acquire(engine, 1), await LogOwner.acquire(engine, 2)
        answers = await asyncio.gather(
            engine.append([big.make(bytes(2 * kit.small_bytes))]), engine.append([small.make(b"small")])
        )
        assert isinstance(answers[0][0], Full)
        assert not isinstance(answers[1][0], EngineError)
        assert len(await read_all(engine, 1)) == 0
        assert len(await read_all(engine, 2)) == 1


class TestClosing:
    async def test_closing_twice_is_closing_once(self, engine: LogEngine) -> None:
        await engine.close()
        await engine.close()
        await asyncio.gather(engine.close(), engine.close())

    async def test_a_closed_engine_says_so(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        await engine.close()
        assert [type(answer) for answer in await engine.append([owner.make(), owner.make()])] == [
            Unavailable
        ] * 2
        with pytest.raises(Unavailable):
            await engine.acquire(0, "test")
        with pytest.raises(Unavailable):
            await read_all(engine)
        with pytest.raises(Unavailable):
            await engine.read_one(0, Position(1))
        with pytest.raises(Unavailable):
            await engine.read_many(0, [Position(1)])
        with pytest.raises(Unavailable):
            await engine.blobs(0)
        with pytest.raises(Unavailable):
            await engine.drop(0, owner.lease.epoch, [Position(1)])
        with pytest.raises(Unavailable):
            await engine.checkpoint(0, owner.lease.epoch, BEGINNING, [b""])
        with pytest.raises(Unavailable):
            await engine.last_checkpoint(0)
        with pytest.raises(Unavailable):
            await engine.meta_get(b"key")
        with pytest.raises(Unavailable):
            await engine.meta_cas(b"key", b"", None)
        with pytest.raises(Unavailable):
            await engine.stats()

    async def test_closing_finishes_what_is_under_way(self, durable_kit: DurableKit) -> None:
        engine = await durable_kit.open()
        owner = await LogOwner.acquire(engine)
        calls = [asyncio.ensure_future(engine.append([owner.make(b"%d" % n)])) for n in range(8)]
        await asyncio.sleep(0)
        await engine.close()
        answers = [(await call)[0] for call in calls]
        assert not any(isinstance(answer, EngineError) for answer in answers)
        assert list(await read_all(await durable_kit.open())) == answers

    async def test_a_cancelled_caller_disturbs_nobody(self, engine: LogEngine) -> None:
        owner = await LogOwner.acquire(engine)
        first, second = owner.make(b"1"), owner.make(b"2")
        cancelled = asyncio.ensure_future(engine.append([first]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        # Nobody heard what became of it: the same idx again finds out.
        position = await owner.append_item(first)
        assert await owner.append_item(second) > position
        assert list((await read_all(engine)).values()) == [first.blob, second.blob]


class TestStats:
    async def test_blobs_are_counted_and_room_is_measured(self, engine: LogEngine) -> None:
        before = await engine.stats()
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(bytes(100_000), bytes(100_000))
        full = await engine.stats()
        assert full.blobs == 2
        assert full.used_bytes >= before.used_bytes + 200_000
        assert full.free_bytes > 0
        assert full.used_bytes >= full.log_bytes >= 200_000
        assert full.checkpoint_bytes == 0
        await engine.checkpoint(0, owner.lease.epoch, positions[1], [bytes(50_000)])
        assert (await engine.stats()).checkpoint_bytes == 50_000
        await engine.drop(0, owner.lease.epoch, positions)
        after = await engine.stats()
        assert after.blobs == 0
        assert after.log_bytes <= full.log_bytes - 200_000
        assert after.used_bytes < full.used_bytes - 140_000


async def check_durability(kit: DurableKit) -> None:
    """Whatever was answered is there after a crash, whatever else was under way."""
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    positions = await owner.append(*(b"%d" % n for n in range(10)))
    await engine.checkpoint(0, owner.lease.epoch, positions[4], [b"state"])
    await engine.drop(0, owner.lease.epoch, positions[:3])
    revision = await engine.meta_cas(b"key", b"value", None)
    before = await read_all(engine)
    assert list(before) == positions[3:]

    under_way = asyncio.ensure_future(engine.append([owner.make(b"under way")]))
    await asyncio.sleep(0)
    engine = await kit.crash()
    await asyncio.gather(under_way, return_exceptions=True)

    after = await read_all(engine)
    assert {position: after.get(position) for position in before} == before
    assert len(after) <= len(before) + 1
    assert await engine.last_checkpoint(0) == (positions[4], b"state")
    assert await engine.meta_get(b"key") == (b"value", revision)
    successor = await LogOwner.acquire(engine)
    assert successor.lease.epoch > owner.lease.epoch
    assert successor.lease.fence == list(after)[-1]
    await successor.append(b"next")
    assert len(await read_all(engine)) == len(after) + 1


class TestDurability:
    async def test_what_was_answered_survives_a_crash(self, durable_kit: DurableKit) -> None:
        assert (await durable_kit.open()).caps.durability is not Durability.MEMORY
        await durable_kit.finish()
        await check_durability(durable_kit)

    async def test_an_engine_that_answers_too_early_is_caught(self) -> None:
        with pytest.raises(AssertionError):
            await check_durability(ForgetfulKit())

    @pytest.mark.parametrize("seed", range(20))
    async def test_whatever_a_simulated_crash_keeps(self, seed: int) -> None:
        await check_durability(SimulatedKit(seed))

    async def test_everything_survives_closing(self, durable_kit: DurableKit) -> None:
        engine = await durable_kit.open()
        for group in (0, 5):
            owner = await LogOwner.acquire(engine, group)
            positions = await owner.append(b"1", b"2", b"3" * 10_000)
            await engine.checkpoint(group, owner.lease.epoch, positions[1], [b"state" * 1000])
            await engine.drop(group, owner.lease.epoch, positions[:1])
        revision = await engine.meta_cas(b"key", b"value", None)
        before = [(await read_all(engine, group), await engine.last_checkpoint(group)) for group in (0, 5)]

        engine = await durable_kit.reopen(engine)
        assert [
            (await read_all(engine, group), await engine.last_checkpoint(group)) for group in (0, 5)
        ] == before
        assert await engine.meta_get(b"key") == (b"value", revision)
        assert (await LogOwner.acquire(engine)).lease.epoch == 2

    @pytest.mark.parametrize("durable", [False, True])
    async def test_an_ambiguous_append_is_readable_at_most_once(self, tmp_path: Path, durable: bool) -> None:
        kit = LmdbKit(tmp_path)
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        positions = await owner.append(b"1")
        kit.make_next_append_ambiguous(durable=durable)
        doubtful = owner.make(b"2")
        (answer,) = await engine.append([doubtful])
        assert isinstance(answer, Ambiguous)
        # The engine is over: nothing may be confirmed, or even read, until the store was opened anew.
        assert isinstance((await engine.append([doubtful]))[0], Ambiguous)
        with pytest.raises(Ambiguous):
            await read_all(engine)

        engine = await kit.reopen(engine)
        assert list(await read_all(engine)) == positions + ([positions[0] + 1] if durable else [])
        owner = await LogOwner.acquire(engine)
        assert isinstance((await engine.append([doubtful]))[0], Fenced)
        await kit.finish()
