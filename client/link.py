"""One life of a connection: from the TCP handshake to the end of the socket. It is never used again.

`Connection` makes a new one for each attempt to reach a broker. The link owns its transport and matches
replies with requests; frames of a channel go to whoever has that number in `channels`. When it ends,
everything that waits for an answer raises ConnectionLost, then the connection is told.
"""

import asyncio
import platform
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from leveret.protocol.native.connection import ClientConnection, State
from leveret.protocol.native.framing import check_fields
from leveret.protocol.native.layouts import LAYOUTS, FrameType
from leveret.protocol.reply_codes import ReplyCode
from leveret.version import __version__

from .address import Address
from .errors import AuthenticationFailed, ConnectionLost, broker_error
from .transport import Transport

CLOSE_TIMEOUT_S = 10.0  # how long the broker may take to say goodbye
FRAME_MAX_BYTES = 600 * 1024 * 1024  # RabbitMQ's highest message size is 512 MiB; more is a mistake
REQUEST_MAX = 2**32 - 1

Dial = Callable[[Callable[[], Transport], Address, ssl.SSLContext | None], Awaitable[object]]
"""How to reach a broker; tests have another way than TCP."""


async def dial_tcp(
    make: Callable[[], Transport], address: Address, ssl_context: ssl.SSLContext | None
) -> None:
    """Open a TCP (or TLS) connection."""
    if address.tls and ssl_context is None:
        ssl_context = ssl.create_default_context(cafile=address.ca_file)
    loop = asyncio.get_running_loop()
    await loop.create_connection(make, address.host, address.port, ssl=ssl_context if address.tls else None)


class LinkChannel(Protocol):
    """What a link must know of a channel."""

    def frame_received(self, frame: Sequence[Any]) -> None:
        """A frame for this channel, replies apart."""

    def writable(self) -> None:
        """The socket takes more."""


class Link:
    """See the module's docstring."""

    def __init__(self, address: Address, when_ended: Callable[["Link", str], None]) -> None:
        """`when_ended` is called once, with the reason, if the link was ever open."""
        self.address = address
        self.protocol = ClientConnection()
        self.transport = Transport(self.protocol, self)
        self.channels: dict[int, LinkChannel] = {}
        self.server_properties: dict[str, Any] = {}
        self.end_reason: str | None = None  # None while it lives
        self._when_ended = when_ended
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, asyncio.Future[list[Any]]] = {}
        self._last_request = 0
        self._was_open = False
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_open(self) -> bool:
        return self.end_reason is None and self.protocol.state is State.OPEN

    # Its life

    async def open(
        self, dial: Dial, ssl_context: ssl.SSLContext | None, heartbeat_s: int, name: str | None
    ) -> None:
        """Reach the broker and log in."""
        properties = {
            "product": "leveret",
            "version": __version__,
            "platform": f"Python {platform.python_version()}",
        }
        if name is not None:
            properties["connection_name"] = name
        self.protocol.hello(
            self.address.user,
            self.address.password,
            self.address.vhost,
            heartbeat_s=heartbeat_s,
            frame_max=FRAME_MAX_BYTES,
            properties=properties,
        )
        try:
            await dial(lambda: self.transport, self.address, ssl_context)
            await self._welcomed
        except BaseException:
            self.transport.abort()
            raise
        self.transport.start_heartbeats()

    async def close(self) -> None:
        """Say goodbye and wait for the broker's. May be called again, and when the link has ended."""
        if self.is_open:
            self.transport.close()
            if self.transport.blocked_reason is not None:
                self.transport.abort()  # the broker does not read the goodbye
        if self.end_reason is None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await asyncio.shield(self._ended)
            except TimeoutError:
                self.transport.abort()

    async def wait_ended(self) -> None:
        """Returns behind the last call of `when_ended`."""
        await asyncio.shield(self._ended)

    # Requests

    async def request(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a request and wait for its reply: the values, or the error raised."""
        return await self.start_request(type_, *fields)

    def start_request(self, type_: FrameType, *fields: Any) -> asyncio.Future[list[Any]]:
        """Send a request; the future becomes the reply's values. Raises ValueError for fields that cannot
        be sent.
        """
        if not self.is_open:
            raise ConnectionLost(self.end_reason or self.transport.reason or "the connection is not open")
        request = self._next_request()
        check_fields(type_, request, *fields)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._requests[request] = future
        self.transport.send(type_, request, *fields)
        return future

    def _next_request(self) -> int:
        while True:
            self._last_request = self._last_request % REQUEST_MAX + 1
            if self._last_request not in self._requests:
                return self._last_request

    # What the transport calls

    def frame_received(self, frame: Sequence[Any]) -> None:
        type_ = frame[0]
        if type_ == FrameType.REPLY:
            future = self._requests.pop(frame[1], None)
            if future is not None and not future.done():
                future.set_result(frame[2])
        elif type_ == FrameType.ERROR:
            self._fail_request(*frame[1:])
        elif type_ == FrameType.WELCOME:
            self.server_properties = frame[5]
            self._was_open = True
            if not self._welcomed.done():
                self._welcomed.set_result(None)
        elif type_ == FrameType.CLOSE:
            self._refused(frame[1], frame[2])
        elif type_ == FrameType.BLOCKED:
            self.transport.block(frame[1])
        elif type_ == FrameType.UNBLOCKED:
            self.transport.unblock()
        else:
            channel = self.channels.get(frame[1])
            if channel is not None:  # else: it was on its way when the channel was closed
                channel.frame_received(frame)

    def _fail_request(self, request: int, code: int, text: str, operation: int) -> None:
        future = self._requests.pop(request, None)
        if future is not None and not future.done():
            layout = LAYOUTS.get(operation)
            name = layout.type.name.lower() if layout is not None else f"operation {operation}"
            future.set_exception(broker_error(code, text, name))

    def _refused(self, code: int, text: str) -> None:
        """CLOSE during the handshake says what was wrong with it."""
        if not self._welcomed.done():
            refused = code == ReplyCode.ACCESS_REFUSED
            login = f"{self.address} refuses user {self.address.user!r}: {text}"
            self._welcomed.set_exception(
                AuthenticationFailed(login) if refused else broker_error(code, text, "connect")
            )

    def writable(self) -> None:
        for channel in list(self.channels.values()):
            channel.writable()

    def connection_ended(self, reason: str) -> None:
        self.end_reason = reason
        if not self._welcomed.done():
            self._welcomed.set_exception(ConnectionLost(reason))
            self._welcomed.exception()  # `open` may have given up before it waited for it
        requests, self._requests = self._requests, {}
        for future in requests.values():
            if not future.done():
                future.set_exception(ConnectionLost(reason))
                future.exception()  # whoever waits gets it; if nobody does any more, that is no news
        self.channels = {}
        if self._was_open:
            self._when_ended(self, reason)
        if not self._ended.done():
            self._ended.set_result(None)
