"""Retries, against the real broker: where a failed message goes, and that none gets lost on the way."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from daemon import Daemon
from polling import PATIENCE_S, until

import leveret
from leveret import (
    Channel,
    Connection,
    IncomingMessage,
    LeveretError,
    Message,
    NotFound,
    PreconditionFailed,
    Reconnect,
    Unroutable,
)
from leveret.patterns.failures import Postponed
from leveret.patterns.handover import HandOver, successor
from leveret.patterns.retry import (
    ATTEMPTS,
    DELIVERY_LIMIT,
    ERROR_TEXT,
    ERROR_TYPE,
    EXCHANGE,
    REASON,
    ROUTING_KEY,
    Backoff,
    Retry,
)
from leveret.patterns.worker import Worker

QUICK = Backoff(first_s=0.02, cap_s=0.1)
WORKER = Path(__file__).parents[1] / "support" / "pattern_workers.py"
KEPT = (
    *("body", "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id"),
    *("reply_to", "message_id", "timestamp", "type", "app_id"),
)
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"retry-{next(_numbers)}"


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_pattern_retry") as connection:
        yield connection


class Work:
    """A work queue with retries, whose handler raises what the test says, attempt by attempt."""

    def __init__(self, connection: Connection, retry: Retry) -> None:
        self.retry = retry
        self.seen: list[IncomingMessage] = []
        self.fail: Callable[[int], Exception | None] = lambda attempt: None
        self._connection = connection
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> "Work":
        self.publishing = await self._connection.channel()
        self.consuming = await self._connection.channel(publisher_confirms=False)
        queue = await self.retry.declare(self.consuming)
        self._worker = Worker(queue, self.retry.guard(self.consuming, self._handle), concurrency=3)
        self._running = asyncio.create_task(self._worker.run(signals=()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.stop()
        assert await self._running == 0
        for queue in (self.retry.queue, self.retry.delay_queue, self.retry.dead_queue):
            await self.publishing.queue_delete(queue)

    async def _handle(self, message: IncomingMessage) -> None:
        self.seen.append(message)
        async with self._arrived:
            self._arrived.notify_all()
        error = self.fail(len(self.seen))
        if error is not None:
            raise error

    async def publish(self, message: Message) -> None:
        await self.publishing.publish(message, self.retry.queue)

    async def until_seen(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.seen) >= times)

    async def dead_letter(self) -> IncomingMessage:
        await self.until_dead(1)
        message = await self.publishing.get(self.retry.dead_queue, no_ack=True)
        assert message is not None
        return message

    async def until_dead(self, total: int) -> None:
        async def are_dead() -> bool:
            with suppress(NotFound):  # one of the tests deletes it
                return (await self.waiting())[2] >= total
            return False

        await until(are_dead, f"{total} dead letters")

    async def waiting(self) -> list[int]:
        """How many messages are in the three queues."""
        queues = (self.retry.queue, self.retry.delay_queue, self.retry.dead_queue)
        return [(await self.publishing.get_queue(queue)).message_count for queue in queues]


class TestRetry:
    async def test_it_is_tried_again_until_it_works(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, backoff=QUICK)) as work:
            work.fail = lambda attempt: TimeoutError() if attempt < 4 else None
            await work.publish(Message(b"job"))
            await work.until_seen(4)
            assert [message.headers.get(ATTEMPTS) for message in work.seen] == [None, 1, 2, 3]
        assert [message.body for message in work.seen] == [b"job"] * 4

    async def test_given_up_after_the_last_attempt(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, attempts=3, backoff=QUICK)) as work:
            work.fail = lambda attempt: TimeoutError(f"attempt {attempt}")
            await work.publish(Message(b"job"))
            dead = await work.dead_letter()
            assert await work.waiting() == [0, 0, 0]
        assert len(work.seen) == 3
        headers = {header: dead.headers[header] for header in (ATTEMPTS, REASON, ERROR_TYPE, ERROR_TEXT)}
        assert headers == {
            ATTEMPTS: 3,
            REASON: "attempts used up",
            ERROR_TYPE: "TimeoutError",
            ERROR_TEXT: "attempt 3",
        }

    async def test_a_permanent_failure_is_given_up_at_once(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, backoff=QUICK)) as work:
            work.fail = lambda attempt: ValueError("x" * 5000)
            await work.publish(Message(b"job"))
            dead = await work.dead_letter()
        assert len(work.seen) == 1
        assert dead.headers[REASON] == "permanent"
        assert dead.headers[ATTEMPTS] == 1
        assert dead.headers[ERROR_TEXT] == "x" * 1000

    async def test_what_is_postponed_loses_no_attempt(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, attempts=2, backoff=QUICK)) as work:
            work.fail = lambda attempt: Postponed("not now", retry_after_s=0.01) if attempt < 6 else None
            await work.publish(Message(b"job"))
            await work.until_seen(6)
            assert work.seen[-1].headers[ATTEMPTS] == 0
            assert await work.waiting() == [0, 0, 0]

    async def test_everything_about_a_message_is_kept(self, connection: Connection, name: str) -> None:
        original = Message(
            b"job",
            headers={"tenant": 7, "CC": [f"{name}-copies"], "deep": {"list": [1, "a"]}},
            content_type="application/json",
            content_encoding="identity",
            priority=3,
            correlation_id="correlation",
            reply_to="somewhere",
            expiration=60,
            message_id="id",
            timestamp=datetime(2025, 1, 2, tzinfo=UTC),
            type="type",
            user_id="guest",
            app_id="app",
        )
        async with Work(connection, Retry(name, backoff=QUICK)) as work:
            copies = await work.publishing.declare_queue(f"{name}-copies")
            exchange = await work.publishing.declare_exchange(f"{name}-exchange", "topic")
            await (await work.publishing.get_queue(name)).bind(exchange, "order.#")
            work.fail = lambda attempt: TimeoutError() if attempt < 3 else None
            await exchange.publish(original, "order.new")
            await work.until_seen(3)
            first, _, last = work.seen
            for what in KEPT:
                assert getattr(last, what) == getattr(first, what), what
            assert {key: last.headers[key] for key in ("tenant", "deep", "x-user-id")} == {
                "tenant": 7,
                "deep": {"list": [1, "a"]},
                "x-user-id": "guest",
            }
            assert (last.headers[EXCHANGE], last.headers[ROUTING_KEY]) == (exchange.name, "order.new")
            assert await copies.delete() == 0, "a further routing key counts for the first publish only"
            await exchange.delete()

    async def test_nonsense_in_the_header_counts_as_nothing(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, attempts=2, backoff=QUICK)) as work:
            work.fail = lambda attempt: TimeoutError() if attempt % 2 else None
            for number, nonsense in enumerate(("three", -5, None), 1):
                await work.publish(Message(b"job", headers={ATTEMPTS: nonsense}))
                await work.until_seen(2 * number)
            assert await work.waiting() == [0, 0, 0]

    async def test_dead_letters_go_back_to_work(self, connection: Connection, name: str) -> None:
        async with Work(connection, Retry(name, attempts=2, backoff=QUICK)) as work:
            work.fail = lambda attempt: ValueError() if attempt <= 3 else None
            for body in (b"1", b"2", b"3"):
                await work.publish(Message(body))
            await work.until_seen(3)
            await work.until_dead(3)
            channel = await connection.channel(publisher_confirms=False)
            assert await work.retry.redrive(channel) == 3
            await work.until_seen(6)
            assert sorted(message.body for message in work.seen[3:]) == [b"1", b"2", b"3"]
            assert all(ATTEMPTS not in message.headers for message in work.seen)


class TestTrouble:
    async def test_queues_that_somebody_deleted_are_made_again(
        self, connection: Connection, name: str
    ) -> None:
        async with Work(connection, Retry(name, attempts=3, backoff=QUICK)) as work:
            work.fail = lambda attempt: TimeoutError()
            await work.publishing.queue_delete(work.retry.delay_queue)
            await work.publishing.queue_delete(work.retry.dead_queue)
            await work.publish(Message(b"job"))
            assert (await work.dead_letter()).headers[ATTEMPTS] == 3

    async def test_when_even_that_is_deleted_at_once_the_message_stays_where_it_was(
        self, connection: Connection, name: str
    ) -> None:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue(f"{name}-from", durable=True)
        await channel.publish(Message(b"job"), f"{name}-from")
        message = await channel.get(f"{name}-from")
        assert message is not None

        async def declare() -> None:
            await channel.declare_queue(f"{name}-to", durable=True)
            await channel.queue_delete(f"{name}-to")

        with pytest.raises(Unroutable, match=f"{name}-to"):
            await HandOver(channel).replace(message, successor(message), f"{name}-to", declare=declare)
        assert await channel.queue_delete(f"{name}-from") == 1

    async def test_a_delay_queue_that_is_something_else(self, connection: Connection, name: str) -> None:
        """It comes again and again, but not for ever; then it is a dead letter, and nothing is lost."""
        retry = Retry(name, backoff=QUICK)
        async with Work(connection, retry) as work:
            await work.publishing.queue_delete(retry.delay_queue)
            await work.publishing.declare_queue(retry.delay_queue, arguments={"x-message-ttl": 1})
            work.fail = lambda attempt: TimeoutError()
            await work.publish(Message(b"job"))
            dead = await work.dead_letter()
            assert dead.headers["x-first-death-reason"] == "delivery_limit"
            assert len(work.seen) == DELIVERY_LIMIT + 1

    async def test_a_channel_with_confirms_is_refused_at_once(
        self, connection: Connection, name: str
    ) -> None:
        async with connection.channel() as channel:
            with pytest.raises(LeveretError, match="publisher_confirms=False"):
                Retry(name).guard(channel, lambda message: message.ack())

    async def test_a_work_queue_that_is_something_else(self, connection: Connection, name: str) -> None:
        async with connection.channel() as channel:
            await channel.declare_queue(name)
            with pytest.raises(PreconditionFailed):
                await Retry(name).declare(channel)
            for queue in (name, f"{name}.retry", f"{name}.dead"):
                await channel.queue_delete(queue)


JOBS = 60
KILLS = 8
BROKER_KILLS = 3
SOON = Reconnect(max_delay_s=0.1)


async def drain(channel: Channel, queue: str) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    while (message := await channel.get(queue, no_ack=True)) is not None:
        found[message.body] += 1
    return found


@pytest.mark.crash
async def test_workers_killed_in_the_middle_lose_and_double_nothing(daemon: Daemon) -> None:
    """Every message fails each attempt until it is a dead letter, while `kill -9` meets one worker after
    another anywhere in a hand-over. In the end each message is among the dead letters exactly once.
    """
    retry = Retry("jobs", attempts=4, backoff=Backoff(first_s=0.01, cap_s=0.05))
    async with leveret.connect(daemon.leveret_url) as connection:
        channel = await connection.channel()
        await retry.declare(channel)
        bodies = [b"job-%d" % number for number in range(JOBS)]
        await asyncio.gather(*(channel.publish(Message(body), "jobs") for body in bodies))
        for number in range(KILLS + 1):
            worker = await asyncio.create_subprocess_exec(
                sys.executable, WORKER, "retry", daemon.leveret_url, stdout=subprocess.PIPE
            )
            assert worker.stdout is not None
            try:
                async with asyncio.timeout(PATIENCE_S):
                    for _ in range(5 + 7 * number % 11):
                        await worker.stdout.readline()  # an attempt that is about to fail
                if number == KILLS:
                    await until(lambda: is_dead(channel, retry, JOBS), "everything is given up")
            finally:
                worker.kill()
                await worker.communicate()
        assert await drain(channel, retry.dead_queue) == Counter(bodies)
        assert await drain(channel, retry.queue) == Counter()
        assert await drain(channel, retry.delay_queue) == Counter()


@pytest.mark.crash
async def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(daemon: Daemon) -> None:
    """As above, but the worker stays, and it is the broker that is killed, again and again."""
    retry = Retry("jobs", attempts=4, backoff=Backoff(first_s=0.01, cap_s=0.05))
    attempts = 0

    async def fail(message: IncomingMessage) -> None:
        nonlocal attempts
        attempts += 1
        raise TimeoutError("as always")

    async with leveret.connect(daemon.leveret_url, reconnect=SOON) as connection:
        channel = await connection.channel()
        consuming = await connection.channel(publisher_confirms=False)
        queue = await retry.declare(consuming)
        bodies = [b"job-%d" % number for number in range(JOBS)]
        await asyncio.gather(*(channel.publish(Message(body), "jobs") for body in bodies))
        worker = Worker(queue, retry.guard(consuming, fail), concurrency=5)
        working = asyncio.create_task(worker.run(signals=()))

        async def more_attempts(than: int) -> bool:
            return attempts > than

        for number in range(BROKER_KILLS):
            before = attempts
            await until(lambda before=before, more=7 * number % 11: more_attempts(before + more), "attempts")
            await asyncio.to_thread(daemon.restart, kill=True)
        await until(lambda: is_dead(channel, retry, JOBS), "everything is given up")
        worker.stop()
        assert await working == 0
        assert await drain(channel, retry.dead_queue) == Counter(bodies)
        assert await drain(channel, retry.queue) == Counter()
        assert await drain(channel, retry.delay_queue) == Counter()


async def is_dead(channel: Channel, retry: Retry, total: int) -> bool:
    return (await channel.get_queue(retry.dead_queue)).message_count >= total
