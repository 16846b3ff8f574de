"""The one face that every client library shows to the interop scenarios.

A scenario is written against `Client` and `ClientChannel` and run with each library. Adapters translate and
add nothing: what the broker said reaches the scenario as it came. Tests create clients through the fixtures
of tests/interop/conftest.py, which also close them.
"""

import asyncio
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from daemon import TIMEOUT_FACTOR

TIMEOUT_S = 10 * TIMEOUT_FACTOR

Scalar = bool | int | float | str | bytes | Decimal | datetime | None
HeaderValue = Scalar | list["HeaderValue"] | dict[str, "HeaderValue"]
Headers = dict[str, HeaderValue]
Arguments = Headers | None


@dataclass(frozen=True)
class Properties:
    """The 14 properties of the basic class; None is "not sent"."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Headers | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None  # milliseconds
    message_id: str | None = None
    timestamp: int | None = None  # seconds
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


NO_PROPERTIES = Properties()
PERSISTENT = Properties(delivery_mode=2)


@dataclass(frozen=True)
class Delivery:
    """A message as basic.deliver or basic.get-ok brought it."""

    body: bytes
    exchange: str
    routing_key: str
    delivery_tag: int
    redelivered: bool
    properties: Properties
    message_count: int | None = None  # of basic.get-ok: ready messages left behind this one

    @property
    def headers(self) -> Headers:
        return self.properties.headers or {}


@dataclass(frozen=True)
class Returned:
    """A mandatory message that came back with basic.return."""

    code: int
    text: str
    exchange: str
    routing_key: str
    body: bytes


@dataclass(frozen=True)
class QueueState:
    """What queue.declare-ok says."""

    name: str
    message_count: int
    consumer_count: int


class ClosedByBroker(Exception):
    """The broker closed the channel or the connection, with this code and text."""

    def __init__(self, scope: str, code: int, text: str) -> None:
        super().__init__(f"{scope} closed: {code} {text}")
        self.scope, self.code, self.text = scope, code, text


class ConnectionLost(Exception):
    """The TCP connection is gone and nobody said why."""


class PublishRefused(Exception):
    """The broker answered a publish with basic.nack."""


@dataclass
class Consumer:
    """A running consumer: its deliveries in arrival order, and whether the broker cancelled it."""

    tag: str
    deliveries: asyncio.Queue[Delivery] = field(default_factory=asyncio.Queue)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> Delivery:
        return await asyncio.wait_for(self.deliveries.get(), TIMEOUT_S)

    async def take(self, count: int) -> list[Delivery]:
        return [await self.next() for _ in range(count)]

    async def stays_quiet(self, for_s: float = 0.3) -> bool:
        """True if nothing (more) arrives. The wait is the proof."""
        await asyncio.sleep(for_s)
        return self.deliveries.empty()


class ClientChannel(ABC):
    """One channel. Every method returns after the broker's answer, or raises what the broker answered."""

    def __init__(self) -> None:
        self.returns: asyncio.Queue[Returned] = asyncio.Queue()

    @abstractmethod
    async def declare_exchange(
        self,
        name: str,
        type_: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments = None,
    ) -> None: ...

    @abstractmethod
    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None: ...

    @abstractmethod
    async def bind_exchange(self, destination: str, source: str, binding_key: str = "") -> None: ...

    @abstractmethod
    async def declare_queue(
        self,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
    ) -> QueueState: ...

    @abstractmethod
    async def bind_queue(
        self,
        queue: str,
        exchange: str,
        binding_key: str = "",
        arguments: Arguments = None,
    ) -> None: ...

    @abstractmethod
    async def unbind_queue(self, queue: str, exchange: str, binding_key: str = "") -> None: ...

    @abstractmethod
    async def purge_queue(self, name: str) -> int: ...

    @abstractmethod
    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int: ...

    @abstractmethod
    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        """Publish; on a channel opened with confirms, wait for the broker's basic.ack.

        What comes back as unroutable is put into `returns`, before this call ends on a channel with confirms.
        """

    @abstractmethod
    async def qos(self, prefetch_count: int, *, global_: bool = False) -> None: ...

    @abstractmethod
    async def consume(
        self,
        queue: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments = None,
    ) -> Consumer: ...

    @abstractmethod
    async def cancel(self, consumer: Consumer) -> None: ...

    @abstractmethod
    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None: ...

    @abstractmethod
    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None: ...

    @abstractmethod
    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None: ...

    @abstractmethod
    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None: ...

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[object]:
        """A block that is committed at its end, or rolled back when it raises."""

    @abstractmethod
    async def closed(self) -> ClosedByBroker:
        """Wait until the broker closes this channel (errors of publish and ack come asynchronously)."""

    @abstractmethod
    async def close(self) -> None: ...


class Client(ABC):
    """One connection of one library."""

    name: ClassVar[str]

    # What a library cannot do or say; scenarios about just that are skipped.
    unspeakable: ClassVar[frozenset[str]] = frozenset()  # properties its own message type lacks
    unspeakable_headers: ClassVar[frozenset[type]] = frozenset()  # types of header values
    tells_absent_from_empty: ClassVar[bool] = True  # it does not fill in properties that were not given
    allows_any_name: ClassVar[bool] = True  # that brokers allow
    declares_internal: ClassVar[bool] = True  # exchanges
    returns_without_confirms: ClassVar[bool] = True
    counts_on_get: ClassVar[bool] = True  # passes on the message count of basic.get-ok
    acks_multiple: ClassVar[bool] = True
    nacks_multiple: ClassVar[bool] = True
    settles_by_tag: ClassVar[bool] = True  # also a tag that it never saw
    tells_why_open_failed: ClassVar[bool] = True

    # An error of AMQP closes its channel; the SDK's is the answer to one operation.
    errors_close: ClassVar[bool] = True

    @classmethod
    def url(cls, amqp_url: str) -> str:
        """The broker's URL as this library wants it."""
        return amqp_url

    @classmethod
    @abstractmethod
    async def connect(cls, url: str) -> "Client":
        """Connect, or raise ClosedByBroker when the broker refuses."""

    @abstractmethod
    async def open_channel(self, *, confirms: bool = False) -> ClientChannel: ...

    @abstractmethod
    async def closed(self) -> ClosedByBroker:
        """Wait until the broker closes this connection."""

    @abstractmethod
    async def close(self) -> None:
        """Close if still open. Never raises: the connection may have been closed or cut before."""
