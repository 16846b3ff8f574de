"""A raw connection with one open channel: what both wires have in common, and what each must know to do."""

import re
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from .body import MARK

SILENCE_MAX_S = 60
RECEIVE_BYTES = 1 << 18


class LoadFailed(Exception):
    """The load did not go through: the broker refused something, fell silent, or lost or doubled messages."""


@dataclass(frozen=True)
class Address:
    """Where a broker listens, and as whom to log in."""

    port: int
    host: str = "127.0.0.1"
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"

    @classmethod
    def of(cls, url: str) -> Self:
        """Of `amqp://user:password@host:port/vhost`; everything but the host may be missing."""
        parts = urlsplit(url if "://" in url else f"amqp://{url}")
        return cls(
            parts.port or 5672,
            parts.hostname or "127.0.0.1",
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
            unquote(parts.path[1:]) or "/",
        )


@dataclass(frozen=True)
class Route:
    """Where the messages of a lane are published to."""

    lane: int
    exchange: str
    key: str


class Inbox:
    """Received bytes: filled at the end, consumed at the start, moved only when room is short."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.data = bytearray(RECEIVE_BYTES)
        self.start = 0
        self.end = 0

    def fill(self) -> None:
        """Wait for bytes."""
        if self.start == self.end:
            self.start = self.end = 0
        elif len(self.data) - self.end < RECEIVE_BYTES // 2:
            self._make_room()
        with memoryview(self.data) as view, view[self.end :] as free:
            try:
                received = self._socket.recv_into(free)
            except BlockingIOError:
                raise LoadFailed(f"the broker was silent for {SILENCE_MAX_S} s") from None
        if not received:
            raise ConnectionError("the broker closed the connection")
        self.end += received

    def _make_room(self) -> None:
        rest = self.data[self.start : self.end]
        self.data[: len(rest)] = rest
        self.start, self.end = 0, len(rest)
        if len(self.data) - self.end < RECEIVE_BYTES // 2:
            self.data.extend(bytes(len(self.data)))


class Link(ABC):
    """Subclasses are the wires. Every method waits for the broker's answer unless it says otherwise."""

    trouble: re.Pattern[bytes]
    """Finds frames that end the connection or the channel, wherever they begin."""

    goodbye: bytes
    goodbye_answer: bytes
    """The frames that end a connection in order."""

    has_batches = False
    """A frame may carry many publishes."""

    tag_offset: int | None = None
    """Where the publish tag (u64) stands in the bytes of `publishes`; None if the wire has none."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.inbox = Inbox(connected)

    @classmethod
    def open(cls, address: Address, *, confirming: bool = False) -> Self:
        """Connect, log in, open a channel, with publisher confirms or without."""
        connected = socket.create_connection((address.host, address.port), SILENCE_MAX_S)
        connected.settimeout(None)  # else Python would poll before each call; the kernel keeps the time
        for timeout in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connected.setsockopt(socket.SOL_SOCKET, timeout, struct.pack("ll", SILENCE_MAX_S, 0))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = cls(connected)
        link.log_in(address, confirming)
        return link

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, data: bytes | memoryview) -> None:
        try:
            self.socket.sendall(data)
        except BlockingIOError:
            raise LoadFailed(f"the broker has read nothing for {SILENCE_MAX_S} s") from None

    # Set-up. What comes in numbers is answered once, at the end.

    @abstractmethod
    def declare_queues(self, queues: Sequence[str], *, durable: bool) -> None: ...

    @abstractmethod
    def delete_queues(self, queues: Sequence[str]) -> None:
        """Those that exist."""

    @abstractmethod
    def message_count(self, queue: str) -> int:
        """How many messages are ready in it."""

    @abstractmethod
    def declare_exchange(self, exchange: str, type_: str, *, durable: bool) -> None: ...

    @abstractmethod
    def delete_exchange(self, exchange: str) -> None:
        """If it exists."""

    @abstractmethod
    def bind(self, exchange: str, bindings: Sequence[tuple[str, str]]) -> None:
        """(queue, binding key) each."""

    # Publishing

    @abstractmethod
    def publishes(self, routes: Sequence[Route], body: bytes, *, persistent: bool) -> bytes:
        """The bytes that publish a blank body to each of these routes at once."""

    @abstractmethod
    def confirms(self) -> Iterator[tuple[int, int, bool]]:
        """Wait for bytes; (first tag, last tag, confirmed or refused). A first of 0: all up to the last."""

    # Consuming

    @abstractmethod
    def set_prefetch(self, count: int) -> None: ...

    @abstractmethod
    def consume(self, queue: str, number: int, *, no_ack: bool) -> None:
        """Does not wait: deliveries could come before the answer."""

    @abstractmethod
    def body_span(self, size: int) -> int:
        """How many bytes from the first of a body to what follows its frames."""

    @abstractmethod
    def acks(self, first: int, last: int, every: int) -> bytes:
        """What settles the deliveries from first to last; every: how many an ack stands for.

        Empty when no ack is due yet.
        """

    @abstractmethod
    def ack_all(self, last: int) -> bytes:
        """What settles all deliveries up to the last. At least one must not be settled yet."""

    def look_for_trouble(self, start: int, end: int) -> None:
        """Call with what is no message: did the broker end the channel or the connection?"""
        if found := self.trouble.search(self.inbox.data, start, end):
            raise LoadFailed(f"the broker said {bytes(self.inbox.data[found.start() : end])!r}")

    def close(self) -> int:
        """In order: what was sent before has been executed. Returns how many messages came meanwhile."""
        self.send(self.goodbye)
        rest = bytearray(self.inbox.data[self.inbox.start : self.inbox.end])
        while not rest.endswith(self.goodbye_answer) and (received := self.socket.recv(RECEIVE_BYTES)):
            rest += received
        self.socket.close()
        return rest.count(MARK)

    # What the wires are made of

    @abstractmethod
    def log_in(self, address: Address, confirming: bool) -> None:
        """Until a channel is open, with publisher confirms or without."""

    @abstractmethod
    def frames(self) -> Iterator[tuple[int, int]]:
        """Take complete frames from the inbox; (start, end) of their payload. Does not wait."""
