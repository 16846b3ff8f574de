"""Connections that break between the SDK and the real broker, and come back.

The broker that is killed 50 times is in test_reconnect_storm.py.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from certificates import make_certificate
from daemon import TIMEOUT_FACTOR, Daemon
from proxy import Proxy

import leveret
from leveret import (
    AuthenticationFailed,
    Connection,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryLost,
    IncomingMessage,
    Message,
    Queue,
    Reconnect,
)

PATIENCE_S = 20 * TIMEOUT_FACTOR
QUICK = Reconnect(first_delay_s=0.02, max_delay_s=0.1)
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"reconnect-{next(_numbers)}"


@pytest.fixture
async def proxy(shared_daemon: Daemon) -> AsyncIterator[Proxy]:
    async with Proxy(shared_daemon.port) as proxy:
        yield proxy


@pytest.fixture
async def connection(proxy: Proxy) -> AsyncIterator[Connection]:
    async with leveret.connect(proxy.url, reconnect=QUICK) as connection:
        yield connection


class Lives:
    """Counts the breaks of a connection, and waits for them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lost = asyncio.Event()
        connection.on_lost(lambda _error: self.lost.set())

    async def next(self) -> None:
        """Wait until it has broken and is back."""
        async with asyncio.timeout(PATIENCE_S):
            await self.lost.wait()
            await self.connection.wait_connected()
        self.lost.clear()


async def all_bodies(queue: Queue) -> list[bytes]:
    """What is in the queue, taken from there."""
    bodies = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        bodies.append(message.body)
    return bodies


async def test_20_cuts_under_publishers_lose_nothing_and_double_nothing(
    proxy: Proxy, connection: Connection, name: str
) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue(name, durable=True)
    numbers = count()
    cuts = 0

    async def publish() -> None:
        while cuts < 20:
            await channel.publish(Message(b"%d" % next(numbers)), name)

    publishers = [asyncio.create_task(publish()) for _ in range(50)]
    lives = Lives(connection)
    while cuts < 20:
        await channel.publish(Message(b"%d" % next(numbers)), name)
        proxy.cut()
        await lives.next()
        cuts += 1
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*publishers)
    assert [int(body) for body in await all_bodies(queue)] == list(range(next(numbers)))
    await queue.delete()


async def test_a_connection_that_goes_silent_is_noticed_and_left(proxy: Proxy, name: str) -> None:
    async with leveret.connect(proxy.url, heartbeat_s=1, timeout_s=1, reconnect=QUICK) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True)
        mine = await channel.declare_queue(f"{name}-mine", exclusive=True)  # locked by the dead connection
        lives = Lives(connection)
        proxy.go_silent()
        publishes = [asyncio.create_task(channel.publish(Message(b"%d" % n), name)) for n in range(100)]
        request = asyncio.create_task(mine.purge())
        async with asyncio.timeout(PATIENCE_S):
            await lives.lost.wait()
        assert not connection.is_connected
        proxy.pass_again()
        await lives.next()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(request, *publishes)
        assert [int(body) for body in await all_bodies(queue)] == list(range(100))
        await queue.delete()


async def test_a_queue_named_by_the_broker_is_made_anew_with_all_that_refers_to_it(
    proxy: Proxy, connection: Connection, name: str
) -> None:
    channel = await connection.channel()
    exchange = await channel.declare_exchange(name, "topic", auto_delete=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, "a.*")
    await queue.bind(exchange)
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(message: IncomingMessage) -> None:
        await seen.put(message.body)

    await queue.consume(take)
    lives = Lives(connection)
    names = {queue.name}
    for number in range(3):
        proxy.cut()
        await lives.next()
        names.add(queue.name)
        for key in ("a.b", queue.name):
            await exchange.publish(Message(b"%d %s" % (number, key.encode())), key)
            async with asyncio.timeout(PATIENCE_S):
                assert await seen.get() == b"%d %s" % (number, key.encode())
    assert len(names) == 4


async def test_what_was_being_handled_comes_again(proxy: Proxy, connection: Connection, name: str) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue(name, durable=True)
    await channel.publish(Message(b"job"), name)
    lives = Lives(connection)
    handled: list[bool] = []
    done = asyncio.Event()

    async def handle(message: IncomingMessage) -> None:
        handled.append(message.redelivered)
        if len(handled) == 1:
            proxy.cut()
            await lives.next()
            with pytest.raises(DeliveryLost, match="the broker delivers it again"):
                await message.ack()
        else:
            await message.ack()
            done.set()

    consumer = await queue.consume(handle, concurrency=2)
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    await consumer.stop()
    assert handled == [False, True]
    assert await queue.delete() == 0


async def test_the_next_host_takes_over(shared_daemon: Daemon, name: str) -> None:
    async with Proxy(shared_daemon.port) as first, Proxy(shared_daemon.port) as second:
        url = f"leveret://guest:guest@127.0.0.1:1,127.0.0.1:{first.port},127.0.0.1:{second.port}/"
        async with leveret.connect(url, reconnect=QUICK) as connection:
            assert connection.address.port == first.port
            channel = await connection.channel()
            queue = await channel.declare_queue(name)
            lives = Lives(connection)
            first.refuses = True
            first.cut()
            await lives.next()
            assert connection.address.port == second.port
            await channel.publish(Message(b"x"), name)
            assert await queue.delete() == 1


async def test_a_login_that_is_refused_ends_it(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon:
        async with Proxy(daemon.port) as proxy:
            connection = await leveret.connect(proxy.url, reconnect=QUICK)
            channel = await connection.channel()
            await channel.declare_queue("q")
            waiting = asyncio.create_task(connection.wait_connected())
            await asyncio.to_thread(daemon.kill)
            daemon.options = ("--default-password=changed",)
            await asyncio.to_thread(daemon.start)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(ConnectionLost, match="does not accept the login any more") as caught:
                    await channel.publish(Message(b"x"), "q")
                await waiting  # it was connected when it asked
            assert caught.value.message is not None
            assert isinstance(caught.value.__cause__, AuthenticationFailed)
            assert connection.is_closed
            accepted = proxy.accepted
            with pytest.raises(ConnectionLost):
                await connection.channel()
            await connection.close()
            assert proxy.accepted == accepted


async def test_closing_while_the_broker_is_away(daemon: Daemon) -> None:
    connection = await leveret.connect(daemon.leveret_url, reconnect=QUICK)
    channel = await connection.channel()
    lives = Lives(connection)
    daemon.kill()
    await lives.lost.wait()
    publish = asyncio.create_task(channel.publish(Message(b"x"), "q"))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await connection.close()
        with pytest.raises(ConnectionLost, match="the connection was closed"):
            await publish


async def test_a_clean_restart_of_the_broker_is_survived_too(daemon: Daemon) -> None:
    async with leveret.connect(daemon.leveret_url, reconnect=QUICK) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("q", durable=True)
        restart = asyncio.create_task(asyncio.to_thread(daemon.restart))
        number = 0
        while not restart.done() or number < 100:
            await channel.publish(Message(b"%d" % number), "q")
            number += 1
        await restart
        assert [int(body) for body in await all_bodies(queue)] == list(range(number))


async def test_a_slow_consumer_keeps_its_connection_and_little_memory_whatever_the_clock_says(
    shared_daemon: Daemon, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that takes several heartbeats, while the wall clock jumps."""
    async with leveret.connect(shared_daemon.leveret_url, heartbeat_s=1) as connection:
        lives = Lives(connection)
        channel = await connection.channel()
        await channel.set_qos(10)
        queue = await channel.declare_queue(name)
        now_s = time.time()
        monkeypatch.setattr("time.time", lambda: now_s + 1e6)
        await channel.publish_many([Message(b"%d" % number) for number in range(3000)], name)
        order: list[int] = []
        async with queue.iterator() as messages:
            async for message in messages:
                order.append(int(message.body))
                if message.body in (b"0", b"100"):
                    await asyncio.sleep(2.5)
                    assert len(messages.waiting) == 9
                    monkeypatch.setattr("time.time", lambda: now_s - 1e6)
                await message.ack()
                if len(order) == 3000:
                    break
        assert order == list(range(3000))
        assert not lives.lost.is_set()
        await queue.delete()


async def test_a_queue_that_was_deleted_is_not_made_again(
    proxy: Proxy, connection: Connection, shared_daemon: Daemon, name: str
) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue(name)
    consumer = await queue.consume(print)
    lives = Lives(connection)
    async with leveret.connect(shared_daemon.leveret_url) as other:
        other_channel = await other.channel()
        await other_channel.queue_delete(name)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConsumerCancelled, match="its queue was deleted"):
                await consumer.wait()
        proxy.cut()
        await lives.next()
        with pytest.raises(leveret.NotFound):
            await other_channel.get_queue(name)


class TestTls:
    async def test_connects_trusts_and_comes_back(
        self, shared_daemon: Daemon, tmp_path: Path, name: str
    ) -> None:
        certificate = make_certificate(tmp_path)
        async with Proxy(shared_daemon.port, certificate.server_context()) as proxy:
            url = f"{proxy.url}?ca_file={certificate.file}"
            async with leveret.connect(url, reconnect=QUICK) as connection:
                channel = await connection.channel()
                queue = await channel.declare_queue(name)
                lives = Lives(connection)
                for number in range(3):
                    await channel.publish(Message(bytes(300_000)), name)
                    assert len((await queue.get(no_ack=True)).body) == 300_000
                    if number < 2:
                        proxy.cut()
                        await lives.next()
                await queue.delete()
            context = ssl.create_default_context(cafile=str(certificate.file))
            async with leveret.connect(proxy.url, ssl_context=context) as connection:
                assert connection.is_connected

    async def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, shared_daemon: Daemon, tmp_path: Path
    ) -> None:
        certificate = make_certificate(tmp_path)
        async with Proxy(shared_daemon.port, certificate.server_context()) as proxy:
            with pytest.raises(ConnectionLost, match="CERTIFICATE_VERIFY_FAILED"):
                await leveret.connect(proxy.url)

    async def test_a_broker_without_tls_is_no_partner(self, shared_daemon: Daemon) -> None:
        with pytest.raises(ConnectionLost, match=r"cannot connect|no answer"):
            await leveret.connect(shared_daemon.leveret_url.replace("leveret://", "leverets://"), timeout_s=5)
