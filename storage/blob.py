"""The blob: what one group commit made durable, as bytes.

A blob is a fixed header and a payload of framed records. The committer encodes blobs, engines store them as
opaque bytes, recovery and the checker decode them. Storage frames the records but does not know what they
mean. `docs/storage-format.md` is the normative description, with the byte map and the recipe for changing it.

Invariants: the CRC covers every byte of the blob but itself; `previous` is the chain hash of the blob before
in the same group, so that a missing, repeated or exchanged blob shows.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import google_crc32c

from .engine import Corrupt

MAGIC = b"LVRT"
VERSION = 1

# magic, version, header size, group, CRC, epoch, idx, previous, payload length, reserved (zero)
_HEADER = struct.Struct(">4sHHIIQQ16sI12x")
_CRC = struct.Struct(">I")
_CRC_OFFSET = 12
HEADER_BYTES = _HEADER.size

CHAIN_HASH_BYTES = 16
CHAIN_START = bytes(CHAIN_HASH_BYTES)
"""The `previous` of the first blob ever written to a group."""

PAYLOAD_MAX_BYTES = 2**32 - 1

_RECORD = struct.Struct(">BI")  # type, length
RECORD_HEADER_BYTES = _RECORD.size


@dataclass(frozen=True, slots=True)
class Blob:
    """A decoded blob whose CRC was right."""

    group: int
    epoch: int
    idx: int
    previous: bytes
    payload: bytes


def encode_blob(group: int, epoch: int, idx: int, previous: bytes, records_payload: bytes) -> bytes:
    """Put a header in front of packed records."""
    assert len(previous) == CHAIN_HASH_BYTES
    header = _HEADER.pack(MAGIC, VERSION, HEADER_BYTES, group, 0, epoch, idx, previous, len(records_payload))
    crc = google_crc32c.extend(google_crc32c.value(header), records_payload)
    return b"".join((header[:_CRC_OFFSET], _CRC.pack(crc), header[_CRC_OFFSET + 4 :], records_payload))


def chain_hash(blob: bytes) -> bytes:
    """What the next blob carries as `previous`: a hash of the header, which holds the payload's CRC."""
    return blake2b(blob[:HEADER_BYTES], digest_size=CHAIN_HASH_BYTES).digest()


def decode_blob(blob: bytes) -> Blob:
    """Check a blob and take it apart.

    Raises:
        Corrupt: a sentence without the position, which the caller knows and adds.
    """
    if len(blob) < HEADER_BYTES:
        raise Corrupt(f"the blob ends inside its header: {len(blob)} of {HEADER_BYTES} bytes")
    magic, version, header_bytes, group, crc, epoch, idx, previous, length = _HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise Corrupt(f"not a blob: it starts with {magic.hex()} instead of {MAGIC.hex()}")
    # Before the CRC, which a newer version may compute differently: the operator must read "newer" then.
    if version > VERSION:
        raise Corrupt(
            f"the blob was written by a newer Leveret: version {version}, this one reads up to {VERSION}"
        )
    if version != VERSION or header_bytes != HEADER_BYTES:
        raise Corrupt(
            f"the blob has version {version} and a header of {header_bytes} bytes, which never existed"
        )
    payload = blob[HEADER_BYTES:]
    if len(payload) != length:
        raise Corrupt(f"the blob holds {len(payload)} bytes of payload, its header says {length}")
    unsigned = b"".join((blob[:_CRC_OFFSET], bytes(4), blob[_CRC_OFFSET + 4 : HEADER_BYTES]))
    computed = google_crc32c.extend(google_crc32c.value(unsigned), payload)
    if computed != crc:
        raise Corrupt(f"the blob's CRC is {computed:08x}, its header says {crc:08x}")
    return Blob(group, epoch, idx, previous, payload)


def pack_record(record_type: int, payload: bytes) -> bytes:
    """Frame one record."""
    return _RECORD.pack(record_type, len(payload)) + payload


def iter_records(payload: bytes) -> Iterator[tuple[int, int, int]]:
    """The records of a payload as (type, start, end) of their bytes, in order.

    Raises:
        Corrupt: a frame reaches beyond the payload.
    """
    offset, total = 0, len(payload)
    while offset < total:
        if total - offset < RECORD_HEADER_BYTES:
            raise Corrupt(
                f"a record's frame at byte {offset} of the payload is cut off after {total - offset} bytes"
            )
        record_type, length = _RECORD.unpack_from(payload, offset)
        start = offset + RECORD_HEADER_BYTES
        offset = start + length
        if offset > total:
            raise Corrupt(
                f"a record at byte {start} of the payload, of {length} bytes, ends {offset - total} beyond it"
            )
        yield record_type, start, offset
