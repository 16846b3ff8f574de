"""The records inside a blob: what the broker writes down about messages, queues and topology.

`storage` frames records (type, length, bytes) and does not know their meaning; this is the one place that
does. All integers are big-endian. Changing a layout needs a new record type: `docs/storage-format.md` has the
recipe.

    PUBLISH      u64 sequence, u64 published_at ms, u32 n, n x u32 queue id,
                 u8 + exchange, u8 + routing key, u32 + property list, body (the rest)
    MOVED        the same: a message whose live copies in these queues lie in this blob from here on
    LARGE        the same, but for the body: u64 position of the first PART, u32 how many, u64 body size;
                 alone in its blob
    PART         a piece of the body of a LARGE further on; alone in its blob
    SETTLE       u32 queue id, u8 priority, u64 body bytes, then u64 sequence each: gone for good
    PURGE        u32 queue id, u8 priority, u64 body bytes, then (u64 first, u64 last, u32 live) each: in
                 these stretches, each of one run, so many copies, all that were left, are gone for good
    REQUEUE      u32 queue id, then (u64 sequence, u32 delivery count) each: delivered, and came back
    DELIVERING   u32 queue id, u8: whether copies of this queue may be with consumers
    TOPOLOGY     one msgpack map: a durable exchange, queue or binding came or went
    PRODUCER     u8 + vhost, u8 + id, then (u64 first, u64 last, u8 refused in part) each: of these publish
                 tags the log holds messages from here on; none: the producer is forgotten

Number 2 was a SETTLE without priority and body bytes; it is not used again.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack


class RecordType(IntEnum):
    """The u8 in front of a record."""

    PUBLISH = 1
    REQUEUE = 3
    DELIVERING = 4
    TOPOLOGY = 5
    SETTLE = 6
    PURGE = 7
    MOVED = 8
    LARGE = 9
    PART = 10
    PRODUCER = 11


HOLDS_MESSAGE = frozenset({RecordType.PUBLISH, RecordType.MOVED, RecordType.LARGE})


_NAMES_MAX = 4096
_encoded_names: dict[tuple[str, str], tuple[int, bytes]] = {}  # saves 0.2 us per message


class PublishRecord(NamedTuple):
    """A decoded PUBLISH, MOVED or LARGE."""

    sequence: int
    published_at: int
    queue_ids: tuple[int, ...]
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


_FRAME = struct.Struct(">BI")
ONE_QUEUE = struct.Struct(">BIQQIIB")
"""Frame and head of a PUBLISH to one queue, by far the most frequent record: its type, how long the rest is
with `publish_tail` and body, sequence, published_at, 1, the queue's id, the size of the exchange's name.
"""

_HEAD = struct.Struct(">QQI")
_LENGTH = struct.Struct(">I")
_DELIVERING = struct.Struct(">BIIB")
_REQUEUED = struct.Struct(">QI")
_SETTLE = struct.Struct(">IBQ")
_STRETCH = struct.Struct(">QQI")
_TAG_RUN = struct.Struct(">QQ?")
_LARGE_BODY = struct.Struct(">QIQ")
_PEEK = struct.Struct(">QQII")


def pack_publish(
    sequence: int,
    published_at: int,
    queue_ids: Sequence[int],
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    record_type: int = RecordType.PUBLISH,
) -> tuple[bytes, bytes]:
    """A framed PUBLISH in two pieces, so that the body is not copied before the batch is joined."""
    tail = publish_tail(exchange, routing_key, properties)
    return publish_head(record_type, sequence, published_at, queue_ids, tail, len(body)), body


def publish_tail(exchange: str, routing_key: str, properties: bytes) -> tuple[int, bytes]:
    """What a PUBLISH says between queue ids and body: its first octet, and the rest."""
    exchange_size, names = _encoded_names.get((exchange, routing_key)) or _encode_names(exchange, routing_key)
    return exchange_size, names + _LENGTH.pack(len(properties)) + properties


def publish_head(
    record_type: int,
    sequence: int,
    published_at: int,
    queue_ids: Sequence[int],
    tail: tuple[int, bytes],
    body_size: int,
) -> bytes:
    """All of a framed PUBLISH but its body."""
    exchange_size, rest = tail
    count = len(queue_ids)
    size = ONE_QUEUE.size - _FRAME.size + 4 * (count - 1) + len(rest) + body_size
    if count == 1:
        return (
            ONE_QUEUE.pack(record_type, size, sequence, published_at, 1, queue_ids[0], exchange_size) + rest
        )
    head = _FRAME.pack(record_type, size) + _HEAD.pack(sequence, published_at, count)
    return b"%b%b%c%b" % (head, struct.pack(f">{count}I", *queue_ids), exchange_size, rest)


def _encode_names(exchange: str, routing_key: str) -> tuple[int, bytes]:
    """How long the exchange's name is, and what follows that length."""
    exchange_bytes, key_bytes = exchange.encode(), routing_key.encode()
    encoded = len(exchange_bytes), b"%b%c%b" % (exchange_bytes, len(key_bytes), key_bytes)
    if len(_encoded_names) >= _NAMES_MAX:
        _encoded_names.clear()
    _encoded_names[exchange, routing_key] = encoded
    return encoded


def unpack_publish(record: bytes) -> PublishRecord:
    """The inverse of `pack_publish`, given the record without its frame."""
    sequence, published_at, count = _HEAD.unpack_from(record)
    at = _HEAD.size
    queue_ids = struct.unpack_from(f">{count}I", record, at)
    at += 4 * count
    end = at + 1 + record[at]
    exchange = record[at + 1 : end].decode()
    at = end
    end = at + 1 + record[at]
    routing_key = record[at + 1 : end].decode()
    (length,) = _LENGTH.unpack_from(record, end)
    at = end + 4
    end = at + length
    return PublishRecord(
        sequence, published_at, queue_ids, exchange, routing_key, bytes(record[at:end]), bytes(record[end:])
    )


def peek_publish(payload: bytes, start: int) -> tuple[int, int, int]:
    """Of the PUBLISH at this place: sequence, number of queues, and the first of them."""
    sequence, _, count, queue_id = _PEEK.unpack_from(payload, start)
    return sequence, count, queue_id


def queue_ids_at(payload: bytes, start: int, count: int) -> tuple[int, ...]:
    """The queues of the PUBLISH at this place, which has so many."""
    return struct.unpack_from(f">{count}I", payload, start + _HEAD.size)


def pack_large_body(first_position: int, parts: int, size: int) -> bytes:
    """What stands in the place of a body that lies in PARTs."""
    return _LARGE_BODY.pack(first_position, parts, size)


def unpack_large_body(body: bytes) -> tuple[int, int, int]:
    """Position of the first PART, how many there are, and the size of the body."""
    first_position, parts, size = _LARGE_BODY.unpack(body)
    return first_position, parts, size


def pack_part(piece: memoryview) -> bytes:
    return b"".join((_FRAME.pack(RecordType.PART, len(piece)), piece))


def pack_settle(queue_id: int, priority: int, body_bytes: int, sequences: Sequence[int]) -> bytes:
    count = len(sequences)
    return (
        _FRAME.pack(RecordType.SETTLE, _SETTLE.size + 8 * count)
        + _SETTLE.pack(queue_id, priority, body_bytes)
        + struct.pack(f">{count}Q", *sequences)
    )


def unpack_settle(record: bytes) -> tuple[int, int, int, tuple[int, ...]]:
    """Queue id, priority, size of the bodies, and sequences."""
    queue_id, priority, body_bytes = _SETTLE.unpack_from(record)
    count = (len(record) - _SETTLE.size) // 8
    return queue_id, priority, body_bytes, struct.unpack_from(f">{count}Q", record, _SETTLE.size)


def pack_purge(
    queue_id: int, priority: int, body_bytes: int, stretches: Sequence[tuple[int, int, int]]
) -> bytes:
    """`stretches` are (first, last, live)."""
    body = b"".join([_STRETCH.pack(*stretch) for stretch in stretches])
    frame = _FRAME.pack(RecordType.PURGE, _SETTLE.size + len(body))
    return frame + _SETTLE.pack(queue_id, priority, body_bytes) + body


def unpack_purge(record: bytes) -> tuple[int, int, int, list[tuple[int, int, int]]]:
    """Queue id, priority, size of the bodies, and (first, last, live) stretches."""
    queue_id, priority, body_bytes = _SETTLE.unpack_from(record)
    return queue_id, priority, body_bytes, list(_STRETCH.iter_unpack(record[_SETTLE.size :]))


def pack_requeue(queue_id: int, copies: Sequence[tuple[int, int]]) -> bytes:
    """`copies` are (sequence, delivery count)."""
    body = b"".join([_REQUEUED.pack(sequence, count) for sequence, count in copies])
    return _FRAME.pack(RecordType.REQUEUE, 4 + len(body)) + _LENGTH.pack(queue_id) + body


def unpack_requeue(record: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Queue id and (sequence, delivery count) pairs."""
    (queue_id,) = _LENGTH.unpack_from(record)
    return queue_id, list(_REQUEUED.iter_unpack(record[4:]))


def pack_delivering(queue_id: int, delivering: bool) -> bytes:
    return _DELIVERING.pack(RecordType.DELIVERING, 5, queue_id, delivering)


def unpack_delivering(record: bytes) -> tuple[int, bool]:
    """Queue id and whether its copies may be with consumers from here on."""
    queue_id, delivering = struct.unpack(">IB", record)
    return queue_id, bool(delivering)


def pack_topology(packed: bytes) -> bytes:
    """`packed` is a change that `pack_map` has packed."""
    return _FRAME.pack(RecordType.TOPOLOGY, len(packed)) + packed


def pack_producer(vhost: str, id_: bytes, runs: Sequence[tuple[int, int, bool]]) -> bytes:
    """`runs` are (first, last, refused in part) of publish tags."""
    vhost_bytes = vhost.encode()
    head = b"%c%b%c%b" % (len(vhost_bytes), vhost_bytes, len(id_), id_)
    body = b"".join([_TAG_RUN.pack(*run) for run in runs])
    return _FRAME.pack(RecordType.PRODUCER, len(head) + len(body)) + head + body


def unpack_producer(record: bytes) -> tuple[str, bytes, list[tuple[int, int, bool]]]:
    """Vhost, id, and (first, last, refused in part) runs."""
    end = 1 + record[0]
    vhost = record[1:end].decode()
    start, end = end + 1, end + 1 + record[end]
    id_ = bytes(record[start:end])
    runs = list(_TAG_RUN.iter_unpack(record[end:]))
    if not id_ or len(record) < end or any(not 1 <= first <= last for first, last, _ in runs):
        raise ValueError("it names no producer, or tags that are none")
    return vhost, id_, runs


def pack_map(value: object) -> bytes:
    """msgpack as the log uses it: str and bytes apart, timestamps kept."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=True)
    return packed


def unpack_map(data: bytes) -> Any:
    """The inverse of `pack_map`."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)


def pieces_size(pieces: Iterable[bytes]) -> int:
    """How many bytes these pieces make when joined."""
    return sum(map(len, pieces))
