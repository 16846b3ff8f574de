"""When lanes must let go, and how much all of them take together."""

from itertools import pairwise

import pytest
from queue_house import QueueHouse

from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.message import CopyState
from leveret.broker.queues.lane import COPY_BYTES, LET_GO_AT_BYTES, READ_AHEAD_BYTES, WINDOW_BYTES, Lane
from leveret.broker.queues.queue import Queue
from leveret.broker.queues.windows import STEP_BYTES, TIGHT_READ_COPIES, Windows


class Filler:
    """Publishes messages into lanes, each in a blob of its own."""

    def __init__(self) -> None:
        self._house = QueueHouse()
        self._position = 0

    def lane(self, name: str = "q") -> Lane:
        return self._house.queue(name).lane(0)

    def fill(self, lane: Lane, *sizes: int) -> None:
        for size in sizes:
            queue: Queue = lane.queue
            [copy] = queue.enqueue([self._house.message("x" * size)])
            assert copy is not None
            copy.is_durable = True
            self._position += 1
            lane.store([copy], StoredBlob(Blobs(), self._position))


@pytest.fixture
def filler() -> Filler:
    return Filler()


MIB = 1 << 20


def test_a_small_lane_keeps_everything(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, 10, 20)
    windows.fit(lane)
    assert lane.count_in_memory == 2
    assert windows.total == 30 + 2 * COPY_BYTES
    assert not windows.is_tight
    assert (windows.read_bytes, windows.copies_max) == (READ_AHEAD_BYTES, None)


def test_a_large_lane_is_cut_to_its_window(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    count = LET_GO_AT_BYTES // MIB
    filler.fill(lane, *([MIB] * (count - 1)))
    windows.fit(lane)
    assert lane.count_in_memory == count - 1, "the work would not be worth it yet"
    filler.fill(lane, MIB)
    assert lane.bytes_in_memory > LET_GO_AT_BYTES
    while windows.fit(lane):
        pass
    assert (lane.count, lane.count_in_memory) == (count, 1)
    assert lane.bytes_in_memory <= WINDOW_BYTES
    assert windows.total == lane.bytes_in_memory


def test_it_is_cut_in_steps_so_that_others_have_their_turn(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, *([MIB] * (LET_GO_AT_BYTES // MIB)))
    weights = [lane.bytes_in_memory]
    while windows.fit(lane):
        weights.append(lane.bytes_in_memory)
    steps = [before - after for before, after in pairwise(weights)]
    assert all(STEP_BYTES <= step <= STEP_BYTES + 2 * MIB for step in steps), steps
    assert len(steps) > 3
    assert lane.bytes_in_memory <= WINDOW_BYTES


def test_a_step_that_was_not_followed_by_another_is_made_up_for_at_the_next_look(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, *([MIB] * (LET_GO_AT_BYTES // MIB)))
    assert windows.fit(lane)
    for _ in range(LET_GO_AT_BYTES // STEP_BYTES):
        windows.weigh_some()
    assert lane.bytes_in_memory <= WINDOW_BYTES
    assert not windows.fit(lane)


def test_what_was_cut_once_is_cut_again_only_when_it_is_worth_it(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, *([MIB] * (LET_GO_AT_BYTES // MIB)))
    while windows.fit(lane):
        pass
    filler.fill(lane, *([MIB] * 5))
    in_memory = lane.count_in_memory
    assert not windows.fit(lane)
    assert lane.count_in_memory == in_memory


def test_all_lanes_together_may_be_too_much(filler: Filler) -> None:
    windows = Windows(2 * MIB)
    lanes = [filler.lane(name) for name in "abc"]
    for lane in lanes:
        filler.fill(lane, MIB // 2, MIB // 2)
        windows.fit(lane)
    assert [lane.count_in_memory for lane in lanes] == [2, 0, 0]
    assert windows.total == lanes[0].bytes_in_memory


def test_while_it_is_tight_little_is_read(filler: Filler) -> None:
    windows, lane = Windows(COPY_BYTES), filler.lane()
    filler.fill(lane, 1)
    windows.weigh(lane)
    assert windows.is_tight
    assert (windows.read_bytes, windows.copies_max) == (1, TIGHT_READ_COPIES)


def test_what_consumers_took_shows_at_the_next_look(filler: Filler) -> None:
    windows = Windows(2 * MIB)
    taken, kept = filler.lane("taken"), filler.lane("kept")
    filler.fill(taken, 2 * MIB)
    filler.fill(kept, 10)
    for lane in (taken, kept):
        windows.weigh(lane)
    assert windows.is_tight
    copy = taken.pop()
    assert copy is not None
    copy.state = CopyState.UNACKED
    windows.weigh_some()
    assert not windows.is_tight
    assert windows.total == kept.bytes_in_memory


def test_a_closed_lane_weighs_nothing(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, 10)
    windows.weigh(lane)
    lane.is_closed = True
    windows.weigh_some()
    assert windows.total == 0
    windows.fit(lane)
    assert windows.total == 0


def test_a_lane_is_counted_once(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    for size in (10, 20, 30):
        filler.fill(lane, size)
        windows.weigh(lane)
        windows.weigh_some()
    assert windows.total == lane.bytes_in_memory == 60 + 3 * COPY_BYTES


def test_what_is_stuck_is_looked_at_again_only_when_there_is_as_much_that_is_new(filler: Filler) -> None:
    windows, lane = Windows(0), filler.lane()
    filler.fill(lane, *([10] * 50))
    for copy in list(lane):
        copy.run, copy.is_durable = None, False
    windows.fit(lane)
    assert lane.count_in_memory == 50
    filler.fill(lane, *([10] * 50))
    windows.fit(lane)
    assert lane.count_in_memory == 100
    filler.fill(lane, 10)
    windows.fit(lane)
    assert lane.count_in_memory == 50
    filler.fill(lane, *([10] * 51))
    windows.fit(lane)
    assert lane.count_in_memory == 50


def test_what_is_stuck_gets_another_try_every_now_and_then(filler: Filler) -> None:
    windows, lane = Windows(0), filler.lane()
    filler.fill(lane, *([10] * 50))
    runs = {copy: copy.run for copy in lane}
    for copy in runs:
        copy.run = None
    windows.fit(lane)
    assert lane.count_in_memory == 50
    for copy, run in runs.items():
        copy.run = run
    for _ in range(5):
        windows.weigh_some()
    assert lane.count_in_memory == 0


def test_what_was_stuck_and_has_gone_counts_no_more(filler: Filler) -> None:
    windows, lane = Windows(0), filler.lane()
    filler.fill(lane, *([10] * 50))
    for copy in list(lane):
        copy.run, copy.is_durable = None, False
    windows.fit(lane)
    while lane.pop() is not None:
        pass
    windows.weigh_some()
    filler.fill(lane, 10)
    windows.fit(lane)
    assert lane.count_in_memory == 0


def test_what_was_stuck_once_does_not_end_the_steps(filler: Filler) -> None:
    windows, lane = Windows(), filler.lane()
    filler.fill(lane, *([MIB] * 18))
    runs = {copy: copy.run for copy in lane}
    for copy in runs:
        copy.run = None
    windows.fit(lane)
    for copy, run in runs.items():
        copy.run = run
    filler.fill(lane, *([MIB] * 24))
    while windows.fit(lane):
        pass
    assert lane.bytes_in_memory <= WINDOW_BYTES


def test_a_look_lets_go_of_no_more_than_a_step_of_all_lanes(filler: Filler) -> None:
    windows = Windows(0)
    lanes = [filler.lane(str(number)) for number in range(6)]
    for lane in lanes:
        filler.fill(lane, *([MIB] * 4))
        assert windows.fit(lane)
    while windows.total:
        before = windows.total
        windows.weigh_some()
        assert STEP_BYTES <= before - windows.total <= 2 * STEP_BYTES + MIB
