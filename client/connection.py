"""A connection to a broker that survives: when its link breaks, it makes another one and goes on there.

`connect` gives one. It owns its channels, its topology, and one `Link` at a time. On a new link everything is
made again in this order: exchanges, queues and bindings; channels and their prefetch; consumers; then
publishes that were not confirmed are sent again. Only then do requests that waited go on.

With `reconnect=False`, or when reconnecting is given up, the end of the link is the end of the connection,
and everything that waits raises ConnectionLost.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from .address import Address, Target, heartbeat, parse_url, timeout
from .channel import Channel
from .errors import AuthenticationFailed, ChannelClosed, ConnectionLost, LeveretError, WrongLoop
from .link import Dial, Link, dial_tcp
from .opening import Opening
from .reconnect import Reconnect, keep_trying
from .topology import Topology

log = logging.getLogger(__name__)

DEFAULT_URL = "leveret://guest:guest@127.0.0.1:5672/"
URL_VARIABLE = "LEVERET_URL"  # of the environment
DEFAULT_HEARTBEAT_S = 60
DEFAULT_TIMEOUT_S = 15.0  # for TCP, TLS and login together
SHORT_LIFE_S = 5.0  # a link that breaks sooner may do so again: the delays go on growing
LOCKS_WITHOUT_HEARTBEAT_S = 60.0  # how long a broken connection may hold locks that no heartbeat frees


class Phase(StrEnum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


NEXT_PHASES = {
    Phase.CONNECTING: {Phase.CONNECTED, Phase.CLOSED},
    Phase.CONNECTED: {Phase.RECONNECTING, Phase.CLOSED},
    Phase.RECONNECTING: {Phase.CONNECTED, Phase.CLOSED},
    Phase.CLOSED: set(),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to connect, as `connect` was told."""

    heartbeat_s: int
    timeout_s: float
    name: str | None
    ssl_context: ssl.SSLContext | None
    reconnect: Reconnect | None  # None: the end of the link is the end
    dial: Dial = dial_tcp


class Connection:
    """Made by `connect`. Close it with `close`, or use it as an async context manager."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.topology = Topology()
        self.phase = Phase.CONNECTING
        self._target = target
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None  # the present one, or the last
        self._channels: dict[int, Channel] = {}  # by number, also those on their way to open or closed
        self._end: LeveretError | None = None  # why the connection is closed
        self._changed = asyncio.Event()  # set while connected, and when closed
        self._reconnecting: asyncio.Task[None] | None = None
        self._connected_at_s = 0.0
        self._lost_at_s = 0.0
        self._short_lives = 0  # of links, in a row
        self._lost_callbacks: list[Callable[[LeveretError], object]] = []
        self._restored_callbacks: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Connection to {self.address}, {self.phase}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # What it is like

    @property
    def address(self) -> Address:
        """The broker that it is connected to, or was last."""
        return self._target.addresses[0] if self._link is None else self._link.address

    @property
    def is_connected(self) -> bool:
        """There is a link and everything is restored. False also while reconnecting."""
        return self.phase is Phase.CONNECTED and self.link.is_open

    @property
    def is_closed(self) -> bool:
        """Closed or given up: nothing can be done with it any more."""
        return self.phase is Phase.CLOSED

    @property
    def is_blocked(self) -> bool:
        """The broker is short of memory or disk and reads nothing from here: the connection has published."""
        return self.blocked_reason is not None

    @property
    def blocked_reason(self) -> str | None:
        """Such as "low on disk"; None while the connection is not blocked."""
        return None if self._link is None else self._link.transport.blocked_reason

    @property
    def server_properties(self) -> dict[str, Any]:
        """What the broker says of itself."""
        return {} if self._link is None else self._link.server_properties

    @property
    def message_max_bytes(self) -> int:
        """The longest body that the broker takes."""
        return 0 if self._link is None else self._link.protocol.message_max

    @property
    def survives(self) -> bool:
        """Whether it reconnects."""
        return self._settings.reconnect is not None

    def on_lost(self, callback: Callable[[LeveretError], object]) -> None:
        """Call back each time the link breaks, with the reason; also when that is the end."""
        self._lost_callbacks.append(callback)

    def on_restored(self, callback: Callable[[], object]) -> None:
        """Call back each time that everything is as it was before."""
        self._restored_callbacks.append(callback)

    async def wait_connected(self) -> None:
        """Wait until `is_connected`. Raises ConnectionLost when the connection is closed or given up."""
        self.require_open()
        while not self.is_connected:
            if self.phase is Phase.CONNECTED:
                await self.link.wait_ended()  # it is on its way out, and will be noticed
            else:
                await self._changed.wait()
            self.require_open()

    def require_open(self) -> None:
        """Raise when the connection is closed, or belongs to another event loop."""
        if self._end is not None:
            raise self._end.with_traceback(None)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop(
                "this connection belongs to another event loop: use it in that loop "
                "(`asyncio.run_coroutine_threadsafe`), or open one in this loop"
            )

    # Its life

    async def open(self) -> None:
        """Reach a broker for the first time."""
        try:
            policy = self._settings.reconnect
            try:
                await self._connect()
            except AuthenticationFailed:
                raise
            except LeveretError as error:
                if policy is None or not policy.from_start:
                    raise
                await keep_trying(self._connect, policy, str(error))
        except BaseException:
            self._enter(Phase.CLOSED)
            raise

    async def _connect(self) -> None:
        """One attempt: reach one of the hosts, and restore everything there."""
        link = await self._reach()
        try:
            self._link = link
            await self._restore(link)
        except BaseException:
            link.transport.abort()
            raise
        self._enter(Phase.CONNECTED)
        self._connected_at_s = self._loop.time()

    async def _reach(self) -> Link:
        """A new link to the first host that takes us."""
        errors: list[LeveretError] = []
        for address in self._target.in_turn(self._link.address if self._link is not None else None):
            try:
                return await self._open_link(address)
            except AuthenticationFailed:
                raise
            except LeveretError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        raise ConnectionLost("; ".join(str(error) for error in errors))

    async def _open_link(self, address: Address) -> Link:
        settings = self._settings
        link = Link(address, self._link_ended)
        try:
            async with asyncio.timeout(settings.timeout_s):
                await link.open(settings.dial, settings.ssl_context, settings.heartbeat_s, settings.name)
        except TimeoutError:
            raise ConnectionLost(f"no answer from {address} within {settings.timeout_s:g} s") from None
        except OSError as error:
            is_plain = isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER"
            hint = "; without TLS the URL begins with leveret://" if is_plain else ""
            raise ConnectionLost(f"cannot connect to {address}: {error}{hint}") from None
        return link

    async def _restore(self, link: Link) -> None:
        wait_for_locks = self._loop.time() - self._lost_at_s < self._locks_held_s(link)
        await self.topology.restore(link, wait_for_locks=wait_for_locks)
        channels = [channel for channel in self._channels.values() if channel.was_opened]
        tags = await asyncio.gather(*(self._reopen(channel, link) for channel in channels))
        await self.topology.restore_consumers(link, Channel.consumer_restored, wait_for_locks=wait_for_locks)
        for channel, last_tag in zip(channels, tags, strict=True):
            channel.resume(last_tag)
        if not link.is_open:
            raise ConnectionLost(link.end_reason or "the connection broke again")

    def _locks_held_s(self, link: Link) -> float:
        """How long the broker may take our own broken connection for alive, which still has its locks."""
        return 2.0 * link.protocol.heartbeat_s or LOCKS_WITHOUT_HEARTBEAT_S

    async def _reopen(self, channel: Channel, link: Link) -> int:
        """The last publish tag that the broker knows of the channel; 0 when it is lost."""
        if channel.is_closed:
            return 0  # since this task was made; its number is free
        try:
            return await channel.open(link)
        except ConnectionLost:
            raise
        except LeveretError as error:
            channel.ended(ChannelClosed(f"the channel could not be opened again: {error}"))
            self.forget_channel(channel.number)
            return 0

    def _enter(self, phase: Phase) -> None:
        assert phase in NEXT_PHASES[self.phase], f"{self.phase} -> {phase}"
        self.phase = phase
        if phase is Phase.RECONNECTING:
            self._changed.clear()
        else:
            self._changed.set()

    def _link_ended(self, link: Link, reason: str) -> None:
        """The link broke, or the broker ended it."""
        if link is not self._link or self.phase is Phase.CLOSED:
            return
        error = ConnectionLost(reason)
        policy = self._settings.reconnect
        if policy is None:
            self._close(error)
        else:
            self._suspend()
            if self.phase is not Phase.CONNECTED:
                return  # whoever made the link learns of it
            log.warning("the connection to %s is lost: %s; reconnecting", link.address, reason)
            self._enter(Phase.RECONNECTING)
            self._lost_at_s = self._loop.time()
            is_short = self._lost_at_s - self._connected_at_s < SHORT_LIFE_S
            self._short_lives = self._short_lives + 1 if is_short else 0
            self._reconnecting = self._loop.create_task(self._reconnect(policy, reason))
        self._call_back(self._lost_callbacks, error)

    def _suspend(self) -> None:
        for number, channel in list(self._channels.items()):
            channel.suspend()
            if channel.is_closed:
                self.forget_channel(number)

    async def _reconnect(self, policy: Reconnect, reason: str) -> None:
        try:
            await keep_trying(self._connect, policy, reason, max(0, self._short_lives - 1))
        except AuthenticationFailed as error:
            lost = ConnectionLost(f"the broker does not accept the login any more: {error}")
            lost.__cause__ = error
            self._close(lost)
        except ConnectionLost as error:
            self._close(error)
        except asyncio.CancelledError:
            self._close(ConnectionLost("reconnecting was cancelled"))
            raise
        except Exception as error:
            log.exception("reconnecting failed for a reason that is not the broker's")
            self._close(ConnectionLost(f"reconnecting failed: {error!r}"))
        else:
            log.info("connected to %s again", self.address)
            self._call_back(self._restored_callbacks)

    def _call_back(self, callbacks: list[Callable[..., object]], *arguments: object) -> None:
        for callback in callbacks:
            try:
                callback(*arguments)
            except Exception:
                log.exception("a callback of the connection failed")

    async def close(self) -> None:
        """Close all channels and say goodbye; publishes that are not confirmed yet raise. Idempotent, and at
        once while reconnecting.
        """
        link, reconnecting = self._link, self._reconnecting
        if link is not None:
            link.transport.flush()
        self._close(ConnectionLost("the connection was closed; open another one with leveret.connect()"))
        if reconnecting is not None and reconnecting is not asyncio.current_task():
            reconnecting.cancel()
            await asyncio.wait((reconnecting,))
        if link is not None:
            await link.close()

    def _close(self, error: LeveretError) -> None:
        """Nothing more comes: everything that waits raises this error."""
        if self.phase is Phase.CLOSED:
            return
        self._end = error
        self._enter(Phase.CLOSED)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.ended(error)

    # Channels

    def channel(self, *, publisher_confirms: bool = True) -> Opening[Channel]:
        """Open a channel: await it, or `async with connection.channel() as channel:`.

        Without `publisher_confirms`, `publish` does not wait and messages may be lost.
        """
        return Opening(lambda: self._open_channel(publisher_confirms))

    async def _open_channel(self, publisher_confirms: bool) -> Channel:
        await self.wait_connected()
        number = self._free_number()
        channel = Channel(self, number, publisher_confirms=publisher_confirms)
        self._channels[number] = channel
        try:
            while True:
                await self.wait_connected()
                try:
                    channel.resume(await channel.open(self.link))
                except ConnectionLost:
                    if self.is_closed:
                        raise
                else:
                    return channel
        except asyncio.CancelledError:
            channel.abandon()
            raise
        except LeveretError:
            self._channels.pop(number, None)
            raise

    def _free_number(self) -> int:
        channel_max = self.link.protocol.channel_max
        for number in range(1, channel_max + 1):
            if number not in self._channels:
                return number
        raise LeveretError(f"all {channel_max} channels are in use; close some")

    def forget_channel(self, number: int) -> None:
        """A channel is closed on both sides: its number may be used again."""
        self._channels.pop(number, None)

    @property
    def link(self) -> Link:
        """The present one, or the last."""
        assert self._link is not None
        return self._link


class Connector(Opening[Connection]):
    """What `connect` returns: await it for a connection, or use it with `async with`."""

    def __init__(self, target: Target, settings: Settings) -> None:
        super().__init__(self._open)
        self._target = target
        self._settings = settings

    async def _open(self) -> Connection:
        connection = Connection(self._target, self._settings)
        await connection.open()
        return connection


def connect(
    url: str | None = None,
    *,
    heartbeat_s: int | None = None,
    timeout_s: float | None = None,
    name: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    reconnect: bool | Reconnect | None = None,
) -> Connector:
    """Connect to a broker: `connection = await connect(url)`, or `async with connect(url) as connection:`.

    The connection survives. When it breaks, it is made again, and with it what was declared, bound and
    consumed through it; publishes that were not confirmed are sent again, and the broker sees to it that
    none is lost or doubled. Calls under way meanwhile wait; only `get(no_ack=True)` and the end of a
    transaction raise ConnectionLost, for nobody can know whether they happened. Messages that had been
    delivered and not settled are delivered again, with `redelivered`; settling the first copy raises
    DeliveryLost.

    Args:
        url: `leveret://user:password@host:port/vhost?option=value`, or `leverets://` for TLS. Several hosts
            stand side by side, `host1:5672,host2:5672`. The options are `heartbeat_s`, `timeout_s`, `name`,
            `reconnect=no` and `ca_file`; arguments go before them. None: what the environment variable
            LEVERET_URL says, or else the user guest on this machine.
        heartbeat_s: how long the broker may be silent before the connection counts as broken; 0: for ever.
            60 when left out.
        timeout_s: for TCP, TLS and login together, at each host. 15 when left out.
        name: what operators see in the broker's logs.
        ssl_context: for `leverets://`, instead of the system's trust settings.
        reconnect: False: the connection ends when it breaks. A `Reconnect` says when to try again.

    Raises ValueError for a URL that makes no sense; when awaited, AuthenticationFailed, NotAllowed (the
    vhost) or ConnectionLost, after one attempt at each host.
    """
    target = parse_url(os.environ.get(URL_VARIABLE, DEFAULT_URL) if url is None else url)
    if reconnect is None:
        reconnect = target.reconnect is not False
    if not isinstance(reconnect, bool | Reconnect):
        kind = type(reconnect).__name__
        raise TypeError(f"reconnect is True, False or a leveret.Reconnect, not {kind}")
    policy = reconnect if isinstance(reconnect, Reconnect) else Reconnect() if reconnect else None
    settings = Settings(
        heartbeat_s=heartbeat(_first(heartbeat_s, target.heartbeat_s, DEFAULT_HEARTBEAT_S)),
        timeout_s=timeout(_first(timeout_s, target.timeout_s, DEFAULT_TIMEOUT_S)),
        name=_first(name, target.name, None),
        ssl_context=ssl_context,
        reconnect=policy,
    )
    return Connector(target, settings)


T = TypeVar("T")


def _first(argument: T | None, option: T | None, default: T) -> T:
    return argument if argument is not None else option if option is not None else default
