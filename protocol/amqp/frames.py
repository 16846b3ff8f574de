"""Frames (0-9-1 section 4.2.3): type octet, channel u16, payload size u32, payload, end octet."""

from struct import Struct

from .methods import encode_method
from .wire_types import Method

METHOD_FRAME = 1
HEADER_FRAME = 2
BODY_FRAME = 3
HEARTBEAT_FRAME = 8

FRAME_END = 0xCE
FRAME_OVERHEAD = 8  # octets of a frame around its payload
FRAME_MIN_SIZE = (
    4096  # 0-9-1's frame-min-size: nobody may negotiate less, nothing before tuning may be larger
)

CLASS_BASIC = 60  # the only class with content

FRAME_HEADER = Struct(">BHI")
CONTENT_HEADER = Struct(">HHQ")  # class id, weight (unused), body size; the property list follows

_END = bytes((FRAME_END,))


def build_frame(frame_type: int, channel_id: int, payload: bytes) -> bytes:
    """One whole frame."""
    return FRAME_HEADER.pack(frame_type, channel_id, len(payload)) + payload + _END


def method_frame(channel_id: int, method: Method) -> bytes:
    """The frame of a method."""
    return build_frame(METHOD_FRAME, channel_id, encode_method(method))


def content_frames(channel_id: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The content header and as many body frames as the body needs: none for an empty one."""
    payload = CONTENT_HEADER.pack(CLASS_BASIC, 0, len(body)) + properties
    step = frame_max - FRAME_OVERHEAD
    return build_frame(HEADER_FRAME, channel_id, payload) + b"".join(
        build_frame(BODY_FRAME, channel_id, body[start : start + step]) for start in range(0, len(body), step)
    )


HEARTBEAT_OCTETS = build_frame(HEARTBEAT_FRAME, 0, b"")
