"""Consuming with the SDK from the real broker: handlers, stopping, leases, and what takes long."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest
from daemon import TIMEOUT_FACTOR, Daemon

import leveret
from leveret import (
    Channel,
    ChannelClosed,
    Connection,
    ConsumerCancelled,
    IncomingMessage,
    Message,
    Queue,
    Undecodable,
)

PATIENCE_S = 20 * TIMEOUT_FACTOR
_numbers = count(1)


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_sdk_consuming") as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queue(channel: Channel) -> AsyncIterator[Queue]:
    """A durable queue of this test's own."""
    queue = await channel.declare_queue(f"consuming-{next(_numbers)}", durable=True)
    yield queue
    if not channel.is_closed:
        await queue.delete()


async def publish(queue: Queue, total: int) -> None:
    await asyncio.gather(*(queue.channel.publish(Message(b"%d" % n), queue.name) for n in range(total)))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # any condition, also of a thread
            await asyncio.sleep(0.005)


async def left(queue: Queue) -> list[int]:
    """What is in the queue, taken out; on the channel that the queue came from, behind its acks."""
    bodies = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        bodies.append(int(message.body))
    return bodies


class Gauge:
    """Counts how many are inside at the same time."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


class TestConcurrency:
    async def test_it_is_reached_and_never_exceeded(self, queue: Queue) -> None:
        await publish(queue, 200)
        gauge = Gauge()
        full = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            with gauge:
                if gauge.now == 10:
                    full.set()
                await full.wait()
                await asyncio.sleep(0)

        consumer = await queue.consume(work, concurrency=10)
        await until(lambda: gauge.total == 200 and not gauge.now)
        await consumer.stop()
        assert gauge.most == 10
        assert await left(queue) == []

    async def test_of_threads_too(self, queue: Queue) -> None:
        await publish(queue, 40)
        gauge = Gauge()
        together = threading.Barrier(4)

        def work(message: IncomingMessage) -> None:
            with gauge:
                together.wait(PATIENCE_S)

        consumer = await queue.consume(work, concurrency=4, prefetch_count=8)
        await until(lambda: gauge.total == 40 and not gauge.now)
        await consumer.stop()
        assert gauge.most == 4
        assert await left(queue) == []

    async def test_the_prefetch_leaves_work_for_others(self, connection: Connection, queue: Queue) -> None:
        await publish(queue, 10)
        held = asyncio.Event()
        began = 0

        async def hold(message: IncomingMessage) -> None:
            nonlocal began
            began += 1
            await held.wait()

        consumer = await queue.consume(hold, concurrency=2, prefetch_count=3)
        await until(lambda: began == 2)
        other = await connection.channel()
        assert (await other.get_queue(queue.name)).message_count == 7
        held.set()
        await until(lambda: began == 10)
        await consumer.stop()


class TestErrors:
    async def test_rejected_messages_are_dead_lettered(self, channel: Channel, queue: Queue) -> None:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        work = await channel.declare_queue(f"{queue.name}-work", arguments=arguments)

        async def handle(message: IncomingMessage) -> None:
            if int(message.body) % 2:
                raise ValueError("odd")

        consumer = await work.consume(handle, concurrency=3)
        await publish(work, 10)
        dead = []
        async with asyncio.timeout(PATIENCE_S):
            async for message in queue:
                await message.ack()
                assert message.headers["x-first-death-reason"] == "rejected"
                dead.append(int(message.body))
                if len(dead) == 5:
                    break
        await consumer.stop()
        assert sorted(dead) == [1, 3, 5, 7, 9]
        assert await work.delete() == 0

    async def test_requeue_once_tries_twice(self, queue: Queue) -> None:
        await publish(queue, 3)
        tries: list[tuple[bytes, bool]] = []

        async def handle(message: IncomingMessage) -> None:
            tries.append((message.body, message.redelivered))
            raise ValueError

        consumer = await queue.consume(handle, on_error="requeue_once")
        await until(lambda: len(tries) == 6)
        await consumer.stop()
        assert sorted(tries) == [(b"%d" % n, again) for n in range(3) for again in (False, True)]
        assert await left(queue) == []

    async def test_a_poisonous_body_is_rejected(self, channel: Channel, queue: Queue) -> None:
        await channel.publish(Message(b"{", content_type="application/json"), queue.name)
        await channel.publish(Message.json({"good": True}), queue.name)
        errors: list[Exception] = []
        good = asyncio.Queue[object]()

        async def handle(message: IncomingMessage) -> None:
            await good.put(message.decode())

        consumer = await queue.consume(handle, on_error=lambda message, error: errors.append(error))
        async with asyncio.timeout(PATIENCE_S):
            assert await good.get() == {"good": True}
        await consumer.stop()
        assert [type(error) for error in errors] == [Undecodable]
        assert await left(queue) == []


class TestStop:
    async def test_what_runs_finishes_and_the_rest_goes_back_in_order(self, queue: Queue) -> None:
        await publish(queue, 50)
        began, release = asyncio.Event(), asyncio.Event()
        done: list[int] = []

        async def work(message: IncomingMessage) -> None:
            began.set()
            await release.wait()
            done.append(int(message.body))

        consumer = await queue.consume(work, concurrency=3)
        await began.wait()
        stopping = asyncio.create_task(consumer.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        release.set()
        await stopping
        assert sorted(done) == [0, 1, 2]
        assert await left(queue) == list(range(3, 50))

    async def test_what_takes_too_long_goes_back_too(self, queue: Queue) -> None:
        await publish(queue, 5)
        began = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            began.set()
            await asyncio.Event().wait()

        consumer = await queue.consume(work, concurrency=2)
        await began.wait()
        await consumer.stop(timeout_s=0.01)
        assert sorted(await left(queue)) == list(range(5))

    async def test_serve_ends_gracefully_when_it_is_cancelled(self, channel: Channel, queue: Queue) -> None:
        await publish(queue, 5)
        began, release = asyncio.Event(), asyncio.Event()

        @channel.handler(queue)
        async def work(message: IncomingMessage) -> None:
            began.set()
            await release.wait()

        serving = asyncio.create_task(channel.serve())
        await began.wait()
        serving.cancel()
        await until(lambda: not channel._consumers)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await left(queue) == [1, 2, 3, 4]

    async def test_nothing_is_lost_or_doubled_over_many_stops(self, queue: Queue) -> None:
        await publish(queue, 300)
        done: list[int] = []

        async def work(message: IncomingMessage) -> None:
            await asyncio.sleep(0)
            done.append(int(message.body))

        async with asyncio.timeout(PATIENCE_S):
            for enough in range(30, 301, 30):
                consumer = await queue.consume(work, concurrency=5, prefetch_count=20)
                await until(lambda enough=enough: len(done) >= enough)
                await consumer.stop()
        assert sorted(done) == list(range(300))
        assert await left(queue) == []


class TestEnds:
    async def test_a_deleted_queue(self, connection: Connection, channel: Channel) -> None:
        queue = await channel.declare_queue("consuming-deleted")
        began, release = asyncio.Event(), asyncio.Event()

        @channel.handler(queue, concurrency=2)
        async def work(message: IncomingMessage) -> None:
            began.set()
            await release.wait()

        await publish(queue, 1)
        serving = asyncio.create_task(channel.serve())
        await began.wait()
        await (await connection.channel()).queue_delete("consuming-deleted")
        release.set()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConsumerCancelled, match="its queue was deleted"):
                await serving
        assert (await channel.declare_queue("consuming-deleted")).message_count == 0  # the channel is fine
        await channel.queue_delete("consuming-deleted")

    async def test_a_closed_channel(self, queue: Queue) -> None:
        await publish(queue, 1)
        began = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            began.set()
            await asyncio.Event().wait()

        channel = queue.channel
        consumer = await queue.consume(work)
        await began.wait()
        await channel.close()
        waiting = asyncio.create_task(consumer.wait())
        await asyncio.sleep(0)
        await consumer.cancel()
        await waiting
        with pytest.raises(ChannelClosed, match="open another one"):
            await queue.get()


class TestReconnect:
    """The broker is killed and started again while handlers run; what they hold comes again."""

    async def test_handlers_go_on_and_their_messages_come_again(
        self, daemon: Daemon, caplog: pytest.LogCaptureFixture
    ) -> None:
        began, release = asyncio.Event(), asyncio.Event()
        done: list[tuple[int, bool]] = []

        async def work(message: IncomingMessage) -> None:
            began.set()
            await release.wait()
            done.append((int(message.body), message.redelivered))

        async with leveret.connect(daemon.leveret_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("jobs", durable=True)
            consumer = await queue.consume(work, concurrency=2, extend_every_s=0.01)
            await publish(queue, 5)
            await began.wait()
            daemon.kill()
            await until(lambda: not connection.is_connected)
            daemon.start()
            release.set()
            await until(lambda: len(done) >= 7)
            await consumer.stop()
            assert sorted(number for number, _ in done) == [0, 0, 1, 1, 2, 3, 4]
            assert [number for number, again in done if not again] == [0, 1]
            assert "comes again" in caplog.text
            assert await left(queue) == []

    async def test_a_consumer_can_be_stopped_while_the_broker_is_away(self, daemon: Daemon) -> None:
        began = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            began.set()
            await asyncio.Event().wait()

        async with leveret.connect(daemon.leveret_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("jobs", durable=True)
            consumer = await queue.consume(work)
            await publish(queue, 3)
            await began.wait()
            daemon.kill()
            await until(lambda: not connection.is_connected)
            async with asyncio.timeout(PATIENCE_S):
                await consumer.stop(timeout_s=0.01)
                await consumer.wait()
            daemon.start()
            assert await left(queue) == [0, 1, 2]


class TestLeases:
    TIMEOUT_S = 1.0

    async def test_a_message_that_is_kept_too_long_is_taken_back(self, queue: Queue) -> None:
        await publish(queue, 1)
        arguments = {"x-consumer-timeout": 100}
        async with asyncio.timeout(PATIENCE_S), queue.iterator(arguments=arguments) as messages:
            late = await anext(messages)
            with pytest.raises(ConsumerCancelled, match="longer than the consumer timeout"):
                await anext(messages)
            await late.ack()  # without effect: it is somebody else's by now
        assert await left(queue) == [0]

    async def test_a_lease_that_is_extended_lasts(self, queue: Queue) -> None:
        await publish(queue, 1)
        arguments = {"x-consumer-timeout": int(self.TIMEOUT_S * 1000)}
        async with asyncio.timeout(PATIENCE_S), queue.iterator(arguments=arguments) as messages:
            message = await anext(messages)
            until_s = time.monotonic() + 2 * self.TIMEOUT_S
            while time.monotonic() < until_s:
                await message.extend()
                await asyncio.sleep(self.TIMEOUT_S / 10)
            await message.ack()
        assert await left(queue) == []

    @pytest.mark.parametrize("extend", [True, False])
    async def test_handlers_that_take_longer_than_the_timeout(self, queue: Queue, extend: bool) -> None:
        """One handles two messages, each for longer than the timeout: the second waits for the first, too."""
        await publish(queue, 2)
        done: list[int] = []

        async def work(message: IncomingMessage) -> None:
            await asyncio.sleep(1.2 * self.TIMEOUT_S)
            done.append(int(message.body))

        consumer = await queue.consume(
            work,
            extend_every_s=self.TIMEOUT_S / 10 if extend else None,
            arguments={"x-consumer-timeout": int(self.TIMEOUT_S * 1000)},
        )
        if extend:
            await until(lambda: len(done) == 2)
            await consumer.stop()
            assert await left(queue) == []
        else:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(ConsumerCancelled):
                    await consumer.wait()
            assert set(await left(queue)) & set(done), "what was done too late is done again"


class TestHeartbeats:
    async def test_handlers_longer_than_the_heartbeat(self, shared_daemon: Daemon, queue: Queue) -> None:
        """A second without a sign of life would end the connection, on either side."""
        await publish(queue, 2)
        done: list[str] = []

        def block(message: IncomingMessage) -> None:
            time.sleep(2.1)
            done.append("def")

        async def wait(message: IncomingMessage) -> None:
            await asyncio.sleep(2.1)
            done.append("async def")

        async with leveret.connect(shared_daemon.leveret_url, heartbeat_s=1) as connection:
            channel = await connection.channel()
            for work in (block, wait):
                await (await channel.get_queue(queue.name)).consume(work, prefetch_count=1)
            await until(lambda: len(done) == 2)
            await channel.stop_consumers()
            assert not connection.is_closed
            assert sorted(done) == ["async def", "def"]
            assert await left(await channel.get_queue(queue.name)) == []
