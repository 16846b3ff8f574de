"""The records inside a blob: what the broker writes down about messages, queues and topology.

`storage` frames records (type, length, bytes) and does not know their meaning; this is the one place that
does. All integers are big-endian. Changing a layout needs a new record type: `docs/storage-format.md` has the
recipe.

    PUBLISH      u64 sequence, u64 published_at ms, u32 n, n x u32 queue id,
                 u8 + exchange, u8 + routing key, u32 + property list, body (the rest)
    SETTLE       u32 queue id, then u64 sequence each: these copies are gone for good
    REQUEUE      u32 queue id, then (u64 sequence, u32 delivery count) each: delivered, and came back
    DELIVERING   u32 queue id, u8: whether copies of this queue may be with consumers
    TOPOLOGY     one msgpack map: a durable exchange, queue or binding came or went
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack


class RecordType(IntEnum):
    """The u8 in front of a record."""

    PUBLISH = 1
    SETTLE = 2
    REQUEUE = 3
    DELIVERING = 4
    TOPOLOGY = 5


class PublishRecord(NamedTuple):
    """A decoded PUBLISH."""

    sequence: int
    published_at: int
    queue_ids: tuple[int, ...]
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


_FRAME = struct.Struct(">BI")
_ONE_QUEUE = struct.Struct(
    ">BIQQIIB"
)  # frame and head of a PUBLISH to one queue, by far the most frequent record
_HEAD = struct.Struct(">QQI")
_LENGTH = struct.Struct(">I")
_DELIVERING = struct.Struct(">BIIB")
_REQUEUED = struct.Struct(">QI")


def pack_publish(
    sequence: int,
    published_at: int,
    queue_ids: Sequence[int],
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
) -> tuple[bytes, bytes]:
    """A framed PUBLISH in two pieces, so that the body is not copied before the batch is joined."""
    exchange_bytes = exchange.encode()
    key_bytes = routing_key.encode()
    tail_length = 6 + len(exchange_bytes) + len(key_bytes) + len(properties) + len(body)
    names = b"%b%c%b%b%b" % (
        exchange_bytes,
        len(key_bytes),
        key_bytes,
        _LENGTH.pack(len(properties)),
        properties,
    )
    if len(queue_ids) == 1:
        head = _ONE_QUEUE.pack(
            RecordType.PUBLISH,
            24 + tail_length,
            sequence,
            published_at,
            1,
            queue_ids[0],
            len(exchange_bytes),
        )
        return head + names, body
    count = len(queue_ids)
    head = _FRAME.pack(RecordType.PUBLISH, 20 + 4 * count + tail_length) + _HEAD.pack(
        sequence, published_at, count
    )
    return b"%b%b%c%b" % (head, struct.pack(f">{count}I", *queue_ids), len(exchange_bytes), names), body


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


def pack_settle(queue_id: int, sequences: Sequence[int]) -> bytes:
    count = len(sequences)
    return struct.pack(f">BII{count}Q", RecordType.SETTLE, 4 + 8 * count, queue_id, *sequences)


def unpack_settle(record: bytes) -> tuple[int, tuple[int, ...]]:
    """Queue id and sequences."""
    count = (len(record) - 4) // 8
    queue_id, *sequences = struct.unpack(f">I{count}Q", record)
    return queue_id, tuple(sequences)


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
