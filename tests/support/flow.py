"""Messages in flow: publishers that go on until they are told to stop, consumers that take all they get.

Every message has a name, and every publish waits for its confirm; what was confirmed and what was received
can so be compared. It works with each client that can tell when the broker blocks it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.request import urlopen

from adapters.face import NO_PROPERTIES, PERSISTENT, ClientChannel
from adapters.leveret_client import LeveretClient
from adapters.pika_asyncio_client import PikaAsyncioClient
from daemon import TIMEOUT_FACTOR, Daemon
from samples import Samples, samples

FlowClient = type[PikaAsyncioClient] | type[LeveretClient]
UNDER_WAY = 20  # publishes of one publisher
PREFETCH, PREFETCH_MAX = 100, 65535
PATIENCE_S = 60 * TIMEOUT_FACTOR


class Publisher:
    """One connection with some publishes under way."""

    def __init__(self, name: str, body_bytes: int, *, persistent: bool = True) -> None:
        self.name = name
        self.confirmed: list[bytes] = []
        self._properties = PERSISTENT if persistent else NO_PROPERTIES
        self._filler = bytes(body_bytes)
        self._count = 0
        self._is_stopping = False
        self._is_done = asyncio.Event()
        self._client: PikaAsyncioClient | LeveretClient | None = None

    @property
    def is_blocked(self) -> bool:
        """The broker has said so."""
        return self._client is not None and self._client.is_blocked

    async def run(self, library: FlowClient, daemon: Daemon, queue: str) -> None:
        """Publish until stopped."""
        self._client = await library.connect(library.url(daemon.amqp_url))
        try:
            channel = await self._client.open_channel(confirms=True)
            await asyncio.gather(*(self._publish(channel, queue) for _ in range(UNDER_WAY)))
            self._is_done.set()
        finally:
            await self._client.close()

    async def stop(self) -> None:
        """Wait for the confirms of what is under way."""
        self._is_stopping = True
        await asyncio.wait_for(self._is_done.wait(), PATIENCE_S)

    async def _publish(self, channel: ClientChannel, queue: str) -> None:
        while not self._is_stopping:
            self._count += 1
            name = f"{self.name}/{self._count}".encode()
            body = name + b" " + self._filler
            await channel.publish(body, routing_key=queue, properties=self._properties)
            self.confirmed.append(name)


class Consumer:
    """One connection that takes and acks what is in a queue."""

    def __init__(self, *, keep_every: int = 0) -> None:
        """Every so many messages it keeps one, unacked."""
        self.received: list[bytes] = []
        self.kept: list[bytes] = []
        self.redelivered = 0
        self._keep_every = keep_every

    async def run(self, library: FlowClient, daemon: Daemon, queue: str) -> None:
        """Consume until cancelled."""
        client = await library.connect(library.url(daemon.amqp_url))
        try:
            channel = await client.open_channel()
            await channel.qos(PREFETCH_MAX if self._keep_every else PREFETCH)
            consumer = await channel.consume(queue)
            while True:
                delivery = await consumer.deliveries.get()
                self.received.append(name_of(delivery.body))
                self.redelivered += delivery.redelivered
                if self._keep_every and len(self.received) % self._keep_every == 0:
                    self.kept.append(self.received[-1])
                else:
                    await channel.ack(delivery.delivery_tag)
        finally:
            await client.close()


def name_of(body: bytes) -> bytes:
    """The name of the message that has this body."""
    return body.partition(b" ")[0]


@asynccontextmanager
async def flowing(daemon: Daemon, *runs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Publishers and consumers at work; what still runs at the end is cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run) for run in runs]
        try:
            yield
        except BaseException:
            daemon.kill()  # who is blocked cannot even say goodbye
            raise
        finally:
            for task in tasks:
                task.cancel()


async def until(condition: Callable[[], bool], what: str, daemon: Daemon) -> None:
    """Wait for something that the broker, still running, is to bring about."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert daemon.process is not None
        assert daemon.process.poll() is None, f"the broker ended before {what}:\n{daemon.stderr}"
        assert time.monotonic() < deadline_s, f"not {what} within {PATIENCE_S:g} s:\n{daemon.stderr}"
        await asyncio.sleep(0.02)


def metrics(daemon: Daemon) -> Samples:
    """What the broker says of itself now."""
    with urlopen(f"{daemon.http_url}/metrics", timeout=PATIENCE_S) as answer:
        return samples(answer.read())
