"""A lean AMQP 0-9-1 client on pamqp, for tests that need to know exactly when which byte is sent and read.

Unlike a real client it never reconnects, never retries, and calls back for each confirm and delivery when it
was read. What the broker should not have said is kept in `Connection.complaints`. A `Connection` owns its
`Channel`s; everything runs on one event loop.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pamqp import base, body, commands, frame, header

FRAME_HEADER = struct.Struct(">BHI")
FRAME_MAX = 131072
BODY_MAX = FRAME_MAX - 8
METHOD, HEADER, BODY = 1, 2, 3
CONNECTION_FORCED = 320


class ConnectionLost(Exception):
    """The connection or the channel ended before the answer came."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A basic.deliver or basic.get-ok with its content."""

    tag: int
    redelivered: bool
    consumer_tag: str  # empty for a get
    properties: commands.Basic.Properties
    body: bytes


class Channel:
    """One channel. The owner sets the callbacks before it asks for anything that could trigger them."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.number = number
        self.is_open = True
        self.on_delivery: Callable[[Delivery], None] = lambda _: None
        self.on_confirm: Callable[[int, bool, bool], None] = lambda *_: None  # tag, multiple, is an ack
        self._connection = connection
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._method: Any = None  # whose content is being read
        self._properties = commands.Basic.Properties()
        self._body = bytearray()
        self._body_size = 0

    async def call(self, request: base.Frame) -> Any:
        """Send a method and return the broker's answer; a get-ok as a `Delivery`. Raises ConnectionLost."""
        self.send(request)
        return await self.answer()

    async def answer(self) -> Any:
        """The broker's next answer. Raises ConnectionLost."""
        if not self.is_open or self._connection.ended.is_set():
            raise ConnectionLost("not open")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return await answer

    def send(self, method: base.Frame) -> None:
        """Send a method that has no answer. Silently nothing on a lost connection."""
        self._connection.write(frame.marshal(method, self.number))

    def publish(
        self, exchange: str, routing_key: str, properties: commands.Basic.Properties, content: bytes
    ) -> None:
        frames = [
            frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), self.number),
            frame.marshal(header.ContentHeader(body_size=len(content), properties=properties), self.number),
        ]
        for at in range(0, len(content), BODY_MAX):
            frames.append(frame.marshal(body.ContentBody(content[at : at + BODY_MAX]), self.number))
        self._connection.write(b"".join(frames))

    async def close(self) -> None:
        """Close in order. Nothing is called back afterwards."""
        self.on_delivery = lambda _: None
        self.on_confirm = lambda *_: None
        await self.call(commands.Channel.Close(200, "done", 0, 0))
        self.lost("closed")

    def received(self, kind: int, payload: bytes) -> None:
        """The connection gives each frame of this channel to this method."""
        if kind == METHOD:
            self._method_received(frame.unmarshal(_framed(kind, self.number, payload))[2])
        elif kind == HEADER:
            content: Any = frame.unmarshal(_framed(kind, self.number, payload))[2]
            self._properties, self._body_size = content.properties, content.body_size
            self._body.clear()
            self._content_received(b"")
        elif kind == BODY:
            self._content_received(payload)

    def lost(self, reason: str) -> None:
        """Fail what waits for an answer."""
        self.is_open = False
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(ConnectionLost(reason))

    def _method_received(self, method: Any) -> None:
        if isinstance(method, commands.Basic.Deliver | commands.Basic.GetOk):
            self._method = method
        elif isinstance(method, commands.Connection.Close):
            self._connection.closed_by_broker(method)
        elif isinstance(method, commands.Basic.Ack | commands.Basic.Nack):
            self.on_confirm(method.delivery_tag, method.multiple, isinstance(method, commands.Basic.Ack))
        elif isinstance(method, commands.Channel.Close):
            self.send(commands.Channel.CloseOk())
            self._connection.complaints.append(f"closed channel: {method.reply_text}")
            self.lost(method.reply_text)
        elif not isinstance(method, commands.Basic.Cancel):
            self._answered(method)

    def _content_received(self, part: bytes) -> None:
        self._body += part
        if len(self._body) < self._body_size:
            return
        method = self._method
        self._method = None
        pushed = isinstance(method, commands.Basic.Deliver)
        consumer_tag = method.consumer_tag if pushed else ""
        content = bytes(self._body)
        delivery = Delivery(method.delivery_tag, method.redelivered, consumer_tag, self._properties, content)
        if pushed:
            self.on_delivery(delivery)
        else:
            self._answered(delivery)

    def _answered(self, answer: Any) -> None:
        if not self._answers:
            self._connection.complaints.append(f"answered nothing: {answer}")
            return
        waiting = self._answers.popleft()
        if not waiting.done():
            waiting.set_result(answer)


class Connection(asyncio.Protocol):
    """One connection. `ended` is set once the last byte of the broker was read."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.complaints: list[str] = []
        self._writable = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._channels: dict[int, Channel] = {0: Channel(self, 0)}

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to 127.0.0.1 as guest. Raises OSError or ConnectionLost."""
        _, self = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        control = self._channels[0]
        self.write(b"AMQP\x00\x00\x09\x01")
        await control.answer()
        capabilities = {"basic.nack": True, "consumer_cancel_notify": True, "publisher_confirms": True}
        properties: Any = {"capabilities": capabilities}
        tune = await control.call(commands.Connection.StartOk(properties, "PLAIN", "\0guest\0guest"))
        control.send(commands.Connection.TuneOk(tune.channel_max, FRAME_MAX, 0))
        await control.call(commands.Connection.Open())
        return self

    async def channel(self) -> Channel:
        """Open a channel under a number that was not used before."""
        channel = self._channels[len(self._channels)] = Channel(self, len(self._channels))
        await channel.call(commands.Channel.Open())
        return channel

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the socket takes more. Raises ConnectionLost."""
        await self._writable.wait()
        if self.ended.is_set():
            raise ConnectionLost("ended")

    def abort(self) -> None:
        """Cut the connection, as a client that dies does."""
        if self._transport is not None:
            self._transport.abort()

    def closed_by_broker(self, method: commands.Connection.Close) -> None:
        """The broker goes away (320), or says what this client did wrong."""
        self._channels[0].send(commands.Connection.CloseOk())
        if method.reply_code != CONNECTION_FORCED:
            self.complaints.append(f"closed connection: {method.reply_text}")

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while at + 8 <= len(received):
            kind, number, size = FRAME_HEADER.unpack_from(received, at)
            if at + 8 + size > len(received):
                break
            self._channels[number].received(kind, bytes(received[at + 7 : at + 7 + size]))
            at += 8 + size
        del received[:at]

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, OSError):
            self.complaints.append(f"unreadable: {error!r}")
        for channel in self._channels.values():
            channel.lost(f"connection lost: {error}")
        self._transport = None
        self.ended.set()
        self._writable.set()


def _framed(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME_HEADER.pack(kind, channel, len(payload)) + payload + b"\xce"
