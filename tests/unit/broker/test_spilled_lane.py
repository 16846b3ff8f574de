"""A lane's copies that only the memory has: they go to the spill and come back in their places."""

import pytest
from lane_house import LaneHouse, give_back, popped

from leveret.broker.message import QueuedMessage
from leveret.broker.queues.lane import COPY_BYTES, GONE_TOLERATED


@pytest.fixture
def house() -> LaneHouse:
    return LaneHouse()


def in_spill(house: LaneHouse) -> list[int]:
    return [sequence for row in house.lane.spilled or () for sequence in house.live_in(row)]


def publish_transient(house: LaneHouse, count: int) -> None:
    for _ in range(count):
        house.publish(b"", is_durable=False)


def spillable(house: LaneHouse, keep_copies: int = 0) -> list[QueuedMessage]:
    return house.lane.spillable(keep_copies * COPY_BYTES, 1 << 20)[0]


def test_what_only_the_memory_has_is_spilled_and_read_back_in_order(house: LaneHouse) -> None:
    publish_transient(house, 6)
    copies = spillable(house, keep_copies=2)
    assert [copy.message.sequence for copy in copies] == [3, 4, 5, 6]
    assert house.in_memory == [1, 2, 3, 4, 5, 6], "until they are written"
    house.spill_some(copies[:3])
    house.spill_some(copies[3:])
    assert (house.in_memory, in_spill(house)) == ([1, 2], [3, 4, 5, 6])
    assert (house.lane.count, house.lane.count_in_memory) == (6, 2)
    publish_transient(house, 1)
    assert house.pop_all() == [1, 2, 3, 4, 5, 6, 7]
    assert len(house.spilled) == 0


def test_no_more_is_spillable_than_is_asked_for(house: LaneHouse) -> None:
    house.publish(b"", b"123", b"", is_durable=False)
    copies, size = house.lane.spillable(0, COPY_BYTES + 1)
    assert [copy.message.sequence for copy in copies] == [1, 2]
    assert size == 2 * COPY_BYTES + 3


def test_what_the_log_holds_is_not_spillable(house: LaneHouse) -> None:
    house.publish(b"1")
    publish_transient(house, 1)
    house.commit()
    house.publish(b"3")
    publish_transient(house, 1)
    assert [copy.message.sequence for copy in spillable(house)] == [2, 4]


def test_logged_and_spilled_runs_interleave(house: LaneHouse) -> None:
    for _ in range(3):
        house.publish(b"x")
        publish_transient(house, 1)
    house.commit()
    house.lane.let_go(0)
    house.spill_some(spillable(house))
    assert ([row.live for row in house.lane.cold or ()], in_spill(house)) == ([3], [2, 4, 6])
    house.lane.want_more()
    house.read(1)
    assert (house.in_memory, house.cold) == ([1, 3, 5], [2, 4, 6])
    assert house.pop_all() == [1, 2, 3, 4, 5, 6]


def test_the_lowest_is_read_first_wherever_it_is(house: LaneHouse) -> None:
    publish_transient(house, 1)
    house.publish(b"2")
    house.commit()
    house.lane.let_go(0)
    house.spill_some(spillable(house))
    house.lane.want_more()
    assert [row.first for row in house.lane.wanted_rows(1)] == [1]


def test_nothing_in_memory_goes_before_what_the_log_has(house: LaneHouse) -> None:
    house.publish(b"1")
    publish_transient(house, 1)
    house.commit()
    house.lane.let_go(0)
    publish_transient(house, 1)
    house.spill_some(spillable(house)[1:])
    assert (house.in_memory, house.cold) == ([2], [1, 3])
    assert house.lane.pop() is None
    assert house.pop_all() == [1, 2, 3]


def test_what_is_taken_while_it_is_written_is_not_spilled(house: LaneHouse) -> None:
    publish_transient(house, 5)
    copies = spillable(house)
    kept = popped(house), popped(house), popped(house)
    give_back(house, kept[0])
    give_back(house, kept[2])
    house.spill_some(copies)
    assert [(row.first, row.last, row.live) for row in house.lane.spilled or ()] == [(1, 1, 1), (3, 5, 3)]
    give_back(house, kept[1])
    assert house.pop_all() == [1, 2, 3, 4, 5]


def test_what_came_back_and_is_spilled_then_is_not_in_here_twice(house: LaneHouse) -> None:
    publish_transient(house, 3)
    copies = spillable(house)
    give_back(house, popped(house))
    house.spill_some(copies)
    house.lane.want_more()
    house.read()
    assert house.pop_all() == [1, 2, 3]


def test_what_was_straightened_is_not_overtaken_by_what_is_read(house: LaneHouse) -> None:
    publish_transient(house, 6)
    copies = spillable(house, keep_copies=2)
    give_back(house, popped(house))
    house.spill_some(copies[:2])
    house.lane.want_more()
    house.read()
    assert house.pop_all() == [1, 2, 3, 4, 5, 6]


def test_what_was_spilled_does_not_stay_in_memory_for_long(house: LaneHouse) -> None:
    publish_transient(house, 4 * GONE_TOLERATED)
    copies = spillable(house)
    popped(house)  # and with it, all move to the front
    house.spill_some(copies)
    assert len(house.lane._in_order) + len(house.lane._tail) <= GONE_TOLERATED


def test_history_is_kept_while_a_copy_is_spilled_and_not_longer(house: LaneHouse) -> None:
    publish_transient(house, 2)
    copy = popped(house)
    copy.redelivered, copy.delivery_count = True, 3
    give_back(house, copy)
    house.spill_some(spillable(house))
    assert house.queue.returned == {}, "it would come into checkpoints"
    house.lane.want_more()
    house.read()
    first, second = list(house.lane)
    assert (first.redelivered, first.delivery_count, first.is_durable) == (True, 3, False)
    assert (second.redelivered, second.delivery_count) == (False, 0)
    assert house.lane.spilled is not None
    assert house.lane.spilled.returned == {}


def test_when_the_first_spilled_copy_expires_is_known(house: LaneHouse) -> None:
    house.publish(b"", is_durable=False, expires_at=3000)
    house.publish(b"", is_durable=False, expires_at=2000)
    publish_transient(house, 1)
    house.spill_some(spillable(house))
    (row,) = house.lane.spilled or ()
    assert row.expires_at == 2000
    house.lane.want_run(1)
    assert house.lane.wanted_rows(1) == [row]
