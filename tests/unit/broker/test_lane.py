"""A lane against a sorted list: whatever is let go of and read back, nothing is lost, doubled, overtaken."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lane_house import LaneHouse, give_back, popped

from leveret.broker.message import CopyState, QueuedMessage
from leveret.broker.queues.lane import COPY_BYTES, GONE_TOLERATED, READ_AHEAD_BYTES, READ_RUNS_MAX, Lane
from leveret.broker.queues.runs import NEVER, RunTable


@pytest.fixture
def house() -> LaneHouse:
    return LaneHouse()


def test_what_is_let_go_of_is_read_back_in_order(house: LaneHouse) -> None:
    for number in range(5):
        house.publish(b"a", b"b" * number)
        house.commit()
    house.lane.let_go(0)
    assert (house.in_memory, house.cold) == ([], list(range(1, 11)))
    assert (house.lane.count, house.lane.body_bytes) == (10, 15)
    assert (house.lane.count_in_memory, house.lane.bytes_in_memory) == (0, 0)
    house.publish(b"new")
    assert house.lane.pop() is None, "before the new one comes what must be read"
    assert house.house.fakes.reader.wanted == [house.lane]
    assert house.pop_all() == list(range(1, 12))
    assert (house.lane.count, house.lane.body_bytes) == (0, 0)


def test_everything_is_taken_if_it_is_not_too_much(house: LaneHouse) -> None:
    house.publish(b"a", b"bb", b"ccc")
    room = 3 * COPY_BYTES + 6 + 3 * len(b"\0\0")
    assert [copy.message.sequence for copy in house.lane.take(3, room)] == [1, 2, 3]
    assert (house.lane.count, house.lane.body_bytes) == (0, 0)
    house.publish(b"a", b"bb", b"ccc")
    assert [copy.message.sequence for copy in house.lane.take(2, room)] == [4, 5]
    house.publish(b"d" * 100)
    assert (house.lane.count, house.lane.body_bytes) == (2, 103)
    assert [copy.message.sequence for copy in house.lane.take(9, room - 2 * COPY_BYTES)] == [6, 7]


def test_of_what_has_ended_nothing_is_taken(house: LaneHouse) -> None:
    house.publish(b"a", b"bb", b"ccc")
    second = list(house.lane)[1]
    second.state = CopyState.GONE
    house.lane.forget(second)
    assert [copy.message.sequence for copy in house.lane.take(9, 1 << 20)] == [1, 3]
    assert (house.lane.count, house.lane.body_bytes) == (0, 0)


def test_of_a_long_lane_only_what_is_taken_is_looked_at(house: LaneHouse) -> None:
    class Watched(bytes):
        looks = 0

        def __len__(self) -> int:
            Watched.looks += 1
            return super().__len__()

    house.publish(*(Watched(b"x" * 100) for _ in range(1000)))
    Watched.looks = 0
    assert len(house.lane.take(1 << 40, 5 * COPY_BYTES)) == 5
    assert Watched.looks <= 20


def test_no_more_is_taken_at_a_time_than_what_must_be_read(house: LaneHouse) -> None:
    for _ in range(3):
        house.publish(b"a", b"b")
        house.commit()
    house.lane.let_go(2 * (COPY_BYTES + 1))
    assert house.in_memory == [1, 2]
    assert [copy.message.sequence for copy in house.lane.take(5, 1 << 20)] == [1, 2]
    assert house.house.fakes.reader.wanted == []
    assert house.lane.take(5, 1 << 20) == []
    assert house.house.fakes.reader.wanted == [house.lane]


def test_the_front_stays_as_far_as_it_may(house: LaneHouse) -> None:
    for _ in range(5):
        house.publish(b"", b"")
        house.commit()
    house.lane.let_go(5 * COPY_BYTES)
    assert (house.in_memory, house.cold) == ([1, 2, 3, 4], [5, 6, 7, 8, 9, 10])
    assert house.lane.bytes_in_memory == 4 * COPY_BYTES
    assert house.pop_all() == list(range(1, 11))


def test_what_the_log_has_not_yet_stays(house: LaneHouse) -> None:
    house.publish(b"1", b"2")
    house.commit()
    house.publish(b"3")
    house.lane.let_go(0)
    assert (house.in_memory, house.cold) == ([3], [1, 2])
    house.commit()
    house.lane.let_go(0)
    assert (house.in_memory, house.cold) == ([], [1, 2, 3])


def test_a_message_that_is_not_stored_pins_only_itself(house: LaneHouse) -> None:
    house.publish(b"1")
    house.publish(b"2", is_durable=False)
    house.publish(b"3")
    house.commit()
    house.publish(b"4", is_durable=False)
    house.publish(b"5")
    house.commit()
    house.lane.let_go(0)
    assert (house.in_memory, house.cold) == ([2, 4], [1, 3, 5])
    house.lane.let_go(0)
    assert house.pop_all() == [1, 2, 3, 4, 5]


def test_a_run_with_a_copy_at_a_channel_stays_in_front_of_what_is_let_go_of(house: LaneHouse) -> None:
    house.publish(b"1", b"2", b"3")
    house.commit()
    house.publish(b"4")
    house.commit()
    first = popped(house)
    for _ in range(2):
        house.lane.let_go(0)
        assert (house.in_memory, house.cold) == ([2, 3], [4])
    assert popped(house).message.sequence == 2
    house.lane.let_go(0)
    give_back(house, first)  # lower than all that is in memory or cold
    house.lane.let_go(0)
    assert house.pop_all() == [1, 3, 4]


def test_a_run_whose_copies_all_ended_in_here_is_not_let_go_of(house: LaneHouse) -> None:
    """Its blob may be dropped: a row for it would ask for what is not there any more."""
    house.publish(b"1", b"2")
    house.commit()
    house.publish(b"3")
    house.commit()
    for copy in list(house.lane)[:2]:
        house.settle(copy)
        house.lane.forget(copy)
    house.commit()
    house.lane.let_go(0)
    assert [row.first for row in house.lane.cold or ()] == [3]
    assert house.pop_all() == [3]


def test_what_expires_is_read_before_it_is_its_turn(house: LaneHouse) -> None:
    for number in range(4):
        house.publish(b"x", expires_at=1000 + number)
        house.commit()
    house.lane.let_go(0)
    house.lane.want_run(3)
    assert [row.first for row in house.lane.wanted_rows(1)] == [3]
    assert house.read() == 1
    assert (house.in_memory, house.cold) == ([3], [1, 2, 4])
    assert house.lane.wanted_rows(1) == []
    house.lane.want_run(3)
    assert house.lane.wanted_rows(1) == [], "it is there already"
    assert house.pop_all() == [1, 2, 3, 4]


def test_a_run_that_expires_and_is_the_head_is_wanted_once(house: LaneHouse) -> None:
    for _ in range(2):
        house.publish(b"x", expires_at=1000)
        house.commit()
    house.lane.let_go(0)
    house.lane.want_run(1)
    house.lane.want_run(2)
    house.lane.want_more()
    assert [row.first for row in house.lane.wanted_rows(READ_AHEAD_BYTES)] == [1, 2]
    assert house.read() == 2
    assert house.pop_all() == [1, 2]


def test_when_the_first_copy_of_a_run_expires_is_known_while_it_is_cold(house: LaneHouse) -> None:
    house.publish(b"1", expires_at=3000)
    house.publish(b"2", expires_at=2000)
    house.publish(b"3")
    house.commit()
    house.lane.let_go(0)
    (row,) = house.lane.cold or ()
    assert row.expires_at == 2000


def test_history_is_kept_while_a_copy_is_cold(house: LaneHouse) -> None:
    house.publish(b"1", b"2")
    house.commit()
    copy = popped(house)
    copy.redelivered, copy.delivery_count = True, 3
    give_back(house, copy)
    house.lane.let_go(0)
    assert house.queue.returned == {1: 3}
    house.lane.want_more()
    house.read()
    first, second = list(house.lane)
    assert (first.redelivered, first.delivery_count) == (True, 3)
    assert (second.redelivered, second.delivery_count) == (False, 0)


def test_no_more_is_wanted_than_a_window_takes(house: LaneHouse) -> None:
    for _ in range(READ_RUNS_MAX + 3):
        house.publish(b"x" * COPY_BYTES)
        house.commit()
    house.lane.let_go(0)
    house.lane.want_more()
    assert len(house.lane.wanted_rows(1)) == 1
    assert len(house.lane.wanted_rows(2 * 2 * COPY_BYTES + 1)) == 3
    assert len(house.lane.wanted_rows(READ_AHEAD_BYTES)) == READ_RUNS_MAX


def test_reading_ahead_asks_only_while_the_front_is_short(house: LaneHouse) -> None:
    wanted = house.house.fakes.reader.wanted
    house.publish(bytes(READ_AHEAD_BYTES))
    house.commit()
    house.publish(b"cold")
    house.commit()
    house.lane.read_ahead()
    assert wanted == [], "nothing is cold"
    house.lane.let_go(READ_AHEAD_BYTES + COPY_BYTES)
    house.lane.read_ahead()
    assert wanted == [], "enough is in front"
    popped(house)
    house.lane.read_ahead()
    assert wanted == [house.lane]


def test_a_run_with_holes_is_read_back_a_part_at_a_time(house: LaneHouse) -> None:
    house.publish(*(b"%d" % number for number in range(1, 9)))
    house.commit()
    first, second, third, *others = [popped(house) for _ in range(7)]
    for copy in (first, third):
        house.settle(copy)
    for copy in (second, *others):
        give_back(house, copy)
    house.commit()
    house.lane.let_go(0)
    assert [(row.first, row.last, row.gone) for row in house.lane.cold or ()] == [(1, 8, 0b101)]
    house.lane.want_more()
    house.read(copies_max=2)
    assert house.in_memory == [2, 4]
    assert [(row.first, row.last, row.gone) for row in house.lane.cold or ()] == [(5, 8, 0)]
    assert house.lane.resident[1].row()[:5] == (1, 4, 1, 2, 0b101)
    house.settle(popped(house))
    house.commit()
    house.lane.let_go(0)
    assert [(row.first, row.last, row.gone) for row in house.lane.cold or ()] == [(1, 4, 0b111), (5, 8, 0)]
    assert house.pop_all() == [4, 5, 6, 7, 8]


def test_a_hole_behind_the_cut_stays_with_the_rest(house: LaneHouse) -> None:
    house.publish(*(b"%d" % number for number in range(1, 7)))
    house.commit()
    copies = [popped(house) for _ in range(6)]
    house.settle(copies[4])
    for copy in copies[:4] + copies[5:]:
        give_back(house, copy)
    house.commit()
    house.lane.let_go(0)
    house.lane.want_more()
    house.read(copies_max=2)
    assert [(row.first, row.last, row.gone) for row in house.lane.cold or ()] == [(3, 6, 0b100)]
    assert house.lane.resident[1].gone == 0
    assert house.pop_all() == [1, 2, 3, 4, 6]


def test_a_moved_run_is_looked_for_in_its_new_blob(house: LaneHouse) -> None:
    house.publish(b"1", b"2")
    victim = house.commit()
    house.lane.let_go(0)
    target = house.commit()
    assert house.lane.is_cold_in(2, victim)
    house.lane.move_cold(2, target)
    assert not house.lane.is_cold_in(1, victim)
    house.lane.want_more()
    (row,) = house.lane.wanted_rows(1)
    assert row.position == target.position


def test_what_recovery_found_is_all_cold(house: LaneHouse) -> None:
    house.publish(b"12", b"345")
    blob = house.commit()
    table = RunTable()
    for sequence in (1, 2):
        table.publish(sequence, blob.position, 5000)
    lane = Lane(house.queue, 0)
    lane.begin_cold(table, 5)
    assert (lane.count, lane.body_bytes, lane.live_bytes) == (2, 5, 5)
    assert (lane.count_in_memory, lane.bytes_in_memory) == (0, 0)
    house.lane = lane
    copies = [(house.read(), lane.pop())[1] for _ in range(1) if lane.pop() is None]
    assert [copy and copy.message.sequence for copy in copies] == [1]
    (first,) = copies
    assert first is not None
    give_back(house, first)
    assert house.pop_all() == [1, 2]


def test_purging_forgets_what_was_wanted(house: LaneHouse) -> None:
    house.publish(b"1", expires_at=1)
    house.commit()
    house.lane.let_go(0)
    house.lane.want_run(1)
    house.lane.want_more()
    emptied = house.lane.empty()
    assert [row.first for row in emptied.cold] == [1]
    assert (emptied.copies, emptied.cold.body_bytes) == ([], 1)
    assert house.lane.wanted_rows(1) == []
    house.publish(b"2")
    assert house.pop_all() == [2]


class LaneMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.house = LaneHouse()
        self.lane = self.house.lane
        self.ready: set[int] = set()
        self.unacked: dict[int, QueuedMessage] = {}
        self.being_written: list[QueuedMessage] = []
        self.redelivered: set[int] = set()

    @rule(
        sizes=st.lists(st.integers(0, 600), min_size=1, max_size=5),
        is_durable=st.sampled_from((True, True, False)),
    )
    def publish(self, sizes: list[int], is_durable: bool) -> None:
        for size in sizes:
            self.house.publish(bytes(size), is_durable=is_durable)
            self.ready.add(len(self.house.messages))

    @rule(keep_bytes=st.none() | st.integers(0, 6000))
    def commit(self, keep_bytes: int | None) -> None:
        self.house.commit()
        if keep_bytes is not None:
            self.lane.let_go(keep_bytes)

    @rule(keep_bytes=st.integers(0, 6000), bytes_max=st.integers(1, 6000))
    def begin_to_spill(self, keep_bytes: int, bytes_max: int) -> None:
        self.being_written, _ = self.lane.spillable(keep_bytes, bytes_max)
        assert all(copy.state is CopyState.READY and not copy.is_durable for copy in self.being_written)

    @precondition(lambda self: self.being_written)
    @rule()
    def end_to_spill(self) -> None:
        """Some of it may have gone meanwhile, or gone and come back."""
        copies, self.being_written = self.being_written, []
        self.house.spill_some(copies)

    @rule(count=st.integers(1, 4))
    def pop(self, count: int) -> None:
        for _ in range(count):
            copy = self.lane.pop()
            if copy is None:
                # A run may begin before its first live copy; what lies between waits for nothing, but waits.
                first = min((table.first for table in self.lane.cold_tables), default=NEVER)
                assert not self.ready or first <= min(self.ready)
                return
            sequence = copy.message.sequence
            assert sequence == min(self.ready)
            assert copy.state is CopyState.READY
            assert copy.lane is self.lane
            copy.state = CopyState.UNACKED
            self.ready.remove(sequence)
            self.unacked[sequence] = copy

    @precondition(lambda self: self.ready)
    @rule(copies_max=st.none() | st.integers(1, 3))
    def pop_the_head(self, copies_max: int | None) -> None:
        """A consumer has credit: the head comes, from wherever it is."""
        copy = self.lane.pop()
        if copy is None:
            assert self.house.read(1, copies_max)
            copy = self.lane.pop()
        assert copy is not None
        assert copy.message.sequence == min(self.ready)
        copy.state = CopyState.UNACKED
        self.ready.remove(copy.message.sequence)
        self.unacked[copy.message.sequence] = copy

    @precondition(lambda self: self.unacked)
    @rule(data=st.data(), count=st.integers(1, 4))
    def give_back(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.unacked))):
            sequence = data.draw(st.sampled_from(sorted(self.unacked)))
            copy = self.unacked.pop(sequence)
            copy.state = CopyState.READY
            copy.redelivered = True
            self.redelivered.add(sequence)
            self.lane.add(copy)
            self.ready.add(sequence)

    @precondition(lambda self: self.unacked)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        copy = self.unacked.pop(data.draw(st.sampled_from(sorted(self.unacked))))
        self.house.settle(copy)

    @precondition(lambda self: self.house.in_memory)
    @rule(data=st.data(), count=st.integers(1, 4))
    def expire(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.house.in_memory))):
            copy = data.draw(st.sampled_from(list(self.lane)))
            self.house.settle(copy)
            self.lane.forget(copy)
            self.ready.remove(copy.message.sequence)

    @precondition(lambda self: self.house.cold)
    @rule(data=st.data(), copies_max=st.none() | st.integers(1, 3), wants_head=st.booleans())
    def read_some_run(self, data: st.DataObject, copies_max: int | None, wants_head: bool) -> None:
        """Something of it expires."""
        rows = [row for table in self.lane.cold_tables for row in table]
        self.lane.want_run(data.draw(st.sampled_from(rows)).first)
        if wants_head:
            self.lane.want_more()
        assert self.house.read(1, copies_max)

    @rule()
    def purge(self) -> None:
        self.house.purge()
        self.ready.clear()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        in_memory, cold = self.house.in_memory, self.house.cold
        assert in_memory == sorted(in_memory)
        assert sorted(in_memory + cold) == sorted(self.ready)
        assert [copy.redelivered for copy in self.lane] == [seq in self.redelivered for seq in in_memory]

    @invariant()
    def what_is_counted_is_there(self) -> None:
        def size_of(sequences: "list[int] | set[int]") -> int:
            return sum(len(self.house.messages[sequence].body) for sequence in sequences)

        in_memory, cold = self.house.in_memory, self.house.cold
        lane = self.lane
        assert (lane.count, lane.body_bytes) == (len(self.ready), size_of(self.ready))
        assert lane.count_in_memory == len(in_memory)
        assert lane.bytes_in_memory == COPY_BYTES * len(in_memory) + size_of(in_memory)
        assert lane.live_bytes == size_of(self.house.logged)
        for table in lane.cold_tables:
            its = [sequence for row in table for sequence in self.house.live_in(row)]
            assert (table.copies, table.body_bytes) == (len(its), size_of(its))
        in_spill = [blob.live_copies for blob in self.house.spilled]
        assert sum(in_spill) == len(set(cold) - self.house.logged)
        assert all(in_spill)
        held = [*lane._in_order, *(copy for _, copy in lane._out_of_order), *lane._tail]
        assert len(held) <= 2 * len(in_memory) + GONE_TOLERATED + 1
        assert lane._gone == sum(copy.state is not CopyState.READY for copy in held)

    @invariant()
    def runs_tell_what_the_log_has(self) -> None:
        """Cold ones and those in memory together, as a checkpoint takes them."""
        rows = [run.row() for run in self.lane.resident.values()] + list(self.lane.cold or ())
        found = sorted(sequence for row in rows for sequence in self.house.live_in(row))
        assert found == sorted(self.house.logged)
        assert sum(row.live for row in rows) == len(self.house.logged)
        assert all(row.live for row in rows)
        assert sum(blob.live_copies for blob in self.house.blobs) == len(self.house.logged)
        assert all(row.expires_at == NEVER for row in rows)


def test_a_lane_does_what_a_sorted_list_does() -> None:
    run_state_machine_as_test(
        LaneMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
