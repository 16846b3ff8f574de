"""A disk that fills up: publishers are blocked before it is full, everybody else goes on, nothing is lost.

The disk is a real one of 256 MiB, which is more than the messages published to it: room must come back.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from adapters.face import Client, ClientChannel
from adapters.leveret_client import LeveretClient
from adapters.pika_asyncio_client import PikaAsyncioClient
from adapters.steps import message_count
from daemon import TIMEOUT_FACTOR, Daemon
from flow import Consumer, FlowClient, Publisher, flowing, metrics, name_of, until
from loop_disk import fill, free_bytes, loop_disk

from leveret.storage.check import check_directory

MIB = 1024 * 1024
DISK_BYTES = 256 * MIB
BODY_BYTES = 8 * 1024
QUEUES = ("a", "b")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 * TIMEOUT_FACTOR)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with loop_disk(tmp_path, DISK_BYTES) as mount:
        yield mount


@pytest.fixture
def daemon(disk: Path) -> Iterator[Daemon]:
    with Daemon(disk) as daemon:
        yield daemon


@asynccontextmanager
async def a_channel(daemon: Daemon) -> AsyncIterator[ClientChannel]:
    client: Client = await PikaAsyncioClient.connect(daemon.amqp_url)
    yield await client.open_channel(confirms=True)
    await client.close()


async def declare(daemon: Daemon) -> None:
    async with a_channel(daemon) as channel:
        for queue in QUEUES:
            await channel.declare_queue(queue, durable=True)


def alarm(daemon: Daemon) -> bool:
    return metrics(daemon)["leveret_alarm_active", (("resource", "disk"),)] == 1


def confirmed(*publishers: Publisher) -> list[bytes]:
    return sorted(name for publisher in publishers for name in publisher.confirmed)


def received(*consumers: Consumer) -> list[bytes]:
    return sorted(name for consumer in consumers for name in consumer.received)


PLACES: list[tuple[FlowClient, str]] = [
    (library, queue) for library in (PikaAsyncioClient, LeveretClient) for queue in QUEUES
]
"""Both wires on both queues: one publisher and one consumer each."""


@pytest.mark.parametrize("keep_every", [0, 20])
async def test_publishers_wait_until_consumers_have_made_room(
    daemon: Daemon, disk: Path, keep_every: int
) -> None:
    """`keep_every`: some of each part of the log stays; with so little in each, that must not pin it."""
    await declare(daemon)
    publishers = [Publisher(f"p{n}", BODY_BYTES) for n in range(len(PLACES))]
    consumers = [Consumer(keep_every=keep_every) for _ in PLACES]
    publishing = [
        p.run(library, daemon, queue) for p, (library, queue) in zip(publishers, PLACES, strict=True)
    ]
    consuming = [c.run(library, daemon, queue) for c, (library, queue) in zip(consumers, PLACES, strict=True)]
    async with flowing(daemon, *publishing):
        await until(lambda: all(one.is_blocked for one in publishers), "all publishers blocked", daemon)
        found = metrics(daemon)
        assert found["leveret_alarm_active", (("resource", "disk"),)] == 1
        assert found["leveret_disk_free_bytes", ()] > 0
        assert found["leveret_connections_blocked", ()] == len(publishers)
        full = len(confirmed(*publishers))
        assert full * BODY_BYTES > DISK_BYTES // 4, "blocked far too early"
        async with flowing(daemon, *consuming):
            more = DISK_BYTES // BODY_BYTES
            await until(lambda: len(confirmed(*publishers)) > full + more, "room for as much again", daemon)
            for publisher in publishers:
                await publisher.stop()
            everything = confirmed(*publishers)
            await until(lambda: len(received(*consumers)) >= len(everything), "everything received", daemon)
    assert received(*consumers) == everything
    assert sum(consumer.redelivered for consumer in consumers) == 0

    daemon.restart()
    rest = Consumer()
    async with a_channel(daemon) as channel:
        for queue in QUEUES:
            while (delivery := await channel.get(queue, no_ack=True)) is not None:
                rest.received.append(name_of(delivery.body))
    assert received(rest) == sorted(name for consumer in consumers for name in consumer.kept)


@pytest.mark.parametrize("kill", [False, True])
async def test_acks_and_restarts_need_no_room(daemon: Daemon, disk: Path, kill: bool) -> None:
    """Somebody else fills the disk to the last byte."""
    await declare(daemon)
    early, late, consumer = Publisher("early", BODY_BYTES), Publisher("late", BODY_BYTES), Consumer()
    async with flowing(daemon, early.run(PikaAsyncioClient, daemon, "a")):
        await until(lambda: len(early.confirmed) * BODY_BYTES > 32 * MIB, "a backlog", daemon)
        await early.stop()
    ballast = fill(disk)
    assert free_bytes(disk) == 0
    await until(lambda: alarm(daemon), "the alarm", daemon)

    daemon.restart(kill=kill)

    async with flowing(daemon, late.run(LeveretClient, daemon, "b")):
        await until(lambda: late.is_blocked, "blocked from the first publish on", daemon)
        async with flowing(daemon, consumer.run(PikaAsyncioClient, daemon, "a")):
            await until(lambda: len(consumer.received) >= len(early.confirmed), "everything received", daemon)
        assert received(consumer) == confirmed(early)
        ballast.unlink()
        await until(lambda: len(late.confirmed) > 100, "unblocked", daemon)
        await late.stop()

    daemon.restart(kill=kill)
    async with a_channel(daemon) as channel:
        assert await message_count(channel, "a") == 0
        assert await message_count(channel, "b") == len(late.confirmed)
    assert daemon.terminate() == 0
    assert check_directory(disk).findings == []
