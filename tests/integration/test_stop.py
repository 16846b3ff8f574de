"""How the broker leaves its clients when it is told to stop."""

import asyncio
import time
from pathlib import Path

import pika
import pytest
from adapters.aio_pika_client import AioPikaClient
from adapters.face import PERSISTENT, TIMEOUT_S, ClosedByBroker, ConnectionLost
from adapters.pika_asyncio_client import PikaAsyncioClient
from adapters.steps import message_count
from aiormq.exceptions import ChannelInvalidStateError
from daemon import TIMEOUT_FACTOR, Daemon, DaemonFailed
from pika.exceptions import AMQPError

import leveret


def test_a_client_that_does_not_look_does_not_hold_up_the_stop(daemon: Daemon) -> None:
    """Such as the connections in the pool of a web application that publishes now and then."""
    connection = pika.BlockingConnection(pika.URLParameters(daemon.amqp_url))
    assert daemon.terminate(timeout_s=5 * TIMEOUT_FACTOR) == 0
    with pytest.raises(AMQPError, match="shutdown"):
        connection.channel()


async def test_amqp_clients_are_told_why(daemon: Daemon) -> None:
    client = await PikaAsyncioClient.connect(daemon.amqp_url)
    await client.open_channel()

    daemon.signal("SIGTERM")

    closed = await asyncio.wait_for(client.closed(), TIMEOUT_S)
    assert (closed.scope, closed.code) == ("connection", 320)
    assert closed.text == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    assert daemon.wait() == 0


async def test_native_clients_are_told_why(daemon: Daemon) -> None:
    connection = await leveret.connect(daemon.leveret_url, reconnect=False)
    channel = await connection.channel()
    queue = await channel.declare_queue("q")

    daemon.signal("SIGTERM")

    with pytest.raises(leveret.ConnectionLost, match="shutdown"):
        async for _ in queue:
            pass
    assert daemon.wait() == 0


async def test_every_publish_confirmed_until_the_end_is_there_afterwards(daemon: Daemon) -> None:
    """A publisher that does not care about the stop: what was confirmed is on the disk, the rest may be."""
    client = await AioPikaClient.connect(daemon.amqp_url)
    channel = await client.open_channel(confirms=True)
    await channel.declare_queue("load", durable=True)
    confirmed = 0
    under_way = asyncio.Event()

    async def publish() -> None:
        nonlocal confirmed
        while True:
            await channel.publish(b"x" * 1000, routing_key="load", properties=PERSISTENT)
            confirmed += 1
            if confirmed == 500:
                under_way.set()

    publishers = [asyncio.create_task(publish()) for _ in range(20)]
    await under_way.wait()
    daemon.signal("SIGTERM")
    outcomes = await asyncio.gather(*publishers, return_exceptions=True)
    assert daemon.wait() == 0
    closed = ClosedByBroker, ConnectionLost, ChannelInvalidStateError, asyncio.CancelledError
    assert all(isinstance(outcome, closed) for outcome in outcomes), outcomes

    daemon.start()
    again = await AioPikaClient.connect(daemon.amqp_url)
    there = await message_count(await again.open_channel(), "load")
    await again.close()
    assert confirmed <= there <= confirmed + len(publishers)


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Something holds up the clean stop: here a disk whose syncs take three seconds."""
    with Daemon(tmp_path / "data", "--sync-delay-ms", "3000") as daemon:
        client = await PikaAsyncioClient.connect(daemon.amqp_url)
        channel = await client.open_channel()
        declared = asyncio.create_task(channel.declare_queue("slow", durable=True))
        await (await PikaAsyncioClient.connect(daemon.amqp_url)).close()  # by then the broker has it

        daemon.signal("SIGTERM")
        started_s = time.monotonic()
        with pytest.raises(DaemonFailed):
            daemon.wait(timeout_s=0.5)
        daemon.signal("SIGTERM")

        assert daemon.wait() != 0
        assert time.monotonic() - started_s < 2 * TIMEOUT_FACTOR
        with pytest.raises((ClosedByBroker, ConnectionLost)):
            await declared
