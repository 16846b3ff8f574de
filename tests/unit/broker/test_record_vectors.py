"""Records and a checkpoint as bytes: what a released Leveret wrote must be read for ever.

The records are the examples of docs/storage-format.md. When a test fails here, the format has changed, and
that document has the recipe for it.
"""

from array import array
from pathlib import Path

import pytest

from leveret.broker.channels.producers import ProducerImage, ProducerKey
from leveret.broker.durability import records
from leveret.broker.durability.checkpoint import CHECKPOINT_FORMAT, Checkpoint, LoadedCheckpoint
from leveret.broker.durability.records import PublishRecord, RecordType
from leveret.broker.queues.runs import Row

DOCUMENT = Path(__file__).parents[3] / "docs" / "storage-format.md"
PROPERTIES = b"\x10\x00\x02"  # delivery_mode=2
PUBLISHED_AT = 1_700_000_000_000
CHANGE = {"op": "queue_delete", "vhost": "/", "name": "q", "id": 1}

WRITTEN: dict[RecordType, bytes] = {
    RecordType.PUBLISH: b"".join(
        records.pack_publish(5, PUBLISHED_AT, [1, 2], "ex", "key", PROPERTIES, b"abc")
    ),
    RecordType.MOVED: b"".join(
        records.pack_publish(5, PUBLISHED_AT, [2], "ex", "key", PROPERTIES, b"abc", RecordType.MOVED)
    ),
    RecordType.LARGE: b"".join(
        records.pack_publish(
            6,
            PUBLISHED_AT,
            [1],
            "",
            "q",
            PROPERTIES,
            records.pack_large_body(7, 4, 1_000_000),
            RecordType.LARGE,
        )
    ),
    RecordType.PART: records.pack_part(memoryview(b"abc")),
    RecordType.SETTLE: records.pack_settle(1, 0, 9, [5, 6]),
    RecordType.PURGE: records.pack_purge(1, 3, 300, [(10, 20, 4)]),
    RecordType.REQUEUE: records.pack_requeue(1, [(5, 2)]),
    RecordType.DELIVERING: records.pack_delivering(1, True),
    RecordType.TOPOLOGY: records.pack_topology(records.pack_map(CHANGE)),
    RecordType.PRODUCER: records.pack_producer("/", b"abc", [(1, 5, False), (7, 7, True)]),
}

# Type and length, then the record.
VECTORS: dict[RecordType, str] = {
    RecordType.PUBLISH: "01 0000002d 0000000000000005 0000018bcfe56800 00000002 00000001 00000002 "
    "02 6578 03 6b6579 00000003 100002 616263",
    RecordType.MOVED: "08 00000029 0000000000000005 0000018bcfe56800 00000001 00000002 "
    "02 6578 03 6b6579 00000003 100002 616263",
    RecordType.LARGE: "09 00000036 0000000000000006 0000018bcfe56800 00000001 00000001 00 01 71 "
    "00000003 100002 0000000000000007 00000004 00000000000f4240",
    RecordType.PART: "0a 00000003 616263",
    RecordType.SETTLE: "06 0000001d 00000001 00 0000000000000009 0000000000000005 0000000000000006",
    RecordType.PURGE: "07 00000021 00000001 03 000000000000012c 000000000000000a 0000000000000014 00000004",
    RecordType.REQUEUE: "03 00000010 00000001 0000000000000005 00000002",
    RecordType.DELIVERING: "04 00000005 00000001 01",
    RecordType.TOPOLOGY: "05 00000024 84 a26f70 ac71756575655f64656c657465 a576686f7374 a12f "
    "a46e616d65 a171 a26964 01",
    RecordType.PRODUCER: "0b 00000028 01 2f 03 616263 0000000000000001 0000000000000005 00 "
    "0000000000000007 0000000000000007 01",
}


@pytest.mark.parametrize("record_type", RecordType)
def test_a_record_is_written_as_ever(record_type: RecordType) -> None:
    assert WRITTEN[record_type] == bytes.fromhex(VECTORS[record_type])


def test_the_document_has_the_same_examples() -> None:
    document = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert [kind.name for kind, vector in VECTORS.items() if vector not in document] == []


PRODUCER = ProducerImage(ProducerKey("/", b"abc"), (7, 0b10), (7, 0b1111110))


def record(record_type: RecordType) -> bytes:
    """Without its frame."""
    return bytes.fromhex(VECTORS[record_type])[5:]


def test_records_are_read_as_ever() -> None:
    published = PublishRecord(5, PUBLISHED_AT, (1, 2), "ex", "key", PROPERTIES, b"abc")
    assert records.unpack_publish(record(RecordType.PUBLISH)) == published
    assert records.unpack_publish(record(RecordType.MOVED)) == published._replace(queue_ids=(2,))
    large = records.unpack_publish(record(RecordType.LARGE))
    assert (large.sequence, large.routing_key) == (6, "q")
    assert records.unpack_large_body(large.body) == (7, 4, 1_000_000)
    assert records.unpack_settle(record(RecordType.SETTLE)) == (1, 0, 9, (5, 6))
    assert records.unpack_purge(record(RecordType.PURGE)) == (1, 3, 300, [(10, 20, 4)])
    assert records.unpack_requeue(record(RecordType.REQUEUE)) == (1, [(5, 2)])
    assert records.unpack_delivering(record(RecordType.DELIVERING)) == (1, True)
    assert records.unpack_map(record(RecordType.TOPOLOGY)) == CHANGE
    runs = [(1, 5, False), (7, 7, True)]
    assert records.unpack_producer(record(RecordType.PRODUCER)) == ("/", b"abc", runs)


# Messages 10 to 12 in the blob at position 3, of which 11 is gone, and 20 in the one at 4. A producer has
# published up to tag 7, of which a queue refused the last, and 6 was not accepted.
CHECKPOINT = bytes.fromhex(
    "8a a6666f726d6174 03 a8706f736974696f6e 04 ad6c6173745f73657175656e6365 14"
    "ad6c6173745f71756575655f6964 01 aa636861696e5f68617368 c410 000102030405060708090a0b0c0d0e0f"
    "a8746f706f6c6f6779 91 c401 80"
    "a970726f647563657273 91 96 a12f c403 616263 07 c401 02 07 c401 7e"
    "a5626c6f6273 c420 0300000000000000 0300000000000000 0400000000000000 0100000000000000"
    "a57061727473 81 04 92 01 02 a6717565756573 01"
    "96 01 05 c3 00 81 0c 02 91 98 00 cd012c"
    "c410 0a00000000000000 1400000000000000 c410 0c00000000000000 1400000000000000"
    "c410 0300000000000000 0400000000000000 c408 02000000 01000000"
    "81 0a c401 02 81 14 cf0000018bcfe56800"
)

# The same as it was before there were producers.
CHECKPOINT_2 = CHECKPOINT.replace(
    bytes.fromhex("8a a6666f726d6174 03"), bytes.fromhex("89 a6666f726d6174 02")
)
CHECKPOINT_2 = CHECKPOINT_2.replace(
    bytes.fromhex("a970726f647563657273 91 96 a12f c403 616263 07 c401 02 07 c401 7e"), b""
)


@pytest.mark.parametrize("packed", [CHECKPOINT, CHECKPOINT_2])
def test_a_checkpoint_is_read_as_ever(packed: bytes) -> None:
    loaded = LoadedCheckpoint.unpack(packed)
    assert CHECKPOINT_FORMAT == 3
    assert loaded.checkpoint == Checkpoint(
        position=4,
        last_sequence=20,
        last_queue_id=1,
        chain_hash=bytes(range(16)),
        topology=[b"\x80"],
        producers=[PRODUCER] if packed is CHECKPOINT else [],
        blobs=array("Q", [3, 3, 4, 1]),
        parts={4: (1, 2)},
    )
    (queue,) = loaded.queues
    assert (queue.queue_id, queue.position, queue.delivering) == (1, 5, True)
    assert (queue.redelivered_up_to, queue.returned) == (0, {12: 2})
    (lane,) = queue.lanes
    assert (lane.priority, lane.body_bytes) == (0, 300)
    assert list(lane.table) == [Row(10, 12, 3, 2, 0b10, 2**64 - 1), Row(20, 20, 4, 1, 0, PUBLISHED_AT)]


def test_a_checkpoints_header_is_written_as_ever() -> None:
    loaded = LoadedCheckpoint.unpack(CHECKPOINT)
    queues = CHECKPOINT[CHECKPOINT.index(b"queues\x01") + len(b"queues\x01") :]
    loaded.checkpoint.queues = [queues]
    assert b"".join(loaded.checkpoint.pack()) == CHECKPOINT
