"""PUBLISH frames as runs: messages in a row that go to the same place with the same properties.

The broker publishes a run in one go, and a run goes on over all frames of a read. A message that differs
from the one before it in nothing but the octets of its body is not decoded, only cut out: that halves what
it costs to read. A frame with anything else in it is decoded and checked as any other.
"""

import re
from functools import lru_cache
from struct import Struct
from typing import Any

from .fields import ENTRIES_MAX
from .framing import FrameReader, bin_head, pack
from .layouts import FrameType, Role

Header = tuple[str, str, int, bytes]
"""Exchange, routing key, flags, properties: an entry of PUBLISH without the body."""

Run = tuple[Header, list[bytes]]

_PUBLISH = FrameType.PUBLISH.value

# An array of four: the type, the channel, the publish tag, and an array of so many entries.
_FRAME = re.compile(
    rb"\x94%c([\x00-\x7f]|\xcc.|\xcd..)([\x00-\x7f]|\xcc.|\xcd..|\xce.{4}|\xcf.{8})([\x90-\x9f]|\xdc..)"
    % _PUBLISH,
    re.DOTALL,
)


class PublishReader(FrameReader):
    """The server's reader of frames: PUBLISH comes as `[type, channel, publish_tag, runs]`."""

    def __init__(self, frame_max_bytes: int) -> None:
        super().__init__(Role.CLIENT, frame_max_bytes)
        self._header: Header = ("", "", 0, b"")  # of the message that was decoded last
        self._head = b""  # its octets in front of the body; empty before there was one
        self._body_size = 0

    def _decode(self, start: int, end: int) -> list[Any]:
        if self._head:
            alike = self._read_alike(start, end)
            if alike is not None:
                return alike
        frame = super()._decode(start, end)
        if frame[0] == _PUBLISH:
            frame[3] = runs = _as_runs(frame[3])
            if runs:
                self._learn(*runs[-1])
        return frame

    def _learn(self, header: Header, bodies: list[bytes]) -> None:
        """These were decoded last. What comes once is not expected to come again."""
        size = len(bodies[-1])
        if header == self._header and size == self._body_size:
            self._head = pack((*header, b""))[: -len(bin_head(0))] + bin_head(size)
        else:
            self._header, self._head, self._body_size = header, b"", size

    def _read_alike(self, start: int, end: int) -> list[Any] | None:
        """A PUBLISH of nothing but messages like the last one; None for any other frame."""
        data, head = self._data, self._head
        match = _FRAME.match(data, start, end)
        if match is None:
            return None
        channel, publish_tag, count = match.groups()
        entries = count[0] & 0x0F if len(count) == 1 else count[1] << 8 | count[2]
        if not 0 < entries <= ENTRIES_MAX:
            return None
        first = match.end()
        if first + entries * (len(head) + self._body_size) != end or not data.startswith(head, first):
            return None
        pieces = _layout(len(head), self._body_size, entries).unpack_from(data, first)
        if pieces[::2].count(head) != entries:
            return None
        runs = [(self._header, list(pieces[1::2]))]
        return [_PUBLISH, _integer(channel), _integer(publish_tag), runs]


def append_runs(runs: list[Run], more: list[Run]) -> None:
    """The first of these may go on with the last of those."""
    if runs and more and runs[-1][0] == more[0][0]:
        runs[-1][1].extend(more[0][1])
        more = more[1:]
    runs += more


def _as_runs(entries: list[list[Any]]) -> list[Run]:
    runs: list[Run] = []
    last: Header | None = None
    bodies: list[bytes] = []
    for exchange, routing_key, flags, properties, body in entries:
        header = (exchange, routing_key, flags, properties)
        if header == last:
            bodies.append(body)
        else:
            last, bodies = header, [body]
            runs.append((last, bodies))
    return runs


@lru_cache(maxsize=32)
def _layout(head_size: int, body_size: int, entries: int) -> Struct:
    return Struct(f"{head_size}s{body_size}s" * entries)


def _integer(packed: bytes) -> int:
    """Of the first 128 the octet itself, of others what follows it."""
    return packed[0] if len(packed) == 1 else int.from_bytes(packed[1:])
