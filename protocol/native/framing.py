"""Frames to bytes and back: the magic, the length prefix, msgpack, and the check against the layout.

`FrameReader` collects received octets and gives out checked frames. It raises only `HardError`, which
`connection` turns into its last event.
"""

import struct
from typing import Any

import msgpack

from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

from .fields import ENTRIES_MAX, MAP_ENTRIES_MAX
from .layouts import LAYOUTS, REQUIRED, FrameType, Role

VERSION = 1
MAGIC = b"LEVERET" + bytes([VERSION])
"""The first octets of a client."""

LENGTH = struct.Struct(">I")
TIMESTAMP_AS_DATETIME = 3  # msgpack's code for: timestamps are aware datetimes

_packer = msgpack.Packer(datetime=True, buf_size=64 * 1024)
"""One for all: a packer's buffer costs more to allocate than a small frame to pack."""


def encode(type_: int, *fields: Any) -> bytes:
    """A frame, with its length. The fields are not checked: they are ours."""
    payload: bytes = _packer.pack((type_, *fields))
    return LENGTH.pack(len(payload)) + payload


def encode_batch(out: list[bytes], type_: int, *fields: Any) -> int:
    """Append a frame that may be large to `out` without copying it once more. Returns its length."""
    payload: bytes = _packer.pack((type_, *fields))
    out.append(LENGTH.pack(len(payload)))
    out.append(payload)
    return len(payload)


def pack(value: Any) -> bytes:
    """A value by itself."""
    packed: bytes = _packer.pack(value)
    return packed


def bin_head(size: int) -> bytes:
    """What stands in front of a bin of so many octets."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1)
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2)
    return b"\xc6" + size.to_bytes(4)


class FrameReader:
    """Finds the frames in a stream of octets, however it was cut; the cost is linear in the octets.

    Usage: `feed` what was received, then call `next_frame` until it returns None.
    """

    def __init__(self, sender: Role, frame_max_bytes: int) -> None:
        self._sender = sender
        self.frame_max_bytes = frame_max_bytes  # the connection raises it when the handshake is over
        self._data: bytes | bytearray = b""
        self._position = 0  # in `_data`, of the next frame's length
        self._wanted = LENGTH.size  # octets from `_position` on without which there is nothing to do

    @property
    def awaited_bytes(self) -> int:
        """The size of the frame that has begun and not ended; a few bytes where none has."""
        return self._wanted

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        rest = len(self._data) - self._position
        if not rest:
            # The usual case: frames are read where they lie.
            self._data = data
        elif rest + len(data) >= self._wanted:
            with memoryview(self._data) as whole, whole[self._position :] as begun:
                self._data = b"".join((begun, data))
        elif isinstance(self._data, bytearray):
            del self._data[: self._position]
            self._data += data
        else:
            self._data = bytearray(memoryview(self._data)[self._position :])
            self._data += data
        self._position = 0

    def next_frame(self) -> list[Any] | None:
        """The next complete frame, or None when more octets are needed.

        The length is checked before the payload is waited for, so no more than one frame is ever buffered.
        """
        data, position = self._data, self._position
        available = len(data) - position
        if available < self._wanted:
            return None
        (length,) = LENGTH.unpack_from(data, position)
        if length > self.frame_max_bytes:
            text = f"a frame of {length} octets exceeds the limit of {self.frame_max_bytes}"
            raise HardError(ReplyCode.FRAME_ERROR, text)
        self._wanted = LENGTH.size + length
        if available < self._wanted:
            return None
        start = position + LENGTH.size
        self._position = end = start + length
        self._wanted = LENGTH.size
        return self._decode(start, end)

    def _decode(self, start: int, end: int) -> list[Any]:
        """The frame with the payload from start to end."""
        with memoryview(self._data) as whole, whole[start:end] as payload:
            return decode(payload, self._sender)


def decode(payload: bytes | memoryview, sender: Role) -> list[Any]:
    """The frame in a payload: checked, surplus fields dropped, missing ones filled with their defaults."""
    try:
        frame = msgpack.unpackb(
            payload,
            timestamp=TIMESTAMP_AS_DATETIME,
            ext_hook=_refuse_extension,
            # Strings and bins are limited by the frame that they lie in; a claimed count is not: it reserves
            # memory at once.
            max_array_len=ENTRIES_MAX,
            max_map_len=MAP_ENTRIES_MAX,
        )
    except (ValueError, OverflowError, msgpack.UnpackException) as error:
        raise HardError(ReplyCode.FRAME_ERROR, f"a frame is not msgpack: {_first_line(error)}") from None
    if type(frame) is not list or not frame or type(frame[0]) is not int:
        raise HardError(ReplyCode.SYNTAX_ERROR, "a frame is not an array that begins with its type")
    layout = LAYOUTS.get(frame[0])
    if layout is None:
        raise HardError(ReplyCode.COMMAND_INVALID, f"unknown frame type {frame[0]:#04x}")
    if not layout.sender & sender:
        raise HardError(
            ReplyCode.COMMAND_INVALID, f"{layout.type.name} is not sent by the {sender.name.lower()}"
        )
    fields = layout.fields
    del frame[len(fields) + 1 :]
    for number in range(len(frame), len(fields) + 1):
        field = fields[number - 1]
        if field.default is REQUIRED:
            raise HardError(ReplyCode.SYNTAX_ERROR, f"{layout.type.name}: field {field.name} is missing")
        frame.append(field.make_default())
    for number, field in enumerate(fields, 1):
        try:
            field.type.check(frame[number])
        except ValueError as error:
            text = f"{layout.type.name}: field {field.name} {error}"
            raise HardError(ReplyCode.SYNTAX_ERROR, text) from None
    return frame


def check_fields(type_: FrameType, *values: Any) -> None:
    """Hold the application to the protocol: raises ValueError for a field that the peer would refuse."""
    for field, value in zip(LAYOUTS[type_].fields, values, strict=False):
        try:
            field.type.check(value)
        except ValueError as error:
            raise ValueError(f"{field.name} {error}") from None


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]
