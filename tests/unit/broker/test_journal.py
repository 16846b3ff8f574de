"""What a group commit packs: what is still alive, in order of replay, in blobs of bounded size."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from leveret.broker.durability import records
from leveret.broker.durability.journal import Batch, Journal
from leveret.broker.durability.records import RecordType
from leveret.broker.message import CopyState, Message, QueuedMessage
from leveret.protocol.amqp.properties import BasicProperties, encode_properties, read_facts
from leveret.storage.blob import iter_records

BLOB_MAX_BYTES = 4096
PERSISTENT = encode_properties(BasicProperties(delivery_mode=2))


class StubQueue:
    """All that the journal asks of a queue."""

    def __init__(self, queue_id: int, durable: bool = True) -> None:
        self.id = queue_id
        self.durable = durable
        self.delivering = False


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
        copies = [QueuedMessage(message, queue, None, 0) for queue in queues]  # type: ignore[arg-type]
        journal.publish(message, [copy for copy in copies if copy.queue.durable])
        return copies

    return publish


def unpacked(batch: Batch) -> list[tuple[RecordType, Any]]:
    """The records of a batch, over all of its blobs."""
    readers: dict[RecordType, Callable[[bytes], Any]] = {
        RecordType.PUBLISH: lambda record: records.unpack_publish(record)[0],
        RecordType.SETTLE: records.unpack_settle,
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
    journal.settle(copy)


def test_an_empty_journal_has_nothing_pending(journal: Journal) -> None:
    assert not journal.has_pending
    assert journal.take().payloads == []


def test_a_publish_is_stored_once_for_all_its_queues(journal: Journal, publish: Publish) -> None:
    publish(StubQueue(7), StubQueue(9), body=b"stored once")
    batch = journal.take()
    (pieces,) = batch.payloads
    assert b"".join(pieces).count(b"stored once") == 1
    assert batch.blobs[0].live_copies == 2
    assert not journal.has_pending


def test_a_message_settled_before_its_batch_never_reaches_the_disk(
    journal: Journal, publish: Publish
) -> None:
    channel = StubChannel()
    (copy,) = publish(StubQueue(1))
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    settle(journal, copy)
    batch = journal.take()
    assert batch.payloads == []
    batch.committed()
    assert channel.confirmed == [1], "its publisher is confirmed all the same"


def test_a_copy_settled_before_its_batch_is_left_out_of_it(journal: Journal, publish: Publish) -> None:
    first, _ = publish(StubQueue(1), StubQueue(2))
    settle(journal, first)
    batch = journal.take()
    record = records.unpack_publish(b"".join(batch.payloads[0])[5:])
    assert record.queue_ids == (2,)
    assert batch.blobs[0].live_copies == 1


def test_a_stored_copy_is_settled_by_a_record(journal: Journal, publish: Publish) -> None:
    queue = StubQueue(5)
    copies = [copy for _ in range(3) for copy in publish(queue)]
    blob = journal.take().blobs[0]
    for copy in copies:
        settle(journal, copy)
    assert unpacked(journal.take()) == [(RecordType.SETTLE, (5, (1, 2, 3)))]
    assert blob.live_copies == 0


def test_a_copy_in_a_transient_queue_leaves_no_trace(journal: Journal, publish: Publish) -> None:
    durable, transient = publish(StubQueue(1), StubQueue(2, durable=False))
    journal.take()
    settle(journal, transient)
    journal.requeue(transient)
    assert not journal.has_pending
    settle(journal, durable)
    assert journal.has_pending


def test_the_order_of_topology_and_publishes_is_kept_and_settles_come_last(
    journal: Journal, publish: Publish
) -> None:
    queue = StubQueue(1)
    (old,) = publish(queue)
    journal.take()
    settle(journal, old)
    journal.topology(records.pack_map({"op": "queue_declare", "name": "q"}))
    publish(queue)
    journal.topology(records.pack_map({"op": "queue_delete", "name": "other"}))
    assert unpacked(journal.take()) == [
        (RecordType.TOPOLOGY, {"op": "queue_declare", "name": "q"}),
        (RecordType.PUBLISH, 2),
        (RecordType.TOPOLOGY, {"op": "queue_delete", "name": "other"}),
        (RecordType.SETTLE, (1, (1,))),
    ]


def test_a_requeue_is_written_once_with_its_newest_count(journal: Journal, publish: Publish) -> None:
    (copy,) = publish(StubQueue(3))
    for copy.delivery_count in (1, 2):
        journal.requeue(copy)
    assert unpacked(journal.take())[1:] == [(RecordType.REQUEUE, (3, [(1, 2)]))]


def test_a_requeue_of_a_settled_copy_is_left_out(journal: Journal, publish: Publish) -> None:
    (copy,) = publish(StubQueue(3))
    journal.take()
    journal.requeue(copy)
    settle(journal, copy)
    assert unpacked(journal.take()) == [(RecordType.SETTLE, (3, (1,)))]


def test_a_full_blob_is_followed_by_another(journal: Journal, publish: Publish) -> None:
    for _ in range(10):
        publish(StubQueue(1), body=bytes(1000))
    batch = journal.take()
    sizes = [sum(map(len, pieces)) for pieces in batch.payloads]
    assert len(sizes) > 1
    assert max(sizes) <= BLOB_MAX_BYTES
    assert [sequence for _, sequence in unpacked(batch)] == list(range(1, 11))
    assert sum(blob.live_copies for blob in batch.blobs) == 10


def test_a_message_larger_than_a_blob_gets_one_of_its_own(journal: Journal, publish: Publish) -> None:
    publish(StubQueue(1))
    publish(StubQueue(1), body=bytes(3 * BLOB_MAX_BYTES))
    publish(StubQueue(1))
    assert [blob.live_copies for blob in journal.take().blobs] == [1, 1, 1]


def test_a_delivery_mark_waits_for_the_commit_like_a_declare(journal: Journal) -> None:
    before = journal.changes
    queue = StubQueue(8)
    journal.delivering(queue, True)  # type: ignore[arg-type]
    assert queue.delivering
    assert journal.changes != before
    assert unpacked(journal.take()) == [(RecordType.DELIVERING, (8, True))]


def test_publishers_are_confirmed_before_waiting_replies_go_out(journal: Journal) -> None:
    order: list[str] = []

    class Channel(StubChannel):
        def confirm_up_to(self, publish_tag: int) -> None:
            order.append(f"confirm {publish_tag}")

    channel = Channel()
    journal.when_durable(lambda: order.append("reply"))
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    journal.confirm(channel, 2)  # type: ignore[arg-type]
    journal.take().committed()
    assert order == ["confirm 2", "reply"]


def test_a_closed_channel_is_not_confirmed(journal: Journal) -> None:
    channel = StubChannel()
    journal.confirm(channel, 1)  # type: ignore[arg-type]
    journal.forget_channel(channel)  # type: ignore[arg-type]
    journal.take().committed()
    assert channel.confirmed == []


def test_what_changes_after_take_belongs_to_the_next_batch(journal: Journal, publish: Publish) -> None:
    (copy,) = publish(StubQueue(1))
    first = journal.take()
    settle(journal, copy)
    assert unpacked(first) == [(RecordType.PUBLISH, 1)]
    assert unpacked(journal.take()) == [(RecordType.SETTLE, (1, (1,)))]
