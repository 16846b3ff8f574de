"""What a group commit packs: what is still alive, in order of replay, in blobs of bounded size."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from leveret.broker.durability import records
from leveret.broker.durability.batch import Batch
from leveret.broker.durability.blobs import StoredBlob
from leveret.broker.durability.journal import STRETCHES_MAX, Journal
from leveret.broker.durability.records import RecordType
from leveret.broker.message import CopyState, Message, QueuedMessage
from leveret.broker.queues.lane import Lane
from leveret.broker.queues.runs import NEVER, Row, RunTable
from leveret.protocol.amqp.properties import BasicProperties, encode_properties, read_facts
from leveret.storage.blob import iter_records

BLOB_MAX_BYTES = 4096
PERSISTENT = encode_properties(BasicProperties(delivery_mode=2))


class StubQueue:
    """All that the journal and a lane ask of a queue."""

    def __init__(self, queue_id: int, durable: bool = True) -> None:
        self.id = queue_id
        self.durable = durable
        self.delivering = False
        self.is_deleted = False
        self.returned: dict[int, int] = {}
        self.ready = Lane(self, 0)  # type: ignore[arg-type]


class StubChannel:
    """All that a batch asks of a channel."""

    def __init__(self) -> None:
        self.confirmed: list[int] = []

    def confirm_up_to(self, publish_tag: int) -> None:
        self.confirmed.append(publish_tag)


@pytest.fixture
def journal() -> Journal:
    return Journal(BLOB_MAX_BYTES)


Publish = Callable[..., list[QueuedMessage]]


@pytest.fixture
def publish(journal: Journal) -> Publish:
    sequences = count(1)

    def publish(*queues: StubQueue, body: bytes = b"body") -> list[QueuedMessage]:
        message = Message(next(sequences), 1000, "x", "key", PERSISTENT, read_facts(PERSISTENT), body)
        copies = []
        for queue in queues:
            copy = QueuedMessage(message, queue, None, 0)  # type: ignore[arg-type]
            queue.ready.add(copy)
            copies.append(copy)
        journal.publish([message], [copy for copy in copies if copy.queue.durable])
        return copies

    return publish


def unpacked(batch: Batch) -> list[tuple[RecordType, Any]]:
    """The records of a batch, over all of its blobs."""
    readers: dict[RecordType, Callable[[bytes], Any]] = {
        RecordType.PUBLISH: lambda record: records.unpack_publish(record)[0],
        RecordType.LARGE: lambda record: records.unpack_publish(record)[0],
        RecordType.PART: bytes,
        RecordType.SETTLE: records.unpack_settle,
        RecordType.PURGE: records.unpack_purge,
        RecordType.REQUEUE: records.unpack_requeue,
        RecordType.DELIVERING: records.unpack_delivering,
        RecordType.TOPOLOGY: records.unpack_map,
    }
    found = []
    for pieces in batch.payloads:
        payload = b"".join(pieces)
        for record_type, start, end in iter_records(payload):
            kind = RecordType(record_type)
            found.append((kind, readers[kind](payload[start:end])))
    return found


def settle(journal: Journal, copy: QueuedMessage) -> None:
    copy.state = CopyState.GONE
    journal.settle([copy])


class Taker:
    """Takes batches as the committer does: positions go on, blobs are entered with their size."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.next_position = 1

    def __call__(self) -> Batch:
        batch = self.journal.take(self.next_position, dict)
        sizes = [sum(map(len, pieces)) for pieces in batch.payloads]
        self.next_position += len(sizes)
        for blob, size in zip(batch.blobs, sizes[batch.part_blobs :], strict=True):
            blob.size = size
            self.journal.blobs.enter(blob)
        return batch


@pytest.fixture
def take(journal: Journal) -> Taker:
    return Taker(journal)


def test_an_empty_journal_has_nothing_pending(journal: Journal, take: Taker) -> None:
    assert not journal.has_pending
    assert take().payloads == []


def test_a_publish_is_stored_once_for_all_its_queues(journal: Journal, publish: Publish, take: Taker) -> None:
    publish(StubQueue(7), StubQueue(9), body=b"stored once")
    batch = take()
    (pieces,) = batch.payloads
    assert b"".join(pieces).count(b"stored once") == 1
    assert batch.blobs[0].live_copies == 2
    assert not journal.has_pending


def test_a_message_settled_before_its_batch_never_reaches_the_disk(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    channel = StubChannel()
    (copy,) = publish(StubQueue(1))
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    settle(journal, copy)
    batch = take()
    assert batch.payloads == []
    batch.committed()
    assert channel.confirmed == [1], "its publisher is confirmed all the same"


def test_a_copy_settled_before_its_batch_is_left_out_of_it(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    first, _ = publish(StubQueue(1), StubQueue(2))
    settle(journal, first)
    batch = take()
    record = records.unpack_publish(b"".join(batch.payloads[0])[5:])
    assert record.queue_ids == (2,)
    assert batch.blobs[0].live_copies == 1


def test_of_messages_that_were_published_together_each_is_packed_as_it_is_by_then(
    journal: Journal, take: Taker
) -> None:
    one, two = StubQueue(1), StubQueue(2)
    half = BLOB_MAX_BYTES // 2 - 100
    bodies = [b"1", b"22", b"", b"4" * half, b"5" * half, bytes(3 * BLOB_MAX_BYTES), b"7"]
    facts = read_facts(PERSISTENT)
    messages = [
        Message(number, 1000, "x", "key", PERSISTENT, facts, body) for number, body in enumerate(bodies, 1)
    ]
    copies = [QueuedMessage(message, queue, None, 0) for queue in (one, two) for message in messages]  # type: ignore[arg-type]
    for copy in copies:
        copy.queue.ready.add(copy)  # type: ignore[attr-defined]
    journal.publish(messages, copies)
    for gone in (copies[1], copies[2], copies[2 + len(bodies)], copies[6 + len(bodies)]):
        settle(journal, gone)
    found = {}
    for pieces in take().payloads:
        payload = b"".join(pieces)
        assert len(payload) <= BLOB_MAX_BYTES
        for record_type, start, end in iter_records(payload):
            if record_type != RecordType.PART:
                record = records.unpack_publish(payload[start:end])
                found[record.sequence] = (record_type, record.queue_ids, record.body)
                assert (record.exchange, record.routing_key, record.properties) == ("x", "key", PERSISTENT)
    assert {number: ids for number, (_, ids, _) in found.items()} == {
        1: (1, 2),
        2: (2,),
        4: (1, 2),
        5: (1, 2),
        6: (1, 2),
        7: (1,),
    }
    assert [number for number, (kind, _, _) in found.items() if kind == RecordType.LARGE] == [6]
    assert [found[number][2] for number in (1, 2, 4, 5, 7)] == [
        bodies[number - 1] for number in (1, 2, 4, 5, 7)
    ]


def test_a_stored_copy_is_settled_by_a_record(journal: Journal, publish: Publish, take: Taker) -> None:
    queue = StubQueue(5)
    copies = [copy for _ in range(3) for copy in publish(queue)]
    blob = take().blobs[0]
    for copy in copies:
        settle(journal, copy)
    assert unpacked(take()) == [(RecordType.SETTLE, (5, 0, 12, (1, 2, 3)))]
    assert blob.live_copies == 0


def test_a_copy_in_a_transient_queue_leaves_no_trace(journal: Journal, publish: Publish, take: Taker) -> None:
    durable, transient = publish(StubQueue(1), StubQueue(2, durable=False))
    take()
    settle(journal, transient)
    journal.requeue(transient)
    assert not journal.has_pending
    settle(journal, durable)
    assert journal.has_pending


def test_the_order_of_topology_and_publishes_is_kept_and_settles_come_last(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    queue = StubQueue(1)
    (old,) = publish(queue)
    take()
    settle(journal, old)
    journal.topology(records.pack_map({"op": "queue_declare", "name": "q"}))
    publish(queue)
    journal.topology(records.pack_map({"op": "queue_delete", "name": "other"}))
    assert unpacked(take()) == [
        (RecordType.TOPOLOGY, {"op": "queue_declare", "name": "q"}),
        (RecordType.PUBLISH, 2),
        (RecordType.TOPOLOGY, {"op": "queue_delete", "name": "other"}),
        (RecordType.SETTLE, (1, 0, 4, (1,))),
    ]


def test_a_requeue_is_written_once_with_its_newest_count(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    (copy,) = publish(StubQueue(3))
    for copy.delivery_count in (1, 2):
        journal.requeue(copy)
    assert unpacked(take())[1:] == [(RecordType.REQUEUE, (3, [(1, 2)]))]


def test_a_requeue_of_a_settled_copy_leaves_nothing(journal: Journal, publish: Publish, take: Taker) -> None:
    queue = StubQueue(3)
    (copy,) = publish(queue)
    take()
    journal.requeue(copy)
    settle(journal, copy)
    assert unpacked(take())[-1] == (RecordType.SETTLE, (3, 0, 4, (1,))), "the last word"
    assert queue.returned == {}


def test_a_requeue_of_a_copy_settled_before_its_batch_is_left_out(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    queue = StubQueue(3)
    (copy,) = publish(queue)
    journal.requeue(copy)
    settle(journal, copy)
    assert unpacked(take()) == []
    assert queue.returned == {}


def test_what_came_back_is_known_until_it_is_settled(journal: Journal, publish: Publish, take: Taker) -> None:
    queue = StubQueue(3)
    (copy,) = publish(queue)
    take()
    copy.delivery_count = 2
    journal.requeue(copy)
    take()
    assert queue.returned == {1: 2}
    settle(journal, copy)
    assert queue.returned == {1: 2}, "the log says so still"
    take()
    assert queue.returned == {}


def test_settles_of_different_lanes_are_different_records(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    one, other = StubQueue(1), StubQueue(2)
    copies = publish(one, other, body=b"12345") + publish(one, body=b"123")
    take()
    assert (one.ready.live_bytes, other.ready.live_bytes) == (8, 5)
    for copy in copies:
        settle(journal, copy)
    assert unpacked(take()) == [
        (RecordType.SETTLE, (1, 0, 8, (1, 2))),
        (RecordType.SETTLE, (2, 0, 5, (1,))),
    ]
    assert (one.ready.live_bytes, other.ready.live_bytes) == (0, 0)


def test_a_purge_names_stretches_and_releases_their_blobs(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    queue = StubQueue(4)
    for _ in range(3):
        publish(queue)
    (blob,) = take().blobs
    queue.ready.let_go(0)
    emptied = queue.ready.empty()
    journal.purge(emptied.lane, emptied.cold)
    assert blob.live_copies == 0
    assert unpacked(take()) == [(RecordType.PURGE, (4, 0, 12, [(1, 3, 3)]))]
    assert queue.ready.live_bytes == 0


def test_a_purge_of_very_many_runs_is_several_records(journal: Journal, take: Taker) -> None:
    lane = StubQueue(4).ready
    blob = StoredBlob(journal.blobs, 1)
    blob.size = 1
    blob.add(STRETCHES_MAX + 1)
    journal.blobs.enter(blob)
    cold = RunTable()
    for first in range(1, STRETCHES_MAX + 2):
        cold.add(Row(first, first, 1, 1, 0, NEVER))
    cold.body_bytes = 77
    journal.purge(lane, cold)
    (_, first), (_, second) = unpacked(take())
    assert first[:3] + second[:3] == (4, 0, 77, 4, 0, 0), "the bytes are counted once"
    assert [row[:3] for row in first[3] + second[3]] == cold.stretches()


def test_a_closed_lane_releases_everything_and_writes_nothing(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    queue = StubQueue(4)
    (cold,) = publish(queue)
    (first,) = take().blobs
    queue.ready.let_go(0)
    (unacked,) = publish(queue)
    (second,) = take().blobs
    emptied = queue.ready.empty()
    assert emptied.cold.first == cold.message.sequence
    journal.close_lane(queue.ready, emptied.cold)
    queue.is_deleted = True
    assert (first.live_copies, second.live_copies) == (0, 0)
    journal.requeue(unacked)
    settle(journal, unacked)
    assert take().payloads == []
    assert (first.live_copies, second.live_copies) == (0, 0), "once"


def test_a_copy_of_a_queue_deleted_before_its_batch_can_still_be_settled(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    queue = StubQueue(4)
    (copy,) = publish(queue)
    journal.close_lane(queue.ready, RunTable())
    queue.is_deleted = True
    take()
    settle(journal, copy)
    assert take().payloads == []


def test_a_full_blob_is_followed_by_another(journal: Journal, publish: Publish, take: Taker) -> None:
    for _ in range(10):
        publish(StubQueue(1), body=bytes(1000))
    batch = take()
    sizes = [sum(map(len, pieces)) for pieces in batch.payloads]
    assert len(sizes) > 1
    assert max(sizes) <= BLOB_MAX_BYTES
    assert [sequence for _, sequence in unpacked(batch)] == list(range(1, 11))
    assert sum(blob.live_copies for blob in batch.blobs) == 10


def test_a_message_larger_than_a_blob_gets_one_of_its_own(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    publish(StubQueue(1))
    publish(StubQueue(1), body=bytes(3 * BLOB_MAX_BYTES))
    publish(StubQueue(1))
    batch = take()
    assert [blob.live_copies for blob in batch.blobs] == [1, 1, 1]
    found = unpacked(batch)
    parts = [record for kind, record in found if kind is RecordType.PART]
    assert b"".join(parts) == bytes(3 * BLOB_MAX_BYTES)
    assert found[len(parts) :] == [(RecordType.PUBLISH, 1), (RecordType.LARGE, 2), (RecordType.PUBLISH, 3)]
    assert batch.part_blobs == len(parts) == 4
    assert max(sum(map(len, pieces)) for pieces in batch.payloads) <= BLOB_MAX_BYTES
    assert [list(blob.parts) for blob in batch.blobs] == [[], [1, 2, 3, 4], []]
    assert [blob.position for blob in batch.blobs] == [5, 6, 7]


def test_a_large_message_settled_before_its_batch_leaves_no_parts(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    (copy,) = publish(StubQueue(1), body=bytes(3 * BLOB_MAX_BYTES))
    settle(journal, copy)
    assert take().payloads == []


def test_a_large_message_names_its_parts(journal: Journal, publish: Publish, take: Taker) -> None:
    publish(StubQueue(1))
    take()
    publish(StubQueue(1), body=bytes(BLOB_MAX_BYTES + 1))
    last = b"".join(take().payloads[-1])
    ((_, start, end),) = iter_records(last)
    body = records.unpack_publish(last[start:end]).body
    assert records.unpack_large_body(body) == (2, 2, BLOB_MAX_BYTES + 1)


def test_a_delivery_mark_waits_for_the_commit_like_a_declare(journal: Journal, take: Taker) -> None:
    before = journal.changes
    queue = StubQueue(8)
    journal.delivering(queue, True)  # type: ignore[arg-type]
    assert queue.delivering
    assert journal.changes != before
    assert unpacked(take()) == [(RecordType.DELIVERING, (8, True))]


def test_publishers_are_confirmed_before_waiting_replies_go_out(journal: Journal, take: Taker) -> None:
    order: list[str] = []

    class Channel(StubChannel):
        def confirm_up_to(self, publish_tag: int) -> None:
            order.append(f"confirm {publish_tag}")

    channel = Channel()
    journal.when_durable(lambda: order.append("reply"))
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    journal.confirm(channel, 2)  # type: ignore[arg-type]
    take().committed()
    assert order == ["confirm 2", "reply"]


def test_a_closed_channel_is_not_confirmed(journal: Journal, take: Taker) -> None:
    channel = StubChannel()
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    journal.forget_channel(channel)  # type: ignore[arg-type]
    take().committed()
    assert channel.confirmed == []


def test_what_changes_after_take_belongs_to_the_next_batch(
    journal: Journal, publish: Publish, take: Taker
) -> None:
    (copy,) = publish(StubQueue(1))
    first = take()
    settle(journal, copy)
    assert unpacked(first) == [(RecordType.PUBLISH, 1)]
    assert unpacked(take()) == [(RecordType.SETTLE, (1, 0, 4, (1,)))]
