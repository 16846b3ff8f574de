"""Order, counts and lazy cleaning of the ready messages of a queue."""

import pytest
from queue_house import QueueHouse

from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.message import CopyState, Message, QueuedMessage
from leveret.broker.queues.lane import GONE_TOLERATED
from leveret.broker.queues.queue import Queue
from leveret.broker.queues.ready import (
    FifoMessages,
    PriorityMessages,
    ReadyMessages,
    ready_messages,
)
from leveret.broker.queues.runs import NEVER, RunTable
from leveret.protocol.amqp.properties import read_facts


@pytest.fixture
def queue() -> Queue:
    return QueueHouse().queue()


def copy_of(queue: Queue, sequence: int, *, body: bytes = b"body", priority: int = 0) -> QueuedMessage:
    message = Message(sequence, 0, "", "q", b"\0\0", read_facts(b"\0\0"), body)
    return QueuedMessage(message, queue, None, priority)


def pop_sequences(ready: ReadyMessages) -> list[int]:
    sequences = []
    while (copy := ready.pop()) is not None:
        sequences.append(copy.message.sequence)
    return sequences


@pytest.fixture(params=[None, 9])
def ready(request: pytest.FixtureRequest, queue: Queue) -> ReadyMessages:
    return ready_messages(queue, request.param)


def test_a_queue_with_max_priority_gets_levels(queue: Queue) -> None:
    assert isinstance(ready_messages(queue, None), FifoMessages)
    assert isinstance(ready_messages(queue, 0), PriorityMessages)


def test_comes_out_as_it_went_in(ready: ReadyMessages, queue: Queue) -> None:
    for sequence in (1, 2, 3):
        ready.add(copy_of(queue, sequence))
    assert [copy.message.sequence for copy in ready] == [1, 2, 3]
    assert pop_sequences(ready) == [1, 2, 3]
    assert ready.pop() is None


def test_so_many_or_so_much_is_taken_at_a_time(ready: ReadyMessages, queue: Queue) -> None:
    ready.extend([copy_of(queue, sequence, body=bytes(1000)) for sequence in range(1, 8)])

    def taken(count_max: int, bytes_max: int) -> list[int]:
        return [copy.message.sequence for copy in ready.take(count_max, bytes_max)]

    assert taken(3, 1 << 20) == [1, 2, 3]
    assert taken(5, 1) == [4]
    assert taken(5, 1100) == [5]
    assert taken(5, 1 << 20) == [6, 7]
    assert taken(5, 1 << 20) == []
    assert (ready.count, ready.body_bytes) == (0, 0)


def test_counts_messages_and_bytes_exactly(ready: ReadyMessages, queue: Queue) -> None:
    copies = [copy_of(queue, sequence, body=b"x" * sequence) for sequence in (1, 2, 4)]
    for copy in copies:
        ready.add(copy)
    assert (ready.count, ready.body_bytes) == (3, 7)
    ready.pop()
    assert (ready.count, ready.body_bytes) == (2, 6)
    copies[2].state = CopyState.GONE
    ready.forget(copies[2])
    assert (ready.count, ready.body_bytes) == (1, 2)
    ready.drain()
    assert (ready.count, ready.body_bytes) == (0, 0)


def test_what_is_given_back_returns_to_its_place(ready: ReadyMessages, queue: Queue) -> None:
    for sequence in range(1, 8):
        ready.add(copy_of(queue, sequence))
    taken = [ready.pop() for _ in range(5)]
    for index in (3, 0, 4):  # in any order
        copy = taken[index]
        assert copy is not None
        ready.add(copy)
    ready.add(copy_of(queue, 8))
    assert [copy.message.sequence for copy in ready] == [1, 4, 5, 6, 7, 8]
    assert pop_sequences(ready) == [1, 4, 5, 6, 7, 8]


def test_skips_what_ended_in_here(ready: ReadyMessages, queue: Queue) -> None:
    copies = [copy_of(queue, sequence) for sequence in range(1, 6)]
    for copy in copies:
        ready.add(copy)
    for index in (0, 2, 4):
        copies[index].state = CopyState.GONE
        ready.forget(copies[index])
    assert [copy.message.sequence for copy in ready] == [2, 4]
    assert pop_sequences(ready) == [2, 4]


def test_drain_takes_everything_in_order(ready: ReadyMessages, queue: Queue) -> None:
    for sequence in (1, 2, 3):
        ready.add(copy_of(queue, sequence))
    first = ready.pop()
    assert first is not None
    ready.add(first)
    (emptied,) = ready.drain()
    assert [copy.message.sequence for copy in emptied.copies] == [1, 2, 3]
    assert ready.pop() is None
    ready.add(copy_of(queue, 4))
    assert pop_sequences(ready) == [4]


def test_memory_of_ended_copies_is_bounded_by_the_live_ones(queue: Queue) -> None:
    ready = FifoMessages(queue, 0)
    head = copy_of(queue, 1)
    ready.add(head)
    for sequence in range(2, 1000):
        copy = copy_of(queue, sequence)
        ready.add(copy)
        copy.state = CopyState.GONE
        ready.forget(copy)
    held = len(ready._in_order)
    assert held <= GONE_TOLERATED + 2
    assert pop_sequences(ready) == [1]


def test_cleaning_keeps_what_was_given_back(queue: Queue) -> None:
    ready = FifoMessages(queue, 0)
    copies = [copy_of(queue, sequence) for sequence in range(1, 1000)]
    for copy in copies:
        ready.add(copy)
    taken = [ready.pop() for _ in range(500)]
    for copy in taken:
        assert copy is not None
        ready.add(copy)
    for copy in copies[1:]:
        copy.state = CopyState.GONE
        ready.forget(copy)
    assert pop_sequences(ready) == [1]


def test_the_highest_priority_comes_first(queue: Queue) -> None:
    ready = PriorityMessages(queue)
    for sequence, priority in enumerate((1, 5, 0, 5, 255), start=1):
        ready.add(copy_of(queue, sequence, priority=priority))
    assert [copy.priority for copy in ready] == [255, 5, 5, 1, 0]
    assert pop_sequences(ready) == [5, 2, 4, 1, 3]


def test_a_level_emptied_by_an_end_is_passed_over(queue: Queue) -> None:
    ready = PriorityMessages(queue)
    high, low = copy_of(queue, 1, priority=9), copy_of(queue, 2, priority=1)
    ready.add(high)
    ready.add(low)
    high.state = CopyState.GONE
    ready.forget(high)
    assert ready.pop() is low
    assert ready.pop() is None


def test_drain_empties_the_highest_level_first(queue: Queue) -> None:
    ready = PriorityMessages(queue)
    for sequence, priority in ((1, 0), (2, 5), (3, 0)):
        ready.add(copy_of(queue, sequence, priority=priority))
    drained = ready.drain()
    assert [[copy.message.sequence for copy in emptied.copies] for emptied in drained] == [[2], [1, 3]]
    assert ready.pop() is None
    assert list(ready) == []


def test_nothing_of_a_lower_priority_overtakes_what_must_be_read_first(queue: Queue) -> None:
    ready = PriorityMessages(queue)
    ready.add(copy_of(queue, 1, priority=0))
    table = RunTable()
    table.publish(2, 1, NEVER)
    ready.lane(5).begin_cold(table, 4)
    ready.recount()
    assert (ready.count, ready.body_bytes) == (2, 8)
    assert ready.pop() is None
    lane = ready.lane(5)
    ready.read_ahead()
    (row,) = lane.wanted_rows(1)
    lane.admit(row, StoredBlob(Blobs(), 1), [copy_of(queue, 2, priority=5)], 2)
    assert pop_sequences(ready) == [2, 1]


def test_a_lane_is_made_once_and_only_when_needed(queue: Queue) -> None:
    ready = PriorityMessages(queue)
    assert list(ready.lanes) == []
    assert ready.lane(3) is ready.lane(3)
    assert [lane.priority for lane in ready.lanes] == [3]
