"""Consume, process, produce as one, on a real broker: nothing is lost or doubled, whatever is killed when."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from random import Random

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from pattern_worker import Workers
from proxy import READ_BYTES, Proxy

import leveret
from leveret import (
    Channel,
    IncomingMessage,
    Message,
    Nacked,
    NotFound,
    PreconditionFailed,
    Queue,
    Reconnect,
    Unroutable,
)
from leveret.patterns import pipeline as pipeline_module
from leveret.patterns.pipeline import Output, Pipeline

PATIENCE_S = 30 * TIMEOUT_FACTOR
_numbers = count(1)


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[leveret.Connection]:
    async with leveret.connect(shared_daemon.leveret_url) as connection:
        yield connection


@pytest.fixture
async def channel(connection: leveret.Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queues(channel: Channel) -> AsyncIterator[tuple[Queue, Queue, Queue]]:
    """Inputs, outputs, dead letters."""
    name = f"pipeline-{next(_numbers)}"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead"}
    yield (
        await channel.declare_queue(name, durable=True, arguments=arguments),
        await channel.declare_queue(f"{name}-out", durable=True),
        await channel.declare_queue(f"{name}-dead", durable=True),
    )
    for suffix in ("", "-out", "-dead"):
        await channel.queue_delete(name + suffix)


async def publish(channel: Channel, queue: str, bodies: list[str]) -> None:
    await asyncio.gather(*(channel.publish(Message(body.encode()), queue) for body in bodies))


async def take_all(channel: Channel, queue: str) -> list[str]:
    bodies = []
    while (message := await channel.get(queue, no_ack=True)) is not None:
        bodies.append(message.body.decode().rstrip())
    return bodies


async def ready(channel: Channel, queue: str, wanted: int) -> None:
    """Wait until so many messages, or more, are ready in a queue."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := (await channel.get_queue(queue)).message_count) < wanted:
        assert time.monotonic() < deadline, f"{found} messages in {queue}, not {wanted}"
        await asyncio.sleep(0.005)


class TestPipeline:
    @pytest.mark.parametrize("batch_size", [1, 8])
    async def test_each_input_gives_its_outputs_in_order(
        self,
        connection: leveret.Connection,
        channel: Channel,
        queues: tuple[Queue, Queue, Queue],
        batch_size: int,
    ) -> None:
        source, target, dead = queues
        busy, most = 0, 0

        async def handle(message: IncomingMessage) -> list[Output]:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0)
            busy -= 1
            number = int(message.body)
            if number % 10 == 7:
                raise ValueError("I do not like this number")
            return [Output(Message(f"{number}.{n}".encode()), target.name) for n in range(number % 3)]

        await publish(channel, source.name, [f"{number}" for number in range(60)])
        pipeline = Pipeline(connection, source.name, handle, batch_size=batch_size)
        running = asyncio.create_task(pipeline.run())
        liked = [number for number in range(60) if number % 10 != 7]
        outputs = [f"{number}.{n}" for number in liked for n in range(number % 3)]
        await ready(channel, target.name, len(outputs))
        await ready(channel, dead.name, 6)
        await pipeline.stop()
        await running
        assert await take_all(channel, target.name) == outputs
        assert await take_all(channel, dead.name) == [f"{number}" for number in range(7, 60, 10)]
        assert await take_all(channel, source.name) == []
        assert most == batch_size

    async def test_a_def_runs_in_a_thread(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues

        def handle(message: IncomingMessage) -> list[Output] | None:
            assert threading.current_thread() is not threading.main_thread()
            return [Output(Message(message.body), target.name)] if message.body == b"1" else None

        await publish(channel, source.name, ["0", "1", "2"])
        pipeline = Pipeline(connection, source.name, handle)
        running = asyncio.create_task(pipeline.run())
        await ready(channel, target.name, 1)
        await pipeline.stop()
        await running
        assert await take_all(channel, target.name) == ["1"]

    async def test_stop_lets_what_runs_finish_and_returns_the_rest(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues
        begun, finish = asyncio.Event(), asyncio.Event()

        async def handle(message: IncomingMessage) -> list[Output]:
            begun.set()
            await finish.wait()
            return [Output(Message(message.body), target.name)]

        await publish(channel, source.name, ["1", "2", "3"])
        pipeline = Pipeline(connection, source.name, handle, batch_size=1)
        running = asyncio.create_task(pipeline.run())
        await begun.wait()
        await pipeline.stop()
        finish.set()
        await running
        assert await take_all(channel, target.name) == ["1"]
        await ready(channel, source.name, 2)
        assert await take_all(channel, source.name) == ["2", "3"]

    async def test_what_the_broker_refuses_undoes_the_batch_and_is_raised(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues

        async def handle(message: IncomingMessage) -> list[Output]:
            exchange = "missing" if message.body == b"2" else ""
            return [Output(Message(message.body), target.name, exchange=exchange)]

        await publish(channel, source.name, ["1", "2"])
        with pytest.raises(NotFound, match="no exchange 'missing'"):
            await Pipeline(connection, source.name, handle).run()
        assert await take_all(channel, target.name) == []
        await ready(channel, source.name, 2)

    async def test_an_output_that_reaches_no_queue_undoes_the_batch_and_is_raised(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues

        async def handle(message: IncomingMessage) -> list[Output]:
            return [Output(Message(message.body), target.name), Output(Message(b"result"), "nowhere")]

        await publish(channel, source.name, ["1", "2"])
        with pytest.raises(Unroutable, match="nowhere"):
            await Pipeline(connection, source.name, handle).run()
        assert await take_all(channel, target.name) == []
        await ready(channel, source.name, 2)

    async def test_a_queue_that_is_deleted_and_made_again_while_outputs_come_costs_none(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues
        inputs = [f"{number}" for number in range(200)]
        results: list[str] = []

        async def handle(message: IncomingMessage) -> list[Output]:
            return [Output(Message(message.body), target.name)]

        async def work() -> None:
            while True:
                try:
                    await Pipeline(connection, source.name, handle, batch_size=4).run()
                except Unroutable:
                    refused.append(1)
                else:
                    return

        refused: list[int] = []
        await publish(channel, source.name, inputs)
        working = asyncio.create_task(work())
        deadline = time.monotonic() + PATIENCE_S
        while len(results) < len(inputs):
            assert time.monotonic() < deadline, f"{len(results)} outputs of {len(inputs)}"
            results += await take_all(channel, target.name)
            # Only an empty queue goes, so whatever is missing in the end was lost by the pipeline.
            with suppress(PreconditionFailed):
                await channel.queue_delete(target.name, if_empty=True)
            await asyncio.sleep(0.002)
            await channel.declare_queue(target.name, durable=True)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        assert Counter(results) == Counter(inputs)
        assert refused

    async def test_a_full_queue_undoes_the_batch(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues
        full = f"{target.name}-full"
        await channel.declare_queue(full, arguments={"x-max-length": 3, "x-overflow": "reject-publish"})

        async def handle(message: IncomingMessage) -> list[Output]:
            return [Output(Message(message.body), full) for _ in range(2)]

        await publish(channel, source.name, ["1", "2"])
        with pytest.raises(Nacked, match=f"queue '{full}' in vhost '/' has no room") as caught:
            await Pipeline(connection, source.name, handle).run()
        assert caught.value.message.body == b"2"
        assert await channel.queue_delete(full) == 0
        await ready(channel, source.name, 2)

    async def test_requeue(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, _ = queues

        async def handle(message: IncomingMessage) -> list[Output]:
            if not message.redelivered:
                raise OSError("not now")
            return [Output(Message(message.body), target.name)]

        await publish(channel, source.name, ["1"])
        pipeline = Pipeline(connection, source.name, handle, requeue=True)
        running = asyncio.create_task(pipeline.run())
        await ready(channel, target.name, 1)
        await pipeline.stop()
        await running

    async def test_a_handler_that_returns_nothing_has_no_outputs(
        self, connection: leveret.Connection, channel: Channel, queues: tuple[Queue, Queue, Queue]
    ) -> None:
        source, target, dead = queues

        async def handle(message: IncomingMessage) -> list[Output] | None:
            return None if message.body == b"1" else [Output(Message(message.body), target.name)]

        await publish(channel, source.name, ["1", "2"])
        pipeline = Pipeline(connection, source.name, handle)
        running = asyncio.create_task(pipeline.run())
        await ready(channel, target.name, 1)
        await pipeline.stop()
        await running
        assert [await take_all(channel, queue.name) for queue in (source, target, dead)] == [[], ["2"], []]

    async def test_a_batch_size_below_one(self, connection: leveret.Connection) -> None:
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            Pipeline(connection, "q", pytest.fail, batch_size=0)


class CuttingProxy(Proxy):
    """Each connection is cut after so many bytes to the broker, a number left to chance."""

    def __init__(self, target_port: int, random: Random, bytes_max: int) -> None:
        super().__init__(target_port)
        self._random = random
        self._bytes_max = bytes_max
        self.cuts = 0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("peername")[1] != self.target_port:
            await super()._pass(reader, writer)
            return
        left = self._random.randrange(self._bytes_max)
        while data := await reader.read(READ_BYTES):
            writer.write(data[:left])
            if len(data) > left:
                self.cuts += 1
                break
            left -= len(data)
            await writer.drain()
        writer.close()  # what was written still arrives


@pytest.mark.crash
async def test_connections_cut_anywhere(
    shared_daemon: Daemon,
    channel: Channel,
    queues: tuple[Queue, Queue, Queue],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between any two bytes, so also between an output and the next, and between the outputs and the acks."""
    source, target, _ = queues

    async def handle(message: IncomingMessage) -> list[Output]:
        # So large that the outputs of a batch take many frames.
        return [Output(Message(message.body.ljust(20_000)), target.name) for _ in range(2)]

    inputs = [f"{number}" for number in range(300)]
    await publish(channel, source.name, inputs)
    monkeypatch.setattr(pipeline_module, "RETRY_S", 0.001)
    reconnect = Reconnect(first_delay_s=0.001, max_delay_s=0.01, from_start=True)
    async with (
        CuttingProxy(shared_daemon.port, Random(3), bytes_max=600_000) as proxy,
        leveret.connect(proxy.url, reconnect=reconnect) as connection,
    ):
        pipeline = Pipeline(connection, source.name, handle, batch_size=10)
        running = asyncio.create_task(pipeline.run())
        await ready(channel, target.name, 2 * len(inputs))
        await pipeline.stop()
        await running
    assert proxy.cuts > 10
    assert Counter(await take_all(channel, target.name)) == Counter(2 * inputs)
    assert await take_all(channel, source.name) == []


@pytest.mark.crash
class TestKill9:
    SEED = 5
    KILLS = 6  # of workers, and of brokers every third time
    INPUTS = 500

    async def test_each_input_has_its_outputs_once(self, daemon: Daemon) -> None:
        random = Random(self.SEED)
        inputs = [f"{number}" for number in range(self.INPUTS)]
        moments = sorted(random.sample(range(self.INPUTS), self.KILLS))  # how many outputs are there
        async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
            for queue in ("in", "a", "b"):
                await channel.declare_queue(queue, durable=True)
            await publish(channel, "in", inputs)
        with Workers("pipeline", daemon.leveret_url, "in", 10, "a", "b") as workers:
            while moments:
                async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
                    for moment in moments[:3]:
                        await ready(channel, "b", moment)
                        workers.kill_one()
                    moments = moments[3:]
                daemon.kill()
                daemon.start()
            async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
                await ready(channel, "b", self.INPUTS)
        async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
            assert await take_all(channel, "in") == []
            for queue in ("a", "b"):
                assert Counter(await take_all(channel, queue)) == Counter(inputs)
