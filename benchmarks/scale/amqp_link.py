"""A raw connection for loads that look at every body: ready-made bytes out, frame by frame in.

Set-up goes through pamqp; the hot path walks over what it receives, frame header by frame header.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pamqp import base, commands, frame

FRAME_HEADER = struct.Struct(">BHI")
METHOD_ID = struct.Struct(">I")
CONFIRM = struct.Struct(">IQ?")  # basic.ack and basic.nack: method id, tag, multiple
STAMP = struct.Struct(">Q")
METHOD, BODY = 1, 3
DELIVER, ACK, NACK = (60 << 16 | number for number in (60, 80, 120))
CLOSES = (10 << 16 | 50, 20 << 16 | 40)
FRAME_MAX = 131072
RECEIVE_BYTES = 1 << 18
SILENCE_MAX_S = 30


@dataclass
class Count:
    """What one publisher saw."""

    messages: int = 0
    refused: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Link:
    """A connection with one open channel."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), SILENCE_MAX_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._has_unread = False  # complete frames in the rest, perhaps
        self.send(b"AMQP\x00\x00\x09\x01")
        self._answer()
        self.send(frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"), 0))
        tune = self._answer()
        self.send(frame.marshal(commands.Connection.TuneOk(tune.channel_max, FRAME_MAX, 0), 0))
        self.send(frame.marshal(commands.Connection.Open(), 0))
        self._answer()
        self.call(commands.Channel.Open())

    def call(self, method: base.Frame) -> Any:
        """Send a synchronous method on the channel and return its answer."""
        self.send(frame.marshal(method, 1))
        return self._answer()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, timeout_s: float = SILENCE_MAX_S) -> Iterator[tuple[bytes, int, int]]:
        """Wait for bytes, then yield (buffer, frame type, start of the payload) of each complete frame."""
        buffer = self._rest if self._has_unread else self._rest + self._receive_some(timeout_s)
        self._rest, self._has_unread = b"", False
        at, length = 0, len(buffer)
        while at + 8 <= length:
            kind, _, size = FRAME_HEADER.unpack_from(buffer, at)
            end = at + 8 + size
            if end > length:
                break
            if kind == METHOD and METHOD_ID.unpack_from(buffer, at + 7)[0] in CLOSES:
                raise ConnectionError(f"the broker said {frame.unmarshal(buffer[at:end])[2]}")
            yield buffer, kind, at + 7
            at = end
        self._rest = buffer[at:]

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> Any:
        """The next method. What came behind it (deliveries may) is left for `receive`."""
        for buffer, _, start in self.receive():
            size, _, method = frame.unmarshal(buffer[start - 7 :])
            self._rest = buffer[start - 7 + size :]
            self._has_unread = bool(self._rest)
            return method
        return self._answer()

    def _receive_some(self, timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the broker closed the connection")
        return received


class Confirms:
    """Which publishes are confirmed. Tags may come one by one, out of order, or many at once."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._last_sent = 0
        self._all_up_to = 0
        self._beyond: set[int] = set()
        self._sends: deque[tuple[int, int]] = deque()  # (last tag, time) of each send not fully confirmed

    @property
    def waiting(self) -> int:
        return self._last_sent - self._all_up_to - len(self._beyond)

    def sent(self, messages: int, now: int) -> None:
        self._last_sent += messages
        self._sends.append((self._last_sent, now))

    def read(self, link: Link) -> None:
        """Wait for at least one frame."""
        before = self.waiting
        for buffer, kind, start in link.receive():
            if kind == METHOD and METHOD_ID.unpack_from(buffer, start)[0] in (ACK, NACK):
                method, tag, multiple = CONFIRM.unpack_from(buffer, start)
                self._settle(tag, multiple)
                self._count.refused += method == NACK
        self._count.messages += before - self.waiting
        now = time.monotonic_ns()
        while self._sends and self._sends[0][0] <= self._all_up_to:
            self._count.latencies_ms.append((now - self._sends.popleft()[1]) / 1e6)

    def _settle(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._all_up_to = max(self._all_up_to, tag)
            self._beyond = {one for one in self._beyond if one > tag}
        elif tag > self._all_up_to:
            self._beyond.add(tag)
        while self._all_up_to + 1 in self._beyond:
            self._all_up_to += 1
            self._beyond.remove(self._all_up_to)
