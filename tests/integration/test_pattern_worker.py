"""The worker, against the real broker: how it ends, and where its messages are then."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from daemon import Daemon
from polling import PATIENCE_S, until

import leveret
from leveret import Channel, Connection, ConsumerCancelled, IncomingMessage, Message, Queue
from leveret.patterns.circuit_breaker import CircuitBreaker, State
from leveret.patterns.retry import Backoff, Retry, attempts_made
from leveret.patterns.worker import EXIT_CUT_OFF, EXIT_FINISHED, Worker

WORKER = Path(__file__).parents[1] / "support" / "pattern_workers.py"
_numbers = count(1)


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_pattern_worker") as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queue(channel: Channel) -> AsyncIterator[Queue]:
    queue = await channel.declare_queue(f"worker-{next(_numbers)}", durable=True)
    yield queue
    await queue.delete()


async def publish(queue: Queue, *bodies: bytes) -> None:
    for body in bodies:
        await queue.channel.publish(Message(body), queue.name)


async def left_in(queue: Queue) -> list[tuple[bytes, bool]]:
    """What waits in a queue: bodies, and whether they had been delivered before."""
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append((message.body, message.redelivered))
    return found


async def until_consumed(queue: Queue) -> None:
    async def has_consumer() -> bool:
        return (await queue.channel.get_queue(queue.name)).consumer_count > 0

    await until(has_consumer, f"a consumer of {queue.name}")


class Tasks:
    """A handler whose messages end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.finished: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.go_on = asyncio.Event()
        self._changed = asyncio.Condition()

    async def __call__(self, message: IncomingMessage) -> None:
        self.begun.append(message.body)
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.body)
            raise
        self.finished.append(message.body)

    async def until_begun(self, total: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= total)


class TestStop:
    async def test_what_runs_is_finished_and_the_rest_given_back(self, queue: Queue) -> None:
        await publish(queue, b"1", b"2", b"3", b"4")
        tasks = Tasks()
        worker = Worker(queue, tasks, concurrency=2)
        running = asyncio.create_task(worker.run(signals=()))
        await tasks.until_begun(2)
        worker.stop()
        tasks.go_on.set()
        assert await running == EXIT_FINISHED
        assert sorted(tasks.finished) == [b"1", b"2"]
        assert [body for body, _ in await left_in(queue)] == [b"3", b"4"]

    async def test_what_takes_too_long_is_cut_off_and_given_back(self, queue: Queue) -> None:
        await publish(queue, b"1", b"2")
        tasks = Tasks()
        worker = Worker(queue, tasks, concurrency=2, grace_s=0.05)
        running = asyncio.create_task(worker.run(signals=()))
        await tasks.until_begun(2)
        worker.stop()
        assert await running == EXIT_CUT_OFF
        assert sorted(tasks.cancelled) == [b"1", b"2"]
        assert await left_in(queue) == [(b"1", True), (b"2", True)]

    async def test_stopping_twice_ends_the_grace(self, queue: Queue) -> None:
        await publish(queue, b"1")
        tasks = Tasks()
        worker = Worker(queue, tasks, grace_s=1000)
        running = asyncio.create_task(worker.run(signals=()))
        await tasks.until_begun(1)
        worker.stop()
        worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == EXIT_CUT_OFF
        assert await left_in(queue) == [(b"1", True)]

    async def test_an_idle_worker_ends_at_once(self, queue: Queue) -> None:
        worker = Worker(queue, Tasks())
        running = asyncio.create_task(worker.run(signals=()))
        await until_consumed(queue)
        worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == EXIT_FINISHED

    async def test_cancelling_it_gives_everything_back(self, queue: Queue) -> None:
        await publish(queue, b"1", b"2")
        tasks = Tasks()
        running = asyncio.create_task(Worker(queue, tasks, concurrency=1).run(signals=()))
        await tasks.until_begun(1)
        running.cancel()
        await asyncio.wait((running,))
        assert running.cancelled()
        assert sorted(body for body, _ in await left_in(queue)) == [b"1", b"2"]


class TestHandling:
    async def test_no_more_than_its_share_is_with_the_worker(self, queue: Queue) -> None:
        await publish(queue, *(b"%d" % number for number in range(10)))
        tasks = Tasks()
        worker = Worker(queue, tasks, concurrency=3)
        running = asyncio.create_task(worker.run(signals=()))
        await tasks.until_begun(3)
        assert (await queue.channel.get_queue(queue.name)).message_count == 7
        tasks.go_on.set()
        await tasks.until_begun(10)
        worker.stop()
        assert await running == EXIT_FINISHED

    async def test_a_handler_may_fail_and_may_settle_by_itself(self, queue: Queue) -> None:
        dead = await queue.channel.declare_queue(f"{queue.name}-dead")
        source = await queue.channel.declare_queue(
            f"{queue.name}-source",
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name},
        )
        handled: list[bytes] = []
        all_handled = asyncio.Event()

        async def handle(message: IncomingMessage) -> None:
            handled.append(message.body)
            if len(handled) == 4:
                all_handled.set()
            if message.body == b"fails":
                raise ValueError("no")
            if message.body == b"settled":
                await message.nack(requeue=False)
                raise ValueError("after settling")

        await publish(source, b"fails", b"settled", b"works", b"works, too")
        worker = Worker(source, handle, concurrency=1)
        running = asyncio.create_task(worker.run(signals=()))
        async with asyncio.timeout(PATIENCE_S):
            await all_handled.wait()
        worker.stop()
        assert await running == EXIT_FINISHED
        assert [body for body, _ in await left_in(dead)] == [b"fails", b"settled"]
        assert await left_in(source) == []
        await source.delete()
        await dead.delete()

    async def test_defs_run_in_threads(self, queue: Queue) -> None:
        await publish(queue, b"1", b"2")
        both = threading.Barrier(3)
        worker = Worker(queue, lambda message: both.wait(PATIENCE_S))
        running = asyncio.create_task(worker.run(signals=()))
        await asyncio.to_thread(both.wait, PATIENCE_S)
        worker.stop()
        assert await running == EXIT_FINISHED
        assert await left_in(queue) == []

    async def test_a_def_may_fail_and_is_tried_again(self, connection: Connection) -> None:
        retry = Retry(f"worker-{next(_numbers)}", backoff=Backoff(first_s=0.01, cap_s=0.01))
        loop, tried_again = asyncio.get_running_loop(), asyncio.Event()

        def handle(message: IncomingMessage) -> None:
            if not attempts_made(message):
                raise TimeoutError("the first time")
            loop.call_soon_threadsafe(tried_again.set)

        async with connection.channel() as channel:
            await publish(await retry.declare(channel), b"1")
        async with connection.channel(publisher_confirms=False) as channel:
            worker = Worker(await retry.declare(channel), retry.guard(channel, handle))
            running = asyncio.create_task(worker.run(signals=()))
            async with asyncio.timeout(PATIENCE_S):
                await tried_again.wait()
            worker.stop()
            assert await running == EXIT_FINISHED
            for name in (retry.queue, retry.delay_queue, retry.dead_queue):
                assert await channel.queue_delete(name) == 0

    async def test_a_queue_that_is_deleted_ends_it(self, channel: Channel) -> None:
        queue = await channel.declare_queue(f"worker-{next(_numbers)}")
        running = asyncio.create_task(Worker(queue, Tasks()).run(signals=()))
        await until_consumed(queue)
        await queue.delete()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConsumerCancelled):
                await running

    async def test_at_least_one_at_a_time(self, queue: Queue) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Worker(queue, Tasks(), concurrency=0)

    async def test_a_name_is_no_queue(self, queue: Queue) -> None:
        with pytest.raises(
            TypeError, match=r"takes what channel\.declare_queue or get_queue returns, not str"
        ):
            Worker(queue.name, Tasks())  # type: ignore[arg-type] # that is the mistake


class TestWithABreaker:
    async def test_it_takes_nothing_while_the_breaker_is_open(
        self, connection: Connection, channel: Channel
    ) -> None:
        """The service is down for the first calls; no attempt is burnt on an open breaker."""
        retry = Retry(f"worker-{next(_numbers)}", attempts=4, backoff=Backoff(first_s=0.01, cap_s=0.01))
        states: list[State] = []
        breaker = CircuitBreaker(
            "service", failures_max=3, open_s=0.3, on_change=lambda old, new: states.append(new)
        )
        calls: list[State] = []
        done: list[bytes] = []
        all_done = asyncio.Event()

        async def handle(message: IncomingMessage) -> None:
            async with breaker.call():
                calls.append(breaker.state)
                if len(calls) <= 3:
                    raise TimeoutError("down")
            done.append(message.body)
            if len(done) == 10:
                all_done.set()

        consuming = await connection.channel(publisher_confirms=False)
        queue = await retry.declare(consuming)
        await asyncio.gather(*(channel.publish(Message(b"%d" % job), retry.queue) for job in range(10)))
        worker = Worker(queue, retry.guard(consuming, handle), concurrency=2, gate=breaker.ready)
        running = asyncio.create_task(worker.run(signals=()))
        async with asyncio.timeout(PATIENCE_S):
            await all_done.wait()
        worker.stop()
        assert await running == EXIT_FINISHED
        assert states == [State.OPEN, State.HALF_OPEN, State.CLOSED]
        assert calls == [State.CLOSED] * 3 + [State.HALF_OPEN] + [State.CLOSED] * 9
        assert sorted(done) == [b"%d" % job for job in range(10)]
        for name in (retry.queue, retry.delay_queue, retry.dead_queue):
            assert await channel.queue_delete(name) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_signal_ends_a_worker_process_in_good_order(
    shared_daemon: Daemon, channel: Channel, name: str
) -> None:
    queue = await channel.declare_queue(f"worker-{next(_numbers)}", durable=True)
    results = await channel.declare_queue(f"{queue.name}-results", durable=True)
    await publish(queue, b"quick", b"quick", b"slow", b"never begun")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, WORKER, "work", shared_daemon.leveret_url, queue.name, results.name),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while await process.stdout.readline() != b"slow\n":
                pass
            os.kill(process.pid, signal.Signals[name])
            assert await process.wait() == EXIT_FINISHED
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    assert [body for body, _ in await left_in(results)] == [b"quick", b"quick", b"slow"]
    assert [body for body, _ in await left_in(queue)] == [b"never begun"]
    await queue.delete()
    await results.delete()
