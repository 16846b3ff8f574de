"""TTL of messages and of queues, in a time that the test moves."""

import pytest
from queue_house import FakeChannel, QueueHouse, bodies_ready, consumer_of, drain

from leveret.broker.message import CopyState
from leveret.broker.queues.dead_letter import DeathReason
from leveret.broker.queues.expiry import CLEAN_UP_AT
from leveret.broker.queues.queue import BURIALS_MAX


@pytest.fixture
def house() -> QueueHouse:
    return QueueHouse()


def test_a_message_expires_on_time_without_anybody_looking(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=1000)
    house.publish(queue, "1")
    house.advance(999)
    assert bodies_ready(queue) == ["1"]
    house.advance(1)
    assert bodies_ready(queue) == []
    assert queue.deaths_total[DeathReason.EXPIRED] == 1
    assert [copy.message.body for copy in house.journal.settled] == [b"1"]


@pytest.mark.parametrize(("queue_ttl", "own_ttl"), [(500, "2000"), (2000, "500"), (None, "500"), (500, None)])
def test_the_lower_ttl_counts(house: QueueHouse, queue_ttl: int | None, own_ttl: str | None) -> None:
    queue = house.queue(message_ttl_ms=queue_ttl)
    house.publish(queue, "1", expiration=own_ttl)
    house.advance(499)
    assert bodies_ready(queue) == ["1"]
    house.advance(1)
    assert bodies_ready(queue) == []


def test_a_message_expires_behind_one_that_lives_longer(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "long")
    house.publish(queue, "short", expiration="10")
    house.publish(queue, "middle", expiration="20")
    house.advance(10)
    assert bodies_ready(queue) == ["long", "middle"]
    assert queue.message_count == 2
    house.advance(10)
    assert bodies_ready(queue) == ["long"]


def test_an_expired_message_is_not_handed_out_when_the_timer_is_late(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=10)
    house.publish(queue, "1", "2")
    house.end_turn()
    house.clock.advance(10)  # timers do not fire
    assert queue.take() is None
    house.publish(queue, "3")
    house.end_turn()
    house.clock.advance(10)
    channel = house.consume(queue)
    house.end_turn()
    assert channel.got == []
    assert queue.message_count == 0


def test_a_ttl_of_zero_needs_a_consumer_at_once(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=0)
    channel = house.consume(queue, prefetch=1)
    house.publish(queue, "1", "2")
    house.end_turn()
    assert channel.bodies == ["1"]
    assert queue.deaths_total[DeathReason.EXPIRED] == 1
    queue.settle([channel.release(channel.got[0][1])])
    house.end_turn()
    assert channel.bodies == ["1"]


def test_a_ttl_of_zero_is_nothing_for_get(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "1", expiration="0")
    assert queue.take() is None


def test_a_ttl_of_zero_delivered_and_given_back_expires(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=0)
    channel = house.consume(queue)
    house.publish(queue, "1")
    house.end_turn()
    queue.requeue([channel.release(channel.got[0][1])], failed=False)
    house.end_turn()
    assert channel.bodies == ["1"]
    assert queue.deaths_total[DeathReason.EXPIRED] == 1


def test_giving_back_keeps_the_instant(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=1000)
    house.publish(queue, "1")
    for _ in range(3):
        house.advance(300)
        copy = queue.take()
        assert copy is not None
        queue.requeue([copy], failed=False)
    house.advance(99)
    assert bodies_ready(queue) == ["1"]
    house.advance(1)
    assert bodies_ready(queue) == []


def test_a_message_does_not_expire_at_a_consumer_but_when_it_comes_back(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=1000)
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    house.advance(5000)
    assert copy.state is CopyState.UNACKED
    assert queue.deaths_total[DeathReason.EXPIRED] == 0
    queue.requeue([copy], failed=False)
    assert queue.take() is None
    assert queue.deaths_total[DeathReason.EXPIRED] == 1
    assert house.journal.requeued == []


def test_one_timer_per_queue_at_the_next_instant(house: QueueHouse) -> None:
    queue = house.queue()
    for expiration in ("500", "100", "300", "200"):
        house.publish(queue, expiration, expiration=expiration)
    house.end_turn()
    assert [timer.when_ms - house.clock.now_ms() for timer in house.fakes.timers.pending] == [100]
    house.advance(100)
    assert [timer.when_ms - house.clock.now_ms() for timer in house.fakes.timers.pending] == [100]
    assert bodies_ready(queue) == ["500", "300", "200"]


def test_a_backlog_that_expires_at_once_does_not_hold_up_others(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=10, dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, *("m" for _ in range(3 * BURIALS_MAX)))
    house.end_turn()
    house.clock.advance(10)
    queue.dispatch()
    assert queue.message_count == 0, "for everybody they are gone at once"
    assert 0 < dead_letters.message_count < 3 * BURIALS_MAX
    assert len(house.journal.settled) == dead_letters.message_count, "the log still has the others"
    house.end_turn()
    assert dead_letters.message_count == len(house.journal.settled) == 3 * BURIALS_MAX


def test_a_deleted_queue_still_buries_its_dead(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=10, dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, *("m" for _ in range(3 * BURIALS_MAX)))
    house.clock.advance(10)
    assert queue.delete() == 0
    assert dead_letters.message_count == 3 * BURIALS_MAX
    house.end_turn()
    assert len(house.journal.settled) == 3 * BURIALS_MAX


def test_no_timer_is_left_when_nothing_can_expire(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=100)
    house.publish(queue, "1")
    drain(queue)
    house.advance(100)
    assert house.fakes.timers.pending == []
    house.publish(queue, "2")
    queue.delete()
    assert house.fakes.timers.pending == []


def test_acked_messages_do_not_pile_up_until_their_ttl(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=3_600_000)
    for _ in range(10):
        house.publish(queue, *("m" for _ in range(CLEAN_UP_AT)))
        drain(queue)
    assert len(queue._message_expiry._heap) <= CLEAN_UP_AT + 1


def test_cleaning_up_keeps_what_lives(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=1000)
    house.publish(queue, "kept")
    unacked = queue.take()
    assert unacked is not None
    house.publish(queue, *("m" for _ in range(CLEAN_UP_AT)))
    queue.purge()
    house.publish(queue, *("n" for _ in range(CLEAN_UP_AT)))
    queue.purge()
    house.advance(500)
    queue.requeue([unacked], failed=False)
    house.advance(499)
    assert bodies_ready(queue) == ["kept"]
    house.advance(1)
    assert bodies_ready(queue) == []


def test_an_idle_queue_expires(house: QueueHouse) -> None:
    queue = house.queue(expires_ms=1000, dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, "1")
    house.advance(999)
    assert not queue.is_deleted
    house.advance(1)
    assert queue.is_deleted
    assert "q" not in house.vhost.queues
    assert dead_letters.message_count == 0, "queue expiry does not dead-letter"
    assert house.fakes.timers.pending == []


def test_a_queue_that_recovery_forgot_does_not_take_its_successor_along(house: QueueHouse) -> None:
    house.queue(expires_ms=1000)
    house.advance(500)
    successor = house.queue(expires_ms=1000)
    house.advance(999)
    assert not successor.is_deleted
    house.advance(1)
    assert successor.is_deleted


def test_get_and_declare_put_the_expiry_off(house: QueueHouse) -> None:
    queue = house.queue(expires_ms=1000)
    house.advance(600)
    queue.take()
    house.advance(600)
    queue.touch()
    house.advance(999)
    assert not queue.is_deleted
    house.advance(1)
    assert queue.is_deleted


def test_publishing_does_not_put_the_expiry_off(house: QueueHouse) -> None:
    queue = house.queue(expires_ms=1000)
    house.advance(600)
    house.publish(queue, "1")
    house.advance(400)
    assert queue.is_deleted


def test_a_queue_with_a_consumer_does_not_expire(house: QueueHouse) -> None:
    queue, channel = house.queue(expires_ms=1000), FakeChannel()
    house.advance(500)
    house.consume(queue, channel=channel)
    house.advance(10_000)
    assert not queue.is_deleted
    house.advance(700)
    queue.remove_consumer(consumer_of(queue))
    house.advance(999)
    assert not queue.is_deleted
    house.advance(1)
    assert queue.is_deleted
    assert channel.cancelled == []


def test_the_deletion_of_an_unused_queue_is_told_to_the_turn(house: QueueHouse) -> None:
    house.queue(expires_ms=1000)
    house.fakes.turn.marked.clear()
    house.fakes.timers.advance(1000)
    assert house.fakes.turn.marked, "else nobody would commit it before the next traffic"
