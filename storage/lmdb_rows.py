"""The rows that the LMDB engine keeps beside the blobs: keys, and values sealed with a CRC.

Pure functions and values; `lmdb.py` puts them into transactions. `docs/storage-format.md` has the byte maps.

The root row is the heart of it: rewritten by every transaction, it says how far each group's log reaches,
where its checkpoint is, and which two meta pages of LMDB it belongs to. LMDB 0.9 has no checksums; the root
is how a stale or damaged tree shows at open (see `lmdb_file.py`).
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from .engine import Corrupt
from .group import GroupState

KEY_ROOT = b"root"
KEY_SUPERBLOCK = b"superblock"
KEY_TAIL = b"tail"
"""Its row holds the key of the frames in the tail; without it there are none."""

TAIL_KEY_BYTES = 16
EPOCH_PREFIX = b"epoch"

_BLOB_KEY = struct.Struct(">IQ")  # group, position
_PIECE_KEY = struct.Struct(">IQI")  # group, position, number from 1
_CHUNK_KEY = struct.Struct(">IQI")  # group, generation, number
_EPOCH_KEY = struct.Struct(">5sIQ")  # prefix, group, epoch
_CRC = struct.Struct(">I")
_ROOT = struct.Struct(">QIQ")  # transaction, CRC of the other meta page, last revision
_ROOT_GROUP = struct.Struct(">IQQQ16sQQQI")
_EPOCH = struct.Struct(">Q")  # fence; the node's name follows
_META = struct.Struct(">Q")  # revision; the value follows

BLOB_KEY_BYTES = _BLOB_KEY.size
blob_key = _BLOB_KEY.pack
piece_key = _PIECE_KEY.pack
chunk_key = _CHUNK_KEY.pack


def unpack_blob_key(key: bytes) -> tuple[int, int]:
    """(group, position), also of a piece's key. Raises Corrupt."""
    if len(key) == _PIECE_KEY.size:
        key = key[: _BLOB_KEY.size]
    group, position = _unpack_key("log", _BLOB_KEY, key)
    return group, position


def unpack_chunk_key(key: bytes) -> tuple[int, int, int]:
    """(group, generation, number). Raises Corrupt."""
    group, generation, number = _unpack_key("checkpoint", _CHUNK_KEY, key)
    return group, generation, number


def epoch_key(group: int, epoch: int) -> bytes:
    return _EPOCH_KEY.pack(EPOCH_PREFIX, group, epoch)


def unpack_epoch_key(key: bytes) -> tuple[int, int]:
    """(group, epoch). Raises Corrupt."""
    _, group, epoch = _unpack_key("state", _EPOCH_KEY, key)
    return group, epoch


def _unpack_key(database: str, layout: struct.Struct, key: bytes) -> tuple[Any, ...]:
    if len(key) != layout.size:
        raise Corrupt(f"the {database} database holds a damaged key: {key.hex()}")
    return layout.unpack(key)


def seal(key: bytes, payload: bytes) -> bytes:
    """Put a CRC over key and payload in front of the payload."""
    return _CRC.pack(google_crc32c.extend(google_crc32c.value(key), payload)) + payload


def unseal(what: str, key: bytes, value: bytes) -> bytes:
    """The payload of a sealed value. Raises Corrupt, naming `what` was read."""
    payload = value[_CRC.size :]
    if value[: _CRC.size] != _CRC.pack(google_crc32c.extend(google_crc32c.value(key), payload)):
        raise Corrupt(f"{what} is damaged: its CRC is wrong")
    return payload


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """Where a group's checkpoint is."""

    position: int = 0
    generation: int = 0  # part of its chunks' keys; 0: there never was a checkpoint
    length: int = 0
    crc: int = 0


@dataclass(slots=True)
class Root:
    """The state of the store after one transaction."""

    revision: int = 0  # the last one given to a metadata value
    groups: dict[int, GroupState] = field(default_factory=dict)
    checkpoints: dict[int, CheckpointEntry] = field(default_factory=dict)

    def copy(self) -> "Root":
        return Root(self.revision, dict(self.groups), dict(self.checkpoints))

    def group(self, group: int) -> GroupState:
        return self.groups.get(group, _NEVER_ACQUIRED)

    def checkpoint(self, group: int) -> CheckpointEntry:
        return self.checkpoints.get(group, _NO_CHECKPOINT)


_NEVER_ACQUIRED = GroupState()
_NO_CHECKPOINT = CheckpointEntry()


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a transaction writes down of LMDB's own state, so that another state cannot pass for it."""

    transaction: int
    other_meta_crc: int  # of the meta page that this transaction does not overwrite


def pack_root(root: Root, stamp: Stamp) -> bytes:
    parts = [_ROOT.pack(stamp.transaction, stamp.other_meta_crc, root.revision)]
    for number, state in root.groups.items():
        entry = root.checkpoint(number)
        parts.append(
            _ROOT_GROUP.pack(
                number,
                state.position,
                state.epoch,
                state.fence,
                state.chain,
                entry.position,
                entry.generation,
                entry.length,
                entry.crc,
            )
        )
    return seal(KEY_ROOT, b"".join(parts))


def unpack_root(value: bytes) -> tuple[Root, Stamp]:
    """Raises Corrupt."""
    payload = unseal("the root row", KEY_ROOT, value)
    transaction, other_meta_crc, revision = _ROOT.unpack_from(payload)
    root = Root(revision)
    for offset in range(_ROOT.size, len(payload), _ROOT_GROUP.size):
        number, position, epoch, fence, chain, at, generation, length, crc = _ROOT_GROUP.unpack_from(
            payload, offset
        )
        root.groups[number] = GroupState(position, epoch, fence, chain)
        if generation:
            root.checkpoints[number] = CheckpointEntry(at, generation, length, crc)
    return root, Stamp(transaction, other_meta_crc)


def pack_epoch(key: bytes, fence: int, node: str) -> bytes:
    return seal(key, _EPOCH.pack(fence) + node.encode())


def unpack_epoch(key: bytes, value: bytes) -> tuple[int, str]:
    """(fence, node). Raises Corrupt."""
    payload = unseal("an epoch row", key, value)
    return int(_EPOCH.unpack_from(payload)[0]), payload[_EPOCH.size :].decode()


def pack_meta(key: bytes, value: bytes, revision: int) -> bytes:
    return seal(key, _META.pack(revision) + value)


def unpack_meta(key: bytes, value: bytes) -> tuple[bytes, int]:
    """(value, revision). Raises Corrupt."""
    payload = unseal(f"the metadata value {key!r}", key, value)
    return payload[_META.size :], int(_META.unpack_from(payload)[0])
