"""A deterministic AMQP connection for the differential test: a blocking socket that hides no frame.

`Link.receive` returns what the broker sends, one `Received` after the other, content joined to its method. It
never reconnects, never answers by itself, and knows nothing of channels; the `Player` does.
"""

import socket
from typing import NamedTuple

from daemon import TIMEOUT_FACTOR

from leveret.protocol.amqp.connection import PROTOCOL_HEADER
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.frames import (
    BODY_FRAME,
    CONTENT_HEADER,
    FRAME_HEADER,
    METHOD_FRAME,
    content_frames,
    method_frame,
)
from leveret.protocol.amqp.methods import (
    BasicDeliver,
    BasicGetOk,
    BasicPublish,
    BasicReturn,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    decode_method,
)
from leveret.protocol.amqp.wire_types import Method

ANSWER_TIMEOUT_S = 5 * TIMEOUT_FACTOR


class LinkEnded(Exception):
    """The broker closed the socket, or said nothing for too long."""


class Received(NamedTuple):
    """A method, with its content if it is one that has content."""

    channel: int
    method: Method
    properties: bytes = b""
    body: bytes = b""


class Link:
    """One connection to a broker on the loopback, logged in as guest, heartbeats off."""

    def __init__(self, port: int, capabilities: dict[str, bool]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._socket.sendall(PROTOCOL_HEADER)
        self.receive()
        peer: FieldTable = {"capabilities": dict(capabilities)}
        self.send(0, ConnectionStartOk(client_properties=peer, response=b"\0guest\0guest"))
        tune = self.receive().method
        assert isinstance(tune, ConnectionTune), tune
        self._frame_max = tune.frame_max
        self.send(0, ConnectionTuneOk(channel_max=tune.channel_max, frame_max=tune.frame_max, heartbeat=0))
        self.send(0, ConnectionOpen())
        self.receive()

    def send(self, channel: int, *methods: Method) -> None:
        self._write(b"".join(method_frame(channel, method) for method in methods))

    def publish(self, channel: int, method: BasicPublish, properties: bytes, body: bytes) -> None:
        content = content_frames(channel, properties, body, self._frame_max)
        self._write(method_frame(channel, method) + content)

    def receive(self) -> Received:
        """The next method. Raises LinkEnded."""
        kind, channel, payload = self._frame()
        assert kind == METHOD_FRAME, (kind, payload)
        method = decode_method(payload)
        if not isinstance(method, BasicDeliver | BasicGetOk | BasicReturn):
            return Received(channel, method)
        _, _, header = self._frame()
        size = CONTENT_HEADER.unpack_from(header)[2]
        body = b""
        while len(body) < size:
            kind, _, part = self._frame()
            assert kind == BODY_FRAME, kind
            body += part
        return Received(channel, method, header[CONTENT_HEADER.size :], body)

    def wait_for_end(self) -> None:
        """Read until the broker closed the socket."""
        try:
            while self._socket.recv(65536):
                pass
        except OSError:
            pass
        self._socket.close()

    def drop(self) -> None:
        """End the connection without a word."""
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkEnded(str(error)) from None

    def _frame(self) -> tuple[int, int, bytes]:
        kind, channel, size = FRAME_HEADER.unpack(self._read(FRAME_HEADER.size))
        return kind, channel, self._read(size + 1)[:-1]

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise LinkEnded(f"no answer: {error}") from None
            if not data:
                raise LinkEnded("the broker closed the socket")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
