"""Whose turn it is: round-robin, priorities, blocked consumers, exclusiveness, single active consumer."""

from datetime import UTC, datetime

import pytest
from queue_house import FakeChannel, QueueHouse, consumer_of

from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode


@pytest.fixture
def house() -> QueueHouse:
    return QueueHouse()


def test_consumers_take_turns(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    for tag in "abc":
        house.consume(queue, tag, channel=channel)
    house.publish(queue, *"1234567")
    house.end_turn()
    assert channel.tags == list("abcabca")
    house.publish(queue, "8")
    house.end_turn()
    assert channel.tags[-1] == "b"


def test_a_full_consumer_is_passed_over(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    house.consume(queue, "a", channel=channel, prefetch=1)
    house.consume(queue, "b", channel=channel)
    house.publish(queue, *"1234")
    house.end_turn()
    assert channel.tags == ["a", "b", "b", "b"]


def test_a_consumer_with_room_again_goes_to_the_end_of_the_rotation(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    for tag in "abc":
        house.consume(queue, tag, channel=channel, prefetch=1)
    house.publish(queue, *"1234567")
    house.end_turn()
    for _, copy in [channel.got[1], channel.got[0], channel.got[2]]:
        queue.settle([channel.release(copy)])
    house.end_turn()
    assert channel.tags == ["a", "b", "c", "b", "a", "c"]


def test_nobody_can_take_is_no_endless_loop(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue)
    channel.is_writable = False
    house.publish(queue, "1", "2")
    house.end_turn()
    assert (channel.got, queue.message_count) == ([], 2)
    assert consumer_of(queue).is_blocked


def test_a_consumer_alone_gets_what_its_prefetch_allows(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    house.consume(queue, "many", channel=channel, prefetch=3, arguments={"x-priority": 1})
    house.consume(queue, "one", channel=channel, prefetch=1)
    house.publish(queue, *"12345")
    house.end_turn()
    assert channel.tags == ["many"] * 3 + ["one"]
    assert queue.message_count == 1


def test_waking_delivers_at_the_end_of_the_turn(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue)
    channel.is_writable = False
    house.publish(queue, "1")
    house.end_turn()
    channel.is_writable = True
    queue.consumer_ready(consumer_of(queue))
    assert channel.got == []
    house.end_turn()
    assert channel.bodies == ["1"]


def test_waking_a_consumer_that_is_not_blocked_changes_nothing(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    house.consume(queue, "a", channel=channel)
    house.consume(queue, "b", channel=channel)
    queue.consumer_ready(consumer_of(queue, "a"))
    house.publish(queue, *"1234")
    house.end_turn()
    assert channel.tags == ["a", "b", "a", "b"]


def test_a_removed_consumer_gets_nothing_even_when_woken(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue, prefetch=1)
    house.publish(queue, "1", "2")
    house.end_turn()
    queue.remove_consumer(consumer_of(queue))
    queue.settle([channel.release(channel.got[0][1])])
    house.end_turn()
    assert channel.bodies == ["1"]
    assert queue.message_count == 1


def test_higher_priority_first_lower_while_it_is_full(house: QueueHouse) -> None:
    queue, channel = house.queue(), FakeChannel()
    house.consume(queue, "low", channel=channel, arguments={"x-priority": -1})
    house.consume(queue, "high", channel=channel, prefetch=2, arguments={"x-priority": 10})
    house.consume(queue, "normal", channel=channel, prefetch=1)
    house.publish(queue, *"12345")
    house.end_turn()
    assert channel.tags == ["high", "high", "normal", "low", "low"]
    queue.settle([channel.release(channel.got[0][1])])
    house.publish(queue, "6")
    house.end_turn()
    assert channel.tags[-1] == "high"


@pytest.mark.parametrize(
    ("value", "type_name"), [("1", "longstr"), (True, "bool"), (None, "void"), ([], "array"), ({}, "table")]
)
def test_a_priority_must_be_an_integer(house: QueueHouse, value: object, type_name: str) -> None:
    queue = house.queue()
    with pytest.raises(SoftError) as caught:
        house.consume(queue, arguments={"x-priority": value})
    assert caught.value.reply_text == (
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': "
        f'"expected integer, got {type_name}"'
    )


def test_a_timestamp_is_no_priority(house: QueueHouse) -> None:
    with pytest.raises(SoftError, match="got timestamp"):
        house.consume(house.queue(), arguments={"x-priority": datetime.now(UTC)})


def test_an_exclusive_consumer_shuts_out_others(house: QueueHouse) -> None:
    queue = house.queue()
    house.consume(queue, "a", exclusive=True)
    for exclusive in (False, True):
        with pytest.raises(SoftError) as caught:
            house.consume(queue, "b", exclusive=exclusive)
        assert caught.value.reply_code is ReplyCode.ACCESS_REFUSED
        assert caught.value.explanation == "queue 'q' in vhost '/' in exclusive use"
    queue.remove_consumer(consumer_of(queue, "a"))
    house.consume(queue, "b")
    assert queue.consumer_count == 1


def test_exclusive_is_refused_beside_another_consumer(house: QueueHouse) -> None:
    queue = house.queue()
    house.consume(queue, "a")
    with pytest.raises(SoftError, match="in exclusive use"):
        house.consume(queue, "b", exclusive=True)
    assert queue.consumer_count == 1


def test_a_single_active_consumer_gets_everything_until_it_goes(house: QueueHouse) -> None:
    queue, channel = house.queue(single_active_consumer=True), FakeChannel()
    house.consume(queue, "first", channel=channel, prefetch=2)
    house.consume(queue, "second", channel=channel, arguments={"x-priority": 5})
    house.publish(queue, *"1234")
    house.end_turn()
    assert channel.tags == ["first", "first"]
    active = queue.active_consumer
    assert active is not None
    assert active.tag == "first"
    queue.remove_consumer(active)
    house.end_turn()
    assert channel.tags == ["first", "first", "second", "second"]


def test_a_waiting_consumer_of_a_single_active_queue_may_go_unnoticed(house: QueueHouse) -> None:
    queue, channel = house.queue(single_active_consumer=True), FakeChannel()
    for tag in "abc":
        house.consume(queue, tag, channel=channel)
    queue.remove_consumer(consumer_of(queue, "b"))
    queue.remove_consumer(consumer_of(queue, "a"))
    house.publish(queue, "1")
    house.end_turn()
    assert channel.tags == ["c"]


def test_single_active_and_exclusive_exclude_each_other(house: QueueHouse) -> None:
    with pytest.raises(SoftError, match="in exclusive use"):
        house.consume(house.queue(single_active_consumer=True), exclusive=True)


def test_an_unacked_message_does_not_count_for_a_consumer_without_acks(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue, prefetch=1, no_ack=True)
    house.publish(queue, *"123")
    house.end_turn()
    assert channel.bodies == ["1", "2", "3"]
    assert queue.unacked_count == 0


def test_nothing_is_delivered_before_the_queue_may(house: QueueHouse) -> None:
    queue = house.queue()
    queue.may_deliver = False
    channel = house.consume(queue)
    house.publish(queue, "1")
    house.end_turn()
    assert channel.got == []
    queue.may_deliver = True
    queue.dispatch()
    assert channel.bodies == ["1"]
