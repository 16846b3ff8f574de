"""The seam between sockets and wires: what a transport asks of a session, and a session of its transport.

A session is one connection on one wire: it turns bytes into calls on the domain and answers into bytes. It
does no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from leveret.protocol.errors import AmqpError

from ..auth import Authenticator
from ..broker import Broker

NAME_SHOWN_MAX = 64  # characters of a connection's name in the log: it is the peer's text


def name_given(client_properties: Mapping[str, object]) -> str:
    """The end of a log line that says which name a client gave its connection, if it did."""
    name = client_properties.get("connection_name")
    return f" as {name[:NAME_SHOWN_MAX]!r}" if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What all sessions share; made once by the server."""

    broker: Broker
    authenticator: Authenticator
    frame_max_bytes: int
    channel_max: int
    heartbeat_s: int
    message_size_max_bytes: int
    product: str
    """What server-properties claim to be: clients branch on it."""
    version: str


class SessionHost(Protocol):
    """The transport, as its session sees it."""

    @property
    def name(self) -> str:
        """`127.0.0.1:50000 -> 127.0.0.1:5672`"""

    @property
    def peer_is_loopback(self) -> bool: ...

    @property
    def is_reading(self) -> bool:
        """False while input is paused, for whatever reason: the peer cannot be blamed for its silence."""

    @property
    def was_cut(self) -> bool:
        """Our side ended the socket: the peer cannot be blamed for its going."""

    def request_flush(self) -> None:
        """There is output: collect it with `take_output` at the end of the turn."""

    def pause_input(self) -> None:
        """Read nothing more from the peer (the session waits for a commit). `receive_data` is not called
        meanwhile.
        """

    def resume_input(self) -> None: ...

    def close_after(self, delay_s: float) -> None:
        """Close the socket later (a refused login is made to wait)."""


class Session(Protocol):
    """Made by the transport with (settings, host) once the first bytes have shown which wire it is."""

    def receive_data(self, data: bytes) -> None:
        """Bytes from the peer, the 8 bytes that chose the wire included."""

    def connection_lost(self) -> None:
        """The socket is gone: requeue, free exclusive queues. Idempotent."""

    def set_writable(self, writable: bool) -> None:
        """The socket's buffer is full, or has drained again."""

    def tick(self, now_s: float) -> None:
        """About once a second: heartbeats and time-outs by the broker's monotonic clock."""

    def take_output(self) -> list[bytes]:
        """What was buffered since the last call, in order."""

    @property
    def is_established(self) -> bool:
        """Login and vhost are settled: the handshake timeout no longer applies."""

    @property
    def is_closed(self) -> bool:
        """All is said: the transport closes the socket once the output is written."""

    def close(self, error: AmqpError) -> None:
        """The broker ends the connection, politely: connection.close, and `is_closed` once it is answered."""
