"""`Connection` for synchronous code.

Written by generate.py from leveret.client.connection: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from leveret.client import connection as aio
from leveret.client.address import Address
from leveret.client.errors import LeveretError
from leveret.client.reconnect import Reconnect

from . import callbacks
from . import channel as _channel
from .face import Face
from .portal import open_connection


class Connection(Face[aio.Connection]):
    """Made by `connect`. Close it with `close`, or use it as a context manager."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.close(lambda: self._async.__aexit__(kind, error, traceback))

    @property
    def address(self) -> Address:
        """The broker that it is connected to, or was last."""
        return self._async.address

    @property
    def is_connected(self) -> bool:
        """There is a link and everything is restored. False also while reconnecting."""
        return self._async.is_connected

    @property
    def is_closed(self) -> bool:
        """Closed or given up: nothing can be done with it any more."""
        return self._async.is_closed

    @property
    def is_blocked(self) -> bool:
        """The broker is short of memory or disk and reads nothing from here: the connection has published."""
        return self._async.is_blocked

    @property
    def blocked_reason(self) -> str | None:
        """Such as "low on disk"; None while the connection is not blocked."""
        return self._async.blocked_reason

    @property
    def server_properties(self) -> dict[str, Any]:
        """What the broker says of itself."""
        return self._async.server_properties

    def on_lost(self, callback: Callable[[LeveretError], object]) -> None:
        """Call back each time the link breaks, with the reason; also when that is the end."""
        self._portal.call(lambda: self._async.on_lost(callbacks.told(callback)))

    def on_restored(self, callback: Callable[[], object]) -> None:
        """Call back each time that everything is as it was before."""
        self._portal.call(lambda: self._async.on_restored(callbacks.told(callback)))

    def wait_connected(self) -> None:
        """Wait until `is_connected`. Raises ConnectionLost when the connection is closed or given up."""
        self._portal.run(self._async.wait_connected)

    def close(self) -> None:
        """Close all channels and say goodbye; publishes that are not confirmed yet raise. Idempotent, and at
        once while reconnecting.
        """
        self._portal.close(self._async.close)

    def channel(self, *, publisher_confirms: bool = True) -> _channel.Channel:
        """Open a channel: it, or `with connection.channel() as channel:`.

        Without `publisher_confirms`, `publish` does not wait and messages may be lost.
        """
        return _channel.Channel(
            self._portal, self._portal.run(lambda: self._async.channel(publisher_confirms=publisher_confirms))
        )


def connect(
    url: str | None = None,
    *,
    heartbeat_s: int | None = None,
    timeout_s: float | None = None,
    name: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    reconnect: bool | Reconnect | None = None,
) -> Connection:
    """Connect to a broker: `connection = connect(url)`, or `with connect(url) as connection:`.

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

    Raises ValueError for a URL that makes no sense; AuthenticationFailed, NotAllowed (the
    vhost) or ConnectionLost, after one attempt at each host.
    """
    return open_connection(
        lambda: aio.connect(
            url,
            heartbeat_s=heartbeat_s,
            timeout_s=timeout_s,
            name=name,
            ssl_context=ssl_context,
            reconnect=reconnect,
        ),
        Connection,
    )
