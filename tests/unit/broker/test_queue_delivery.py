"""How messages go through a queue: publish, deliver, get, settle, give back, purge, delete."""

import pytest
from queue_house import FakeChannel, QueueHouse, bodies_ready, consumer_of, copies_ready, drain

from leveret.broker.message import CopyState
from leveret.broker.queues.dead_letter import DeathReason
from leveret.broker.queues.delivery import STORED, delivered_properties, enqueue_to
from leveret.protocol.amqp.properties import decode_properties


@pytest.fixture
def house() -> QueueHouse:
    return QueueHouse()


def test_what_is_published_is_delivered_in_order_at_the_end_of_the_turn(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue)
    house.publish(queue, "1", "2", "3")
    assert channel.got == []
    house.end_turn()
    assert channel.bodies == ["1", "2", "3"]
    assert (queue.message_count, queue.unacked_count) == (0, 3)
    assert all(copy.state is CopyState.UNACKED for _, copy in channel.got)


def test_a_settled_copy_is_gone_and_the_journal_knows(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue)
    house.publish(queue, "1")
    house.end_turn()
    copy = channel.got[0][1]
    queue.settle([channel.release(copy)])
    assert copy.state is CopyState.GONE
    assert house.journal.settled == [copy]
    assert queue.unacked_count == 0


def test_get_takes_the_head(house: QueueHouse) -> None:
    queue = house.queue()
    assert queue.take() is None
    house.publish(queue, "1", "2")
    copy = queue.take()
    assert copy is not None
    assert copy.message.body == b"1"
    assert copy.state is CopyState.UNACKED
    assert (queue.message_count, queue.unacked_count) == (1, 1)


def test_consumers_come_before_a_get_of_the_same_turn(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue)
    house.publish(queue, "1")
    assert queue.take() is None
    assert channel.bodies == ["1"]


def test_counts_seen_by_a_peer_leave_out_what_consumers_get(house: QueueHouse) -> None:
    queue = house.queue()
    house.consume(queue, prefetch=1)
    house.publish(queue, "1", "2", "3")
    assert queue.message_count == 2


def test_what_is_given_back_is_redelivered_at_its_old_place(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, *"12345")
    first, second, third = (queue.take() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    queue.requeue([third, first], failed=False)
    assert bodies_ready(queue) == ["1", "3", "4", "5"]
    again = queue.take()
    assert again is first
    assert again.redelivered
    assert not second.redelivered
    assert house.journal.requeued == [third, first]


def test_what_is_given_back_goes_to_a_consumer_again(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue, prefetch=1)
    house.publish(queue, "1", "2")
    house.end_turn()
    queue.requeue([channel.release(channel.got[0][1])], failed=False)
    house.end_turn()
    assert channel.bodies == ["1", "1"]
    assert queue.redelivered_total == 1


def test_failed_deliveries_are_counted_others_not(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "1")
    for failed, count in ((True, 1), (False, 1), (True, 2)):
        copy = queue.take()
        assert copy is not None
        queue.requeue([copy], failed=failed)
        assert copy.delivery_count == count


def test_a_quorum_queue_gives_up_after_twenty_failures(house: QueueHouse) -> None:
    queue = house.queue(queue_type="quorum")
    house.publish(queue, "1")
    for _ in range(21):
        copy = queue.take()
        assert copy is not None
        queue.requeue([copy], failed=True)
    assert queue.take() is None
    assert queue.deaths_total[DeathReason.DELIVERY_LIMIT] == 1
    assert house.journal.settled == [copy]


@pytest.mark.parametrize(("limit", "deliveries"), [(0, 1), (2, 3), (-1, 50)])
def test_the_delivery_limit_can_be_set(house: QueueHouse, limit: int, deliveries: int) -> None:
    queue = house.queue(queue_type="quorum", delivery_limit=limit)
    house.publish(queue, "1")
    count = 0
    while count < 50 and (copy := queue.take()) is not None:
        count += 1
        queue.requeue([copy], failed=True)
    assert count == deliveries


def test_consumers_of_a_quorum_queue_see_how_often_a_message_failed(house: QueueHouse) -> None:
    quorum, classic = house.queue("quorum", queue_type="quorum"), house.queue("classic")
    for queue in (quorum, classic):
        house.publish(queue, "1", headers={"a": 1})
        copy = queue.take()
        assert copy is not None
        queue.requeue([copy], failed=True)
    house.publish(quorum, "2")
    headers = [decode_properties(delivered_properties(copy)).headers for copy in copies_ready(quorum)]
    assert headers == [{"a": 1, "x-delivery-count": 1}, {"x-delivery-count": 0}]
    headers = [decode_properties(delivered_properties(copy)).headers for copy in copies_ready(classic)]
    assert headers == [{"a": 1}]


def test_purge_drops_what_is_ready_only(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "1", "2", "3")
    unacked = queue.take()
    assert unacked is not None
    assert queue.purge() == 2
    assert queue.message_count == 0
    assert [copy.message.body for copy in house.journal.settled] == [b"2", b"3"]
    queue.requeue([unacked], failed=False)
    assert drain(queue) == ["1"]


def test_a_discarded_message_is_gone(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    queue.discard(copy, DeathReason.REJECTED)
    assert copy.state is CopyState.GONE
    assert (queue.unacked_count, queue.message_count) == (0, 0)
    assert house.journal.settled == [copy]
    assert queue.deaths_total[DeathReason.REJECTED] == 1


def test_priorities_are_capped_and_ordered(house: QueueHouse) -> None:
    queue = house.queue(max_priority=5)
    house.publish(queue, "none")
    house.publish(queue, "three", priority=3)
    house.publish(queue, "nine", priority=9)
    house.publish(queue, "five", priority=5)
    assert drain(queue) == ["nine", "five", "three", "none"]


def test_priority_means_nothing_without_x_max_priority(house: QueueHouse) -> None:
    queue = house.queue()
    house.publish(queue, "low", priority=0)
    house.publish(queue, "high", priority=9)
    assert drain(queue) == ["low", "high"]


def test_a_given_back_priority_message_keeps_its_place(house: QueueHouse) -> None:
    queue = house.queue(max_priority=5)
    house.publish(queue, "a", "b", priority=2)
    copy = queue.take()
    assert copy is not None
    house.publish(queue, "c", priority=5)
    queue.requeue([copy], failed=False)
    assert drain(queue) == ["c", "a", "b"]


def test_each_durable_copy_of_a_persistent_message_is_journaled_once(house: QueueHouse) -> None:
    durable, other = house.queue("a"), house.queue("b")
    transient = house.queue("c", durable=False)
    message = house.message()
    assert enqueue_to([message], [durable, transient, other], house.fakes.services) == (STORED,)
    [(journaled, copies)] = house.journal.published
    assert journaled is message
    assert [copy.queue for copy in copies] == [durable, other]


def test_a_transient_message_is_not_journaled(house: QueueHouse) -> None:
    first, second = house.queue("a"), house.queue("b")
    enqueue_to([house.message(delivery_mode=1)], [first], house.fakes.services)
    enqueue_to([house.message(delivery_mode=1)], [first, second], house.fakes.services)
    assert house.journal.published == []
    assert (first.message_count, second.message_count) == (2, 1)


def test_auto_delete_waits_for_the_last_consumer(house: QueueHouse) -> None:
    queue = house.queue(auto_delete=True)
    house.publish(queue, "1")
    house.end_turn()
    assert not queue.is_deleted, "it never had a consumer"
    house.consume(queue, "a")
    house.consume(queue, "b")
    queue.remove_consumer(consumer_of(queue, "a"))
    assert not queue.is_deleted
    queue.remove_consumer(consumer_of(queue, "b"))
    assert queue.is_deleted
    assert house.vhost.queues == {}


def test_delete_settles_cancels_and_tells_how_much_there_was(house: QueueHouse) -> None:
    queue, channel = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq"), FakeChannel()
    dead_letters = house.queue("dlq")
    house.consume(queue, "a", channel=channel, prefetch=1)
    house.publish(queue, "1", "2", "3")
    house.end_turn()
    assert queue.delete() == 2
    assert channel.cancelled == ["a"]
    assert "q" not in house.vhost.queues
    assert [copy.message.body for copy in house.journal.settled] == [b"2", b"3"]
    assert dead_letters.message_count == 0
    assert queue.delete() == 0


def test_what_a_channel_still_holds_of_a_deleted_queue_ends_quietly(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, "1", "2", "3")
    acked, returned, rejected = (queue.take() for _ in range(3))
    assert acked is not None
    assert returned is not None
    assert rejected is not None
    queue.delete()
    queue.settle([acked])
    queue.requeue([returned], failed=True)
    queue.discard(rejected, DeathReason.REJECTED)
    assert house.journal.settled == [acked, returned, rejected]
    assert house.journal.requeued == []
    assert dead_letters.message_count == 0
    assert returned.state is CopyState.GONE


def test_removing_a_consumer_of_a_deleted_queue_is_harmless(house: QueueHouse) -> None:
    queue = house.queue(auto_delete=True)
    house.consume(queue)
    consumer = consumer_of(queue)
    queue.delete()
    queue.remove_consumer(consumer)
    assert queue.consumer_count == 0


def test_after_a_crash_all_that_may_have_been_with_a_consumer_is_redelivered(house: QueueHouse) -> None:
    queue = house.queue()
    messages = [house.message(body) for body in "abc"]
    queue.redelivered_up_to = messages[1].sequence
    house.recover(queue, *messages)
    house.read_back(queue)
    assert [copy.redelivered for copy in copies_ready(queue)] == [True, True, False]


def test_restored_messages_keep_order_and_history(house: QueueHouse) -> None:
    queue = house.queue(message_ttl_ms=1000, max_priority=3)
    messages = [house.message(body, priority=priority) for body, priority in (("a", 0), ("b", 9), ("c", 0))]
    house.clock.advance(400)
    queue.returned[messages[0].sequence] = 4
    house.recover(queue, *messages)
    house.read_back(queue)
    second, first, third = copies_ready(queue)
    assert [copy.message for copy in (first, second, third)] == messages
    assert (first.redelivered, first.delivery_count) == (True, 4)
    assert (third.redelivered, third.delivery_count) == (False, 0)
    assert (first.priority, second.priority) == (0, 3)
    assert second.expires_at == messages[1].published_at + 1000
    house.advance(599)
    assert queue.message_count == 3
    house.advance(1)
    assert queue.message_count == 0


def test_counters_tell_what_happened(house: QueueHouse) -> None:
    queue = house.queue()
    channel = house.consume(queue, prefetch=2)
    house.publish(queue, "1", "2", "3")
    house.end_turn()
    got = queue.take()
    assert got is not None
    queue.settle([got])
    queue.requeue([channel.release(channel.got[0][1])], failed=False)
    house.end_turn()
    assert queue.enqueued_total == 3
    assert queue.delivered_total == 3
    assert queue.redelivered_total == 1
    assert queue.got_total == 1
    assert queue.settled_total == 1
