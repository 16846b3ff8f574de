"""What is written into a blob is read back, whatever it is."""

from hypothesis import given
from hypothesis import strategies as st

from leveret.broker.durability import records
from leveret.broker.durability.records import PublishRecord, RecordType
from leveret.storage.blob import RECORD_HEADER_BYTES, iter_records

u8 = st.integers(0, 255)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
short = st.text().filter(lambda text: len(text.encode()) <= 255)


def only_record(framed: bytes) -> tuple[int, bytes]:
    """The type and the bytes of the one record, as recovery gets them."""
    ((record_type, start, end),) = iter_records(framed)
    assert end == len(framed)
    return record_type, framed[start:end]


@given(u64, u64, st.lists(u32, min_size=1, max_size=20), short, short, st.binary(), st.binary())
def test_publish(
    sequence: int, at: int, queues: list[int], exchange: str, key: str, properties: bytes, body: bytes
) -> None:
    pieces = records.pack_publish(sequence, at, queues, exchange, key, properties, body)
    record_type, record = only_record(b"".join(pieces))
    assert record_type == RecordType.PUBLISH
    assert records.unpack_publish(record) == PublishRecord(
        sequence, at, tuple(queues), exchange, key, properties, body
    )


@given(u32, st.lists(u32, min_size=1, max_size=20), st.integers(0, 2**32), st.booleans())
def test_what_is_moved_and_what_is_large(sequence: int, queues: list[int], size: int, is_moved: bool) -> None:
    kind = RecordType.MOVED if is_moved else RecordType.LARGE
    body = records.pack_large_body(sequence, 3, size)
    pieces = records.pack_publish(sequence, 0, queues, "x", "key", b"", body, kind)
    record_type, record = only_record(b"".join(pieces))
    assert record_type == kind
    publish = records.unpack_publish(record)
    assert publish.queue_ids == tuple(queues)
    assert records.unpack_large_body(publish.body) == (sequence, 3, size)


@given(u64, st.lists(u32, min_size=1, max_size=20), st.binary(max_size=9))
def test_a_look_at_a_publish_sees_what_unpacking_it_sees(
    sequence: int, queues: list[int], before: bytes
) -> None:
    pieces = records.pack_publish(sequence, 0, queues, "x", "key", b"", b"body")
    payload = before + b"".join(pieces)
    start = len(before) + RECORD_HEADER_BYTES
    assert records.peek_publish(payload, start) == (sequence, len(queues), queues[0])
    assert records.queue_ids_at(payload, start, len(queues)) == tuple(queues)


@given(st.binary(max_size=100))
def test_part(piece: bytes) -> None:
    assert only_record(records.pack_part(memoryview(piece))) == (RecordType.PART, piece)


@given(u32, u8, u64, st.lists(u64))
def test_settle(queue_id: int, priority: int, body_bytes: int, sequences: list[int]) -> None:
    record_type, record = only_record(records.pack_settle(queue_id, priority, body_bytes, sequences))
    assert record_type == RecordType.SETTLE
    assert records.unpack_settle(record) == (queue_id, priority, body_bytes, tuple(sequences))


@given(u32, u8, u64, st.lists(st.tuples(u64, u64, u32)))
def test_purge(queue_id: int, priority: int, body_bytes: int, stretches: list[tuple[int, int, int]]) -> None:
    record_type, record = only_record(records.pack_purge(queue_id, priority, body_bytes, stretches))
    assert record_type == RecordType.PURGE
    assert records.unpack_purge(record) == (queue_id, priority, body_bytes, stretches)


@given(u32, st.lists(st.tuples(u64, u32)))
def test_requeue(queue_id: int, copies: list[tuple[int, int]]) -> None:
    record_type, record = only_record(records.pack_requeue(queue_id, copies))
    assert record_type == RecordType.REQUEUE
    assert records.unpack_requeue(record) == (queue_id, copies)


@given(u32, st.booleans())
def test_delivering(queue_id: int, delivering: bool) -> None:
    record_type, record = only_record(records.pack_delivering(queue_id, delivering))
    assert record_type == RecordType.DELIVERING
    assert records.unpack_delivering(record) == (queue_id, delivering)


@given(
    st.dictionaries(st.text(), st.none() | st.booleans() | st.text() | st.binary() | st.integers(0, 2**63))
)
def test_topology(change: dict[str, object]) -> None:
    record_type, record = only_record(records.pack_topology(records.pack_map(change)))
    assert record_type == RecordType.TOPOLOGY
    assert records.unpack_map(record) == change


tag_runs = st.tuples(st.integers(1, 2**63), st.integers(0, 2**63 - 1), st.booleans())


@given(short, st.binary(min_size=1, max_size=64), st.lists(tag_runs, max_size=20))
def test_producer(vhost: str, id_: bytes, drawn: list[tuple[int, int, bool]]) -> None:
    runs = [(first, first + more, in_part) for first, more, in_part in drawn]
    record_type, record = only_record(records.pack_producer(vhost, id_, runs))
    assert record_type == RecordType.PRODUCER
    assert records.unpack_producer(record) == (vhost, id_, runs)
