"""A connection to a broker, plain: when it breaks, it is over. (Reconnecting is a layer above.)

`connect` gives one. The connection owns its channels and matches replies with requests; frames of a channel
go to it.
"""

import asyncio
import os
import platform
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from leveret.protocol.native.connection import ClientConnection, State
from leveret.protocol.native.framing import check_fields
from leveret.protocol.native.layouts import LAYOUTS, FrameType
from leveret.protocol.reply_codes import ReplyCode
from leveret.version import __version__

from .address import Address, parse_url
from .channel import Channel
from .errors import AuthenticationFailed, ConnectionLost, LeveretError, broker_error
from .opening import Opening
from .transport import Transport

DEFAULT_URL = "leveret://guest:guest@127.0.0.1:5672/"
URL_VARIABLE = "LEVERET_URL"  # of the environment
DEFAULT_HEARTBEAT_S = 60
DEFAULT_TIMEOUT_S = 15.0  # for TCP, TLS and login together
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
        ssl_context = ssl.create_default_context()
    loop = asyncio.get_running_loop()
    await loop.create_connection(make, address.host, address.port, ssl=ssl_context)


class Connection:
    """Made by `connect`. Close it with `close`, or use it as an async context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._protocol = ClientConnection()
        self._transport = Transport(self._protocol, self)
        self._channels: dict[int, Channel] = {}
        self._requests: dict[int, asyncio.Future[list[Any]]] = {}
        self._last_request = 0
        self._loop = asyncio.get_running_loop()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._end_reason: str | None = None  # None while the connection lives
        self.server_properties: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Connection to {self.address}, {'closed' if self.is_closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Closed or broken: nothing can be done with it any more."""
        return self._end_reason is not None or self._protocol.state is not State.OPEN

    @property
    def is_blocked(self) -> bool:
        """The broker is short of memory or disk and reads nothing from here: the connection has published."""
        return self.blocked_reason is not None

    @property
    def blocked_reason(self) -> str | None:
        """Such as "low on disk"; None while the connection is not blocked."""
        return self._transport.blocked_reason

    # The life of a connection

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
        self._protocol.hello(
            self.address.user,
            self.address.password,
            self.address.vhost,
            heartbeat_s=heartbeat_s,
            frame_max=FRAME_MAX_BYTES,
            properties=properties,
        )
        try:
            await dial(lambda: self._transport, self.address, ssl_context)
            await self._welcomed
        except BaseException:
            self._transport.abandon()
            raise
        self._transport.start_heartbeats()

    async def close(self) -> None:
        """Close all channels and say goodbye; publishes that are not confirmed yet raise. Idempotent."""
        if not self.is_closed:
            self._transport.close()
            if self.is_blocked:
                self._transport.abandon()  # the broker does not read the goodbye
        if self._end_reason is None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await asyncio.shield(self._ended)
            except TimeoutError:
                self._transport.abandon()

    def channel(self, *, publisher_confirms: bool = True) -> Opening[Channel]:
        """Open a channel: await it, or `async with connection.channel() as channel:`.

        Without `publisher_confirms`, `publish` does not wait and messages may be lost.
        """
        return Opening(lambda: self._open_channel(publisher_confirms))

    async def _open_channel(self, publisher_confirms: bool) -> Channel:
        self._require_open()
        number = self._free_number()
        channel = Channel(self, self._transport, number, publisher_confirms=publisher_confirms)
        self._channels[number] = channel
        try:
            await self.request(FrameType.CHANNEL_OPEN, number, publisher_confirms)
        except asyncio.CancelledError:
            channel.abandon()
            raise
        except LeveretError:
            self._channels.pop(number, None)
            raise
        return channel

    def _free_number(self) -> int:
        for number in range(1, self._protocol.channel_max + 1):
            if number not in self._channels:
                return number
        raise LeveretError(f"all {self._protocol.channel_max} channels are in use; close some")

    def forget_channel(self, number: int) -> None:
        """A channel is closed on both sides: its number may be used again."""
        self._channels.pop(number, None)

    # Requests

    async def request(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a request and wait for its reply: the values, or the error raised."""
        return await self.start_request(type_, *fields)

    def start_request(self, type_: FrameType, *fields: Any) -> asyncio.Future[list[Any]]:
        """Send a request; the future becomes the reply's values. Raises ValueError for fields that cannot
        be sent.
        """
        self._require_open()
        request = self._next_request()
        check_fields(type_, request, *fields)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._requests[request] = future
        self._transport.send(type_, request, *fields)
        return future

    def _next_request(self) -> int:
        while True:
            self._last_request = self._last_request % REQUEST_MAX + 1
            if self._last_request not in self._requests:
                return self._last_request

    def _require_open(self) -> None:
        if self._end_reason is not None:
            raise ConnectionLost(self._end_reason)
        if self.is_closed:
            raise ConnectionLost(self._transport.reason or "the connection is not open")

    @property
    def message_max_bytes(self) -> int:
        """The longest body that the broker takes."""
        return self._protocol.message_max

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
            if not self._welcomed.done():
                self._welcomed.set_result(None)
        elif type_ == FrameType.CLOSE:
            self._refused(frame[1], frame[2])
        elif type_ == FrameType.BLOCKED:
            self._transport.block(frame[1])
        elif type_ == FrameType.UNBLOCKED:
            self._transport.unblock()
        else:
            channel = self._channels.get(frame[1])
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
            self._welcomed.set_exception(
                AuthenticationFailed(text) if refused else broker_error(code, text, "connect")
            )

    def connection_ended(self, reason: str) -> None:
        self._end_reason = reason
        if not self._welcomed.done():
            self._welcomed.set_exception(ConnectionLost(reason))
            self._welcomed.exception()  # `open` may have given up before it waited for it
        requests, self._requests = self._requests, {}
        for future in requests.values():
            if not future.done():
                future.set_exception(ConnectionLost(reason))
                future.exception()  # whoever waits gets it; if nobody does any more, that is no news
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.ended(ConnectionLost(reason))
        if not self._ended.done():
            self._ended.set_result(None)


class Connector(Opening[Connection]):
    """What `connect` returns: await it for a connection, or use it with `async with`."""

    def __init__(
        self,
        address: Address,
        *,
        heartbeat_s: int,
        timeout_s: float,
        name: str | None,
        ssl_context: ssl.SSLContext | None,
        dial: Dial = dial_tcp,
    ) -> None:
        super().__init__(self._open)
        self._address = address
        self._heartbeat_s = heartbeat_s
        self._timeout_s = timeout_s
        self._name = name
        self._ssl_context = ssl_context
        self._dial = dial

    async def _open(self) -> Connection:
        connection = Connection(self._address)
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.open(self._dial, self._ssl_context, self._heartbeat_s, self._name)
        except TimeoutError:
            raise ConnectionLost(f"no answer from {self._address} within {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"cannot connect to {self._address}: {error}") from None
        return connection


def connect(
    url: str | None = None,
    *,
    heartbeat_s: int = DEFAULT_HEARTBEAT_S,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    name: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Connector:
    """Connect to a broker: `connection = await connect(url)`, or `async with connect(url) as connection:`.

    Args:
        url: `leveret://user:password@host:port/vhost`, or `leverets://` for TLS. None: what the environment
            variable LEVERET_URL says, or else the user guest on this machine.
        heartbeat_s: how long the broker may be silent before the connection counts as broken; 0: for ever.
        timeout_s: for TCP, TLS and login together.
        name: what operators see in the broker's logs.
        ssl_context: for `leverets://`, instead of the system's trust settings.

    Raises ValueError for a URL that makes no sense; when awaited, AuthenticationFailed, NotAllowed (the
    vhost) or ConnectionLost.
    """
    if not 0 <= heartbeat_s < 2**16:
        raise ValueError(f"heartbeat_s must be 0 to 65535, not {heartbeat_s}")
    if url is None:
        url = os.environ.get(URL_VARIABLE, DEFAULT_URL)
    return Connector(
        parse_url(url), heartbeat_s=heartbeat_s, timeout_s=timeout_s, name=name, ssl_context=ssl_context
    )
