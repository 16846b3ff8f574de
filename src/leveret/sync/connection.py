"""`Connection` for synchronous code.

Written by generate.py from leveret.client.connection: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

import ssl
from types import TracebackType
from typing import Any, Self

from leveret.client import connection as aio
from leveret.client.address import Address
from leveret.client.connection import DEFAULT_HEARTBEAT_S, DEFAULT_TIMEOUT_S

from . import channel as _channel
from .face import Face
from .portal import open_connection


class Connection(Face[aio.Connection]):
    """Made by `connect`. Close it with `close`, or use it as a context manager."""

    __slots__ = ()

    @property
    def address(self) -> Address:
        return self._async.address

    @property
    def server_properties(self) -> dict[str, Any]:
        return self._async.server_properties

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.close(lambda: self._async.__aexit__(kind, error, traceback))

    @property
    def is_closed(self) -> bool:
        """Closed or broken: nothing can be done with it any more."""
        return self._async.is_closed

    @property
    def is_blocked(self) -> bool:
        """The broker is short of memory or disk and reads nothing from here: the connection has published."""
        return self._async.is_blocked

    @property
    def blocked_reason(self) -> str | None:
        """Such as "low on disk"; None while the connection is not blocked."""
        return self._async.blocked_reason

    def close(self) -> None:
        """Close all channels and say goodbye; publishes that are not confirmed yet raise. Idempotent."""
        self._portal.close(self._async.close)

    def channel(self, *, publisher_confirms: bool = True) -> _channel.Channel:
        """Open a channel: it, or `with connection.channel() as channel:`.

        Without `publisher_confirms`, `publish` does not wait and messages may be lost.
        """
        return _channel.Channel(
            self._portal, self._portal.run(lambda: self._async.channel(publisher_confirms=publisher_confirms))
        )

    @property
    def message_max_bytes(self) -> int:
        """The longest body that the broker takes."""
        return self._async.message_max_bytes


def connect(
    url: str | None = None,
    *,
    heartbeat_s: int = DEFAULT_HEARTBEAT_S,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    name: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Connection:
    """Connect to a broker: `connection = connect(url)`, or `with connect(url) as connection:`.

    Args:
        url: `leveret://user:password@host:port/vhost`, or `leverets://` for TLS. None: what the
        environment
            variable LEVERET_URL says, or else the user guest on this machine.
        heartbeat_s: how long the broker may be silent before the connection counts as broken; 0: for
        ever.
        timeout_s: for TCP, TLS and login together.
        name: what operators see in the broker's logs.
        ssl_context: for `leverets://`, instead of the system's trust settings.

    Raises ValueError for a URL that makes no sense; AuthenticationFailed, NotAllowed (the
    vhost) or ConnectionLost.
    """
    return open_connection(
        lambda: aio.connect(
            url, heartbeat_s=heartbeat_s, timeout_s=timeout_s, name=name, ssl_context=ssl_context
        ),
        Connection,
    )
