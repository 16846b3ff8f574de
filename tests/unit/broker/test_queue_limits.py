"""x-max-length and x-max-length-bytes, and what happens to what is too much."""

import pytest
from queue_house import QueueHouse, bodies_ready, consumer_of, drain

from leveret.broker.message import CopyState
from leveret.broker.queues.dead_letter import DeathReason
from leveret.broker.queues.delivery import REFUSED_IN_PART, enqueue_to


@pytest.fixture
def house() -> QueueHouse:
    return QueueHouse()


def test_the_head_is_dropped_when_there_are_too_many(house: QueueHouse) -> None:
    queue = house.queue(max_length=2)
    house.publish(queue, *"12345")
    house.end_turn()
    assert bodies_ready(queue) == ["4", "5"]
    assert queue.deaths_total[DeathReason.MAXLEN] == 3
    assert [copy.message.body for copy in house.journal.settled] == [b"1", b"2", b"3"]


def test_a_ttl_of_zero_needs_room_before_it_expires(house: QueueHouse) -> None:
    """RabbitMQ's order: a dead letter says `maxlen`, and an older message may have to go."""
    queue = house.queue(max_length=1)
    house.publish(queue, "1")
    house.end_turn()
    house.publish(queue, "2", expiration="0")
    house.end_turn()
    assert bodies_ready(queue) == []
    assert queue.deaths_total == {
        DeathReason.MAXLEN: 1,
        DeathReason.EXPIRED: 1,
        DeathReason.REJECTED: 0,
        DeathReason.DELIVERY_LIMIT: 0,
    }


def test_the_head_is_dropped_when_there_are_too_many_bytes(house: QueueHouse) -> None:
    queue = house.queue(max_length_bytes=10)
    house.publish(queue, "aaaa", "bbbb", "cc")
    house.end_turn()
    assert bodies_ready(queue) == ["aaaa", "bbbb", "cc"]
    house.publish(queue, "d")
    house.end_turn()
    assert bodies_ready(queue) == ["bbbb", "cc", "d"]
    house.publish(queue, "this is longer than all that is allowed")
    house.end_turn()
    assert bodies_ready(queue) == []


def test_both_limits_apply(house: QueueHouse) -> None:
    queue = house.queue(max_length=3, max_length_bytes=10)
    house.publish(queue, *"1234")
    house.end_turn()
    assert bodies_ready(queue) == ["2", "3", "4"]
    house.publish(queue, "56789012")
    house.end_turn()
    assert bodies_ready(queue) == ["3", "4", "56789012"]


def test_the_highest_priority_is_at_the_head_and_dropped_first(house: QueueHouse) -> None:
    # RabbitMQ documents that "higher priority messages might be dropped to make way for lower priority ones".
    queue = house.queue(max_length=2, max_priority=10)
    for body, priority in (("one", 1), ("five", 5), ("three", 3)):
        house.publish(queue, body, priority=priority)
    assert drain(queue) == ["three", "one"]


def test_unacked_messages_take_no_room(house: QueueHouse) -> None:
    queue = house.queue(max_length=1)
    house.publish(queue, "1")
    assert queue.take() is not None
    house.publish(queue, "2")
    house.end_turn()
    assert bodies_ready(queue) == ["2"]


def test_what_goes_straight_to_a_consumer_takes_no_room(house: QueueHouse) -> None:
    for overflow in ("drop-head", "reject-publish"):
        queue = house.queue(overflow, max_length=1, overflow=overflow)
        channel = house.consume(queue, prefetch=3)
        assert len(house.publish(queue, *"1234")) == 4
        house.end_turn()
        assert channel.bodies == ["1", "2", "3"]
        assert bodies_ready(queue) == ["4"]


def test_a_length_of_zero_needs_a_consumer(house: QueueHouse) -> None:
    queue = house.queue(max_length=0)
    house.publish(queue, "1")
    assert queue.take() is None
    channel = house.consume(queue)
    house.publish(queue, "2")
    house.end_turn()
    assert channel.bodies == ["2"]


def test_a_queue_that_refuses_everything(house: QueueHouse) -> None:
    queue = house.queue(max_length=0, overflow="reject-publish")
    house.consume(queue)
    assert house.publish(queue, "1") == []
    assert queue.deaths_total[DeathReason.MAXLEN] == 0


def test_a_full_queue_refuses(house: QueueHouse) -> None:
    queue = house.queue(max_length=2, overflow="reject-publish")
    assert [message.body for message in house.publish(queue, "1", "2", "3")] == [b"1", b"2"]
    assert drain(queue) == ["1", "2"]
    assert house.publish(queue, "4") != []


def test_a_body_that_does_not_fit_is_refused(house: QueueHouse) -> None:
    queue = house.queue(max_length_bytes=5, overflow="reject-publish")
    house.publish(queue, "123", "456", "78")
    assert bodies_ready(queue) == ["123", "78"]


def test_other_queues_still_get_what_one_refuses(house: QueueHouse) -> None:
    full = house.queue("full", max_length=0, overflow="reject-publish")
    free = house.queue("free")
    message = house.message("1")
    assert enqueue_to([message], [full, free], house.fakes.services) == [REFUSED_IN_PART]
    assert bodies_ready(free) == ["1"]
    [(_, copies)] = house.journal.published
    assert [copy.queue for copy in copies] == [free]


def test_a_refused_message_can_be_dead_lettered(house: QueueHouse) -> None:
    queue = house.queue(
        max_length=1, overflow="reject-publish-dlx", dead_letter_exchange="", dead_letter_routing_key="dlq"
    )
    dead_letters = house.queue("dlq")
    assert len(house.publish(queue, "1", "2")) == 1
    house.end_turn()
    assert bodies_ready(queue) == ["1"]
    assert bodies_ready(dead_letters) == ["2"]
    assert house.journal.settled == [], "the journal never heard of a copy in the full queue"


def test_giving_back_to_a_full_queue_drops_its_head(house: QueueHouse) -> None:
    queue = house.queue(max_length=2)
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    house.publish(queue, "2", "3")
    queue.requeue([copy], failed=False)
    house.end_turn()
    assert bodies_ready(queue) == ["2", "3"]
    assert copy.state is CopyState.GONE


def test_giving_back_to_a_full_queue_drops_even_what_a_consumer_could_take(house: QueueHouse) -> None:
    queue = house.queue(max_length=1)
    channel = house.consume(queue, prefetch=1)
    house.publish(queue, "1")
    house.end_turn()
    house.publish(queue, "2")
    house.end_turn()
    queue.requeue([channel.release(channel.got[0][1])], failed=False)
    house.end_turn()
    assert channel.bodies == ["1", "2"]
    assert queue.deaths_total[DeathReason.MAXLEN] == 1


def test_a_queue_that_refuses_keeps_what_is_given_back(house: QueueHouse) -> None:
    queue = house.queue(max_length=1, overflow="reject-publish")
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    house.publish(queue, "2")
    queue.requeue([copy], failed=False)
    assert drain(queue) == ["1", "2"]


def test_restored_messages_obey_the_limit(house: QueueHouse) -> None:
    queue = house.queue(max_length=1)
    house.recover(queue, *[house.message(body) for body in "12"])
    house.end_turn()
    house.read_back(queue)
    house.end_turn()
    assert bodies_ready(queue) == ["2"]
    assert queue.message_count == 1


def test_what_is_dropped_is_settled_at_the_end_of_the_turn(house: QueueHouse) -> None:
    queue = house.queue(max_length=1)
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    house.publish(queue, "2")
    house.end_turn()
    queue.requeue([copy], failed=False)
    assert bodies_ready(queue) == ["2"], "nobody can take it any more"
    assert house.journal.settled == []
    house.end_turn()
    assert bodies_ready(queue) == ["2"]
    assert house.journal.settled == [copy]


def test_a_refused_message_is_never_seen_by_a_checkpoint(house: QueueHouse) -> None:
    queue = house.queue(max_length=0, overflow="reject-publish-dlx", dead_letter_exchange="")
    house.publish(queue, "1")
    assert bodies_ready(queue) == []


def test_a_blocked_consumer_does_not_help_a_full_queue(house: QueueHouse) -> None:
    queue = house.queue(max_length=1, overflow="reject-publish")
    channel = house.consume(queue)
    channel.is_writable = False
    assert len(house.publish(queue, "1", "2")) == 1
    channel.is_writable = True
    queue.consumer_ready(consumer_of(queue))
    assert len(house.publish(queue, "3")) == 1
    house.end_turn()
    assert channel.bodies == ["1", "3"]
