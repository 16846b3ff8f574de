"""The tail of the log: small appends that LMDB does not have yet, in a file that is written from its front
again and again.

LMDB syncs the disk twice for every commit, the pages and then the meta page that makes them count. A small
append goes to the tail first, as one frame with one sync, and is durable with that. What lies in the tail
moves to LMDB with the next transaction, whatever that is for, and at the latest when the tail has no room:
the blobs, and a new *key* for the tail, in one commit. Only frames with the key that LMDB holds mean
anything, so a move empties the tail in the same instant.

    frame:  "LVTL" | CRC u32 of all that follows | key 16 | payload length u32 | payload | zeros
            A payload is blobs, each behind its length (u32). Frames begin at multiples of ALIGN_BYTES.

The key is random: no message body can pass for a frame. A last frame that is not whole is an append that the
crash has interrupted; another one behind it, whole or not, shows that it was not the last.

The engine owns it: its writer thread while that has something to do, else the loop.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from . import failpoints
from .blob import decode_blob
from .directory import FILE_MODE
from .engine import Append, Corrupt, Position
from .group import GroupState
from .lmdb_file import sync_path
from .lmdb_rows import TAIL_KEY_BYTES
from .tail_file import BUFFER_BYTES, TailFile

TAIL_NAME = "tail"
"""Of the file, beside LMDB's."""

FILE_BYTES = 1024 * 1024
"""Written once when it is made: a sync then need not note that blocks came into use (205 -> 145 us)."""

ALIGN_BYTES = 4096
"""A frame shares no page with another one, so a write that fails half way harms no other."""

APPEND_BYTES_MAX = 64 * 1024
"""A larger append goes to LMDB at once: its second sync weighs less than to write everything twice."""

_MAGIC = b"LVTL"
_START = struct.Struct(">4sI")
_BODY = struct.Struct(f">{TAIL_KEY_BYTES}sI")
_LENGTH = struct.Struct(">I")
HEADER_BYTES = _START.size + _BODY.size


@dataclass(frozen=True, slots=True)
class Frame:
    """An append on its way into the tail."""

    data: bytes
    items: Sequence[Append]
    positions: list[Position]
    groups: dict[int, GroupState]
    """As they will be then."""
    blob_bytes: int


class Tail:
    """The open file, and what of it is not in LMDB."""

    def __init__(self, path: Path, items: Sequence[Append]) -> None:
        """Open the file, of which these items were read. It takes no more before LMDB has them, and a key."""
        self.items = list(items)
        """What LMDB does not have yet, in order."""
        self.bytes = sum(len(item.blob) for item in items)
        self.groups: dict[int, GroupState] = {}
        """With that, the groups that are beyond what LMDB says."""
        self._key = b""
        self._end = 0
        self._file = TailFile(path)

    def attend(self) -> None:
        """From now on frames can be started, if the running loop's file system has a way."""
        self._file.attend()

    def close(self) -> None:
        self._file.close()

    @property
    def is_known(self) -> bool:
        """Whether LMDB has its key."""
        return bool(self._key)

    def place(self, items: Sequence[Append], groups: Mapping[int, GroupState]) -> list[Position] | None:
        """Write blobs to where they follow LMDB's `groups`; durable, if it answers their positions.

        None: it does not take them. Raises OSError when nobody knows whether they are there.
        """
        frame = self.frame(items, groups)
        return frame.positions if frame is not None and self.write(frame) else None

    def frame(self, items: Sequence[Append], groups: Mapping[int, GroupState]) -> Frame | None:
        """What to write for these blobs, which follow LMDB's `groups`.

        None: it takes only what is small, in order, and new, and has no room for everything.
        """
        size = sum(len(item.blob) for item in items)
        if size > APPEND_BYTES_MAX or not self._key:
            return None
        states = dict(self.groups)
        positions = []
        for item in items:
            state = states.get(item.group) or groups.get(item.group)
            if state is None or state.refusal(item) is not None or state.is_repeat(item):
                return None
            positions.append(state.place(item))
            states[item.group] = state.append(item.blob)
        data = _pack(self._key, [item.blob for item in items])
        if len(data) > min(FILE_BYTES - self._end, BUFFER_BYTES):
            return None
        return Frame(data, items, positions, states, size)

    def write(self, frame: Frame) -> bool:
        """Returns whether it is there. Raises OSError when nobody knows."""
        if failpoints.armed:
            failpoints.hit("commit")
        try:
            octets = self._file.write(frame.data, self._end)
        except OSError as error:
            octets = -(error.errno or errno.EIO)
        return self.written(frame, octets)

    def start(self, frame: Frame, done: Callable[[int], None]) -> bool:
        """Begin to write it; `done` is called with what `written` has to be told. Returns whether it began;
        if not, `write` is the way. Raises OSError when nobody knows.
        """
        if failpoints.armed:
            failpoints.hit("commit")
        return self._file.start(frame.data, self._end, done)

    def written(self, frame: Frame, octets: int) -> bool:
        """So many octets of it are on the disk, or what failed, negated.

        Returns whether it is there. Raises OSError when nobody knows.
        """
        if octets == len(frame.data):
            self._end += octets
            self.groups = frame.groups
            self.items += frame.items
            self.bytes += frame.blob_bytes
            return True
        if octets == -errno.EAGAIN:  # the kernel will not; what may be there of it is written over
            return False
        # A file system that never writes in place needs room even for this.
        if octets < 0 and -octets not in {errno.ENOSPC, errno.EDQUOT}:
            raise OSError(-octets, os.strerror(-octets))
        self._wipe()
        return False

    def _wipe(self) -> None:
        """What was written of a frame must never count. Raises OSError."""
        if self._file.write(bytes(ALIGN_BYTES), self._end) < ALIGN_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def clear(self, key: bytes) -> None:
        """LMDB has everything, durably, and this key for what comes next; an empty one if nothing will."""
        self._key = key
        self._end = self.bytes = 0
        self.items, self.groups = [], {}


def new_key() -> bytes:
    return os.urandom(TAIL_KEY_BYTES)


def make_tail(path: Path) -> None:
    """Make the file, whole or not at all and, but for its entry in the directory, durably. Raises OSError."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(bytes(FILE_BYTES))
    sync_path(new)
    new.rename(path)


def read_items(path: Path, key: bytes, groups: Mapping[int, GroupState]) -> list[Append]:
    """What the frames with this key hold, in order. It follows LMDB's `groups`.

    Raises:
        Corrupt: the file is missing, or a frame that was not the last one is damaged, or they do not follow.
    """
    states = dict(groups)
    items = []
    for raw in _read_blobs(path, key):
        blob = decode_blob(raw)
        item = Append(blob.group, blob.epoch, blob.idx, raw)
        state = states.get(item.group, GroupState())
        if state.refusal(item) is not None or state.is_repeat(item) or state.chain != blob.previous:
            raise Corrupt(
                f"{path}: the blob of group {item.group}, epoch {item.epoch}, idx {item.idx} does not follow "
                f"the log, which ends at idx {state.idx} of epoch {state.epoch}"
            )
        states[item.group] = state.append(raw)
        items.append(item)
    return items


def _read_blobs(path: Path, key: bytes) -> list[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(
            f"{path} cannot be read, and with it the last appends of the log: {error.strerror}"
        ) from error
    if len(data) != FILE_BYTES:
        raise Corrupt(
            f"{path} has {len(data)} bytes, not {FILE_BYTES}: the last appends of the log are missing"
        )
    payloads: list[bytes] = []
    offset = 0
    while (payload := _payload_at(data, offset, key)) is not None:
        payloads.append(payload)
        offset += _aligned(HEADER_BYTES + len(payload))
    for later in range(offset + ALIGN_BYTES, len(data), ALIGN_BYTES):
        if _begins_at(data, later, key):
            raise Corrupt(f"{path}: the frame at byte {offset} is damaged, and there is one behind it")
    return [blob for payload in payloads for blob in _split(payload)]


def _pack(key: bytes, blobs: Iterable[bytes]) -> bytes:
    payload = b"".join([piece for blob in blobs for piece in (_LENGTH.pack(len(blob)), blob)])
    body = _BODY.pack(key, len(payload))
    crc = google_crc32c.extend(google_crc32c.value(body), payload)
    frame = b"".join((_START.pack(_MAGIC, crc), body, payload))
    return frame.ljust(_aligned(len(frame)), b"\0")


def _begins_at(data: bytes, offset: int, key: bytes) -> bool:
    """Whether a frame with this key begins here, whole or not."""
    return data.startswith(_MAGIC, offset) and data.startswith(key, offset + _START.size)


def _payload_at(data: bytes, offset: int, key: bytes) -> bytes | None:
    """Of the frame that begins here, if there is a whole one with this key."""
    if offset + HEADER_BYTES > len(data) or not _begins_at(data, offset, key):
        return None
    _, crc = _START.unpack_from(data, offset)
    _, length = _BODY.unpack_from(data, offset + _START.size)
    end = offset + HEADER_BYTES + length
    if end > len(data):
        return None
    if google_crc32c.value(data[offset + _START.size : end]) != crc:
        return None
    return data[offset + HEADER_BYTES : end]


def _split(payload: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(payload):
        (length,) = _LENGTH.unpack_from(payload, offset)
        offset += _LENGTH.size
        yield payload[offset : offset + length]
        offset += length


def _aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
