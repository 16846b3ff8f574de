"""The hot path outwards: content, and answers to publishers, without an object per frame.

A `ChannelRenderer` belongs to one open channel and appends to its connection's list of outgoing pieces. What
is the same for every delivery of a consumer is rendered once and kept (bounded). A small message becomes one
piece; a large body that fits one frame is passed on without being copied, a longer one is sliced once.
"""

from collections.abc import Iterable
from struct import Struct

from .frames import (
    BODY_FRAME,
    CLASS_BASIC,
    CONTENT_HEADER,
    FRAME_END,
    FRAME_HEADER,
    FRAME_OVERHEAD,
    HEADER_FRAME,
    METHOD_FRAME,
)
from .methods import encode_method
from .wire_types import Method

Delivery = tuple[bool, str, str, bytes, bytes]
"""Redelivered, exchange, routing key, properties, body."""

_PREFIXES_MAX = 1024  # entries; a consumer of a topic exchange sees many routing keys
_JOINED_BODY_MAX = 16 * 1024  # octets; beyond it one more piece is cheaper than copying the body

_END = bytes((FRAME_END,))
_METHOD_IDS = Struct(">HH")
_DELIVER_PREFIX = Struct(">BHIHH")  # frame header, ids; then comes the consumer tag
_TAG_AND_FLAG = Struct(">QB")
_HEADER_START = Struct(">BBHIHHQ")  # end of the method's frame, frame header, content header
_HEADER_END = Struct(">BBHI")  # end of the header's frame, frame header of the body
_PUBLISHER_ANSWER = Struct(">BHIHHQBB")  # a whole frame: header, ids, tag, bits, end

_CONTENT_HEADER_SIZE = CONTENT_HEADER.size
_DELIVER = (60, 60)
_ACK = (60, 80)
_NACK = (60, 120)
_DELIVER_FIXED_SIZE = _METHOD_IDS.size + _TAG_AND_FLAG.size


class ChannelRenderer:
    """Renders one channel's hot methods."""

    __slots__ = ("_body_max", "_channel_id", "_joined_body_max", "_out", "_prefixes")

    def __init__(self, channel_id: int, frame_max: int, out: list[bytes]) -> None:
        """`out` is where rendered pieces go; `frame_max` as negotiated, 0 for no limit."""
        self._channel_id = channel_id
        self._body_max = frame_max - FRAME_OVERHEAD if frame_max else 0xFFFF_FFFF
        self._joined_body_max = min(_JOINED_BODY_MAX, self._body_max)
        self._out = out
        # (consumer tag, exchange, routing key) -> what precedes and what follows delivery tag and redelivered
        self._prefixes: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}

    def deliver(self, consumer_tag: str, first_tag: int, deliveries: Iterable[Delivery]) -> int:
        """basic.deliver and its content, for each; returns how long properties and bodies are together."""
        out, channel_id, prefixes = self._out, self._channel_id, self._prefixes
        joined_body_max = self._joined_body_max
        content_bytes = 0
        for tag, (redelivered, exchange, routing_key, properties, body) in enumerate(deliveries, first_tag):
            key = (consumer_tag, exchange, routing_key)
            prefix, suffix = prefixes.get(key) or self._prepare(key)
            size = len(body)
            content_bytes += len(properties) + size
            if 0 < size <= joined_body_max:
                out.append(
                    b"".join(
                        (
                            prefix,
                            _TAG_AND_FLAG.pack(tag, redelivered),
                            suffix,
                            _HEADER_START.pack(
                                FRAME_END,
                                HEADER_FRAME,
                                channel_id,
                                _CONTENT_HEADER_SIZE + len(properties),
                                CLASS_BASIC,
                                0,
                                size,
                            ),
                            properties,
                            _HEADER_END.pack(FRAME_END, BODY_FRAME, channel_id, size),
                            body,
                            _END,
                        )
                    )
                )
            else:
                out.append(prefix + _TAG_AND_FLAG.pack(tag, redelivered) + suffix)
                self._content(properties, body)
        return content_bytes

    def _prepare(self, key: tuple[str, str, str]) -> tuple[bytes, bytes]:
        consumer_tag, exchange, routing_key = (_short_string(text) for text in key)
        suffix = exchange + routing_key
        size = _DELIVER_FIXED_SIZE + len(consumer_tag) + len(suffix)
        prefix = _DELIVER_PREFIX.pack(METHOD_FRAME, self._channel_id, size, *_DELIVER) + consumer_tag
        if len(self._prefixes) >= _PREFIXES_MAX:
            self._prefixes.clear()
        self._prefixes[key] = prefix, suffix
        return prefix, suffix

    def method_with_content(self, method: Method, properties: bytes, body: bytes) -> None:
        """basic.get-ok or basic.return and its content."""
        payload = encode_method(method)
        self._out.append(FRAME_HEADER.pack(METHOD_FRAME, self._channel_id, len(payload)) + payload)
        self._content(properties, body)

    def ack(self, delivery_tag: int, multiple: bool) -> None:
        """basic.ack: a confirm."""
        self._out.append(
            _PUBLISHER_ANSWER.pack(
                METHOD_FRAME, self._channel_id, 13, *_ACK, delivery_tag, multiple, FRAME_END
            )
        )

    def nack(self, delivery_tag: int, multiple: bool) -> None:
        """basic.nack: a refused publish."""
        self._out.append(
            _PUBLISHER_ANSWER.pack(
                METHOD_FRAME, self._channel_id, 13, *_NACK, delivery_tag, multiple, FRAME_END
            )
        )

    def _content(self, properties: bytes, body: bytes) -> None:
        """The end of the method's frame, the content header, and as many body frames as the body needs."""
        out, channel_id, size = self._out, self._channel_id, len(body)
        out.append(
            _HEADER_START.pack(
                FRAME_END,
                HEADER_FRAME,
                channel_id,
                _CONTENT_HEADER_SIZE + len(properties),
                CLASS_BASIC,
                0,
                size,
            )
            + properties
        )
        for start in range(0, size, self._body_max):
            piece = body[start : start + self._body_max]  # the body itself where it fits one frame
            out.append(_HEADER_END.pack(FRAME_END, BODY_FRAME, channel_id, len(piece)))
            out.append(piece)
        out.append(_END)


def _short_string(text: str) -> bytes:
    content = text.encode()
    return bytes((len(content),)) + content
