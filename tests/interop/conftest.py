"""Fixtures of the interop suite: every scenario runs once with each client library.

By default against a daemon of this session. Against another broker, to prove the scenarios themselves:

    LEVERET_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2F pytest tests/interop
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pika
import pytest
from adapters.clients import CLIENTS, FOREIGN_BROKER
from adapters.face import Client, ClientChannel
from adapters.relay import Relay

Connect = Callable[[], Awaitable[Client]]


@pytest.fixture(params=CLIENTS, ids=[client.name for client in CLIENTS])
def client_class(request: pytest.FixtureRequest) -> type[Client]:
    chosen: type[Client] = request.param
    return chosen


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    return FOREIGN_BROKER or str(request.getfixturevalue("shared_daemon").amqp_url)


@pytest.fixture
def url(amqp_url: str, client_class: type[Client]) -> str:
    """The broker's URL as this client wants it."""
    return client_class.url(amqp_url)


@pytest.fixture
def name(amqp_url: str) -> Iterator[Callable[[str], str]]:
    """Make unique names for queues and exchanges; what has such a name is deleted after the test."""
    names: list[str] = []

    def make(kind: str) -> str:
        names.append(f"{kind}-{uuid.uuid4().hex[:8]}")
        return names[-1]

    yield make
    if not names:
        return
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        for each in names:
            channel.queue_delete(each)
            channel.exchange_delete(each)


@pytest.fixture
async def connect(client_class: type[Client], url: str, name: Callable[[str], str]) -> AsyncIterator[Connect]:
    """Open a further connection."""
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(await client_class.connect(url))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect()


@pytest.fixture
async def channel(client: Client) -> ClientChannel:
    """A channel with confirms: when publish returns, the broker has routed the message."""
    return await client.open_channel(confirms=True)


@pytest.fixture
async def relay(url: str) -> AsyncIterator[Relay]:
    async with Relay(url) as relay:
        yield relay


@pytest.fixture
async def cut_client(client_class: type[Client], relay: Relay, name: object) -> AsyncIterator[Client]:
    """A connection that `relay.cut()` tears."""
    client = await client_class.connect(relay.url)
    yield client
    await client.close()
