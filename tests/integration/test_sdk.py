"""The SDK against the real broker."""

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum
from itertools import count
from pathlib import Path

import aio_pika
import pytest
from daemon import TIMEOUT_FACTOR, Daemon

import leveret
from leveret import (
    AccessRefused,
    AuthenticationFailed,
    Blocked,
    Channel,
    Connection,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryMode,
    ExchangeType,
    IncomingMessage,
    Message,
    Nacked,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    Queue,
    ResourceLocked,
    Unroutable,
)

PATIENCE_S = 20 * TIMEOUT_FACTOR
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"sdk-{next(_numbers)}"


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_sdk") as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queue(channel: Channel, name: str) -> AsyncIterator[Queue]:
    """A durable queue of this test's own."""
    queue = await channel.declare_queue(name, durable=True)
    yield queue
    if not channel.is_closed:
        await queue.delete()


async def next_of(queue: Queue) -> IncomingMessage:
    """The next message, taken off the queue; fails when none comes."""
    async with asyncio.timeout(PATIENCE_S):
        async for message in queue:
            await message.ack()
            return message
    raise AssertionError("the loop over a queue ended")


class TestConnect:
    @pytest.mark.parametrize("path", ["", "/", "/%2F"])
    async def test_every_form_of_the_default_vhost(self, shared_daemon: Daemon, path: str) -> None:
        async with leveret.connect(
            f"leveret://guest:guest@127.0.0.1:{shared_daemon.port}{path}"
        ) as connection:
            assert (await connection.channel()).number == 1

    async def test_a_wrong_password(self, shared_daemon: Daemon) -> None:
        with pytest.raises(AuthenticationFailed, match="ACCESS_REFUSED"):
            await leveret.connect(f"leveret://guest:wrong@127.0.0.1:{shared_daemon.port}/")

    async def test_an_unknown_vhost(self, shared_daemon: Daemon) -> None:
        with pytest.raises(NotAllowed, match="vhost nowhere not found"):
            await leveret.connect(f"leveret://127.0.0.1:{shared_daemon.port}/nowhere")

    async def test_nobody_there(self) -> None:
        with pytest.raises(ConnectionLost, match=r"cannot connect to 127\.0\.0\.1:1"):
            await leveret.connect("leveret://127.0.0.1:1/")


class TestTopology:
    async def test_routing_through_exchanges(self, channel: Channel, queue: Queue, name: str) -> None:
        topic = await channel.declare_exchange(f"{name}-topic", ExchangeType.TOPIC)
        fanout = await channel.declare_exchange(f"{name}-fanout", "fanout")
        await topic.bind(fanout, "ignored")
        await queue.bind(topic, "*.error")
        await fanout.publish(Message(b"1"), "disk.error")
        message = await next_of(queue)
        assert (message.body, message.exchange, message.routing_key) == (b"1", f"{name}-fanout", "disk.error")
        await queue.unbind(topic, "*.error")
        with pytest.raises(Unroutable):
            await topic.publish(Message(b"2"), "disk.error")
        await topic.unbind(fanout, "ignored")
        await fanout.delete(if_unused=True)
        await topic.delete()
        with pytest.raises(NotFound):
            await channel.get_exchange(topic.name)

    async def test_headers_exchange_and_arguments(self, channel: Channel, queue: Queue, name: str) -> None:
        exchange = await channel.declare_exchange(name, ExchangeType.HEADERS)
        await queue.bind(exchange, "", {"x-match": "all", "kind": "a", "size": 5})
        with pytest.raises(Unroutable):
            await exchange.publish(Message(b"", headers={"kind": "a"}), "")
        await exchange.publish(Message(b"hit", headers={"kind": "a", "size": 5}), "")
        assert (await next_of(queue)).headers == {"kind": "a", "size": 5}
        await exchange.delete()

    async def test_errors_leave_the_channel_open(
        self, connection: Connection, channel: Channel, queue: Queue
    ) -> None:
        with pytest.raises(NotFound, match="no queue 'missing' in vhost '/'"):
            await channel.get_queue("missing")
        with pytest.raises(PreconditionFailed, match="inequivalent arg 'durable'"):
            await channel.declare_queue(queue.name)
        with pytest.raises(AccessRefused, match="reserved prefix"):
            await channel.declare_queue("amq.mine")
        with pytest.raises(PreconditionFailed, match="x-max-length"):
            await channel.declare_queue("bad", arguments={"x-max-length": -1})
        async with leveret.connect(f"leveret://{connection.address}/") as other:
            exclusive = await (await other.channel()).declare_queue(exclusive=True)
            with pytest.raises(ResourceLocked):
                await channel.get_queue(exclusive.name)
        assert (await channel.get_queue(queue.name)).message_count == 0

    async def test_a_queue_without_a_name_gets_one(self, channel: Channel) -> None:
        queue = await channel.declare_queue(exclusive=True)
        assert queue.name.startswith("amq.gen-")
        await channel.publish(Message(b"x"), queue.name)
        assert await queue.purge() == 1


class TestPublish:
    async def test_names_from_an_enumeration(self, channel: Channel, name: str) -> None:
        names = StrEnum("names", {"EXCHANGE": f"{name}.exchange", "QUEUE": name, "KEY": "key"})
        exchange = await channel.declare_exchange(names.EXCHANGE, auto_delete=True)
        queue = await channel.declare_queue(names.QUEUE, exclusive=True)
        await queue.bind(exchange, names.KEY)
        await exchange.publish(Message(b"", headers={"n": names.KEY}), names.KEY)
        message = await queue.get()
        assert (message.exchange, message.routing_key) == (f"{name}.exchange", "key")

    async def test_many_tasks_share_a_channel_and_each_keeps_its_order(
        self, channel: Channel, queue: Queue
    ) -> None:
        async def publish(publisher: int) -> None:
            for number in range(100):
                await channel.publish(Message(b"%d %d" % (publisher, number)), queue.name)

        await asyncio.gather(*(publish(publisher) for publisher in range(20)))
        assert (await channel.get_queue(queue.name)).message_count == 2000
        seen: dict[int, int] = {}
        async with asyncio.timeout(PATIENCE_S), queue.iterator() as messages:
            for _ in range(2000):
                message = await anext(messages)
                publisher, number = map(int, message.body.split())
                assert number == seen.get(publisher, -1) + 1
                seen[publisher] = number
                await message.ack()
        assert (await channel.get_queue(queue.name)).message_count == 0

    async def test_a_full_queue_refuses(self, channel: Channel, name: str) -> None:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(name, arguments=arguments)
        await channel.publish(Message(b"1"), name)
        with pytest.raises(Nacked):
            await channel.publish(Message(b"2"), name)
        assert await queue.delete() == 1

    async def test_a_message_that_makes_no_sense_is_refused_alone(
        self, channel: Channel, queue: Queue
    ) -> None:
        with pytest.raises(PreconditionFailed, match="user_id property set to 'eve'"):
            await channel.publish(Message(b"", user_id="eve"), queue.name)
        await channel.publish(Message(b"", user_id="guest"), queue.name)

    async def test_a_large_message_arrives_whole(self, channel: Channel, queue: Queue) -> None:
        body = bytes(range(256)) * 20_000
        await channel.publish(Message(body, headers={"k": "v" * 100_000}), queue.name)
        message = await next_of(queue)
        assert message.body == body
        assert len(str(message.headers["k"])) == 100_000

    async def test_a_message_over_the_brokers_limit_is_refused_here(self, connection: Connection) -> None:
        channel = await connection.channel()
        with pytest.raises(ValueError, match="the broker takes up to"):
            await channel.publish(Message(bytes(connection.message_max_bytes + 1)), "q")


class TestTransaction:
    async def test_results_and_acks_over_two_queues_are_one_change(
        self, connection: Connection, queue: Queue, name: str
    ) -> None:
        channel = await connection.channel(publisher_confirms=False)
        results = await channel.declare_queue(f"{name}-results", durable=True)
        await channel.publish(Message(b"job"), queue.name)
        job = await (await channel.get_queue(queue.name)).get()
        assert job is not None

        async def spoiled() -> None:
            async with job.process(ignore_processed=True, requeue=True), channel.transaction():
                await channel.publish(Message(b"result"), results.name)
                await channel.publish(Message(b"result"), "", exchange="missing")
                await job.ack()

        with pytest.raises(NotFound, match="no exchange 'missing'"):
            await spoiled()
        assert (await channel.get_queue(results.name)).message_count == 0
        again = await (await channel.get_queue(queue.name)).get()
        assert again is not None
        async with channel.transaction():
            await channel.publish(Message(b"result"), results.name)
            await again.ack()
        assert (await channel.get_queue(results.name)).message_count == 1
        await channel.close()
        assert await queue.delete() == 0
        await (await connection.channel()).queue_delete(results.name)

    async def test_what_cannot_arrive_undoes_all_of_it(
        self, connection: Connection, queue: Queue, name: str
    ) -> None:
        channel = await connection.channel(publisher_confirms=False)
        full = await channel.declare_queue(
            f"{name}-full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await channel.publish(Message(b"job"), queue.name)
        job = await (await channel.get_queue(queue.name)).get()
        assert job is not None
        results = [Message(b"%d" % number) for number in range(4)]

        async def work() -> None:
            async with channel.transaction():
                for result, routing_key in zip(
                    results, (queue.name, "nowhere", full.name, full.name), strict=True
                ):
                    await channel.publish(result, routing_key)
                await job.ack()

        with pytest.raises(Unroutable, match="nowhere") as caught:
            await work()
        assert caught.value.message is results[1]
        assert [(type(other), other.message) for other in caught.value.others] == [(Nacked, results[3])]
        assert (await channel.get_queue(queue.name)).message_count == 0
        assert await full.delete() == 0
        async with channel.transaction():
            await job.ack()
        await channel.close()
        assert await queue.delete() == 0

    async def test_what_was_committed_survives_kill_9_and_what_was_not_does_not(self, daemon: Daemon) -> None:
        async with leveret.connect(daemon.leveret_url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            for queue in ("a", "b"):
                await channel.declare_queue(queue, durable=True)
            async with channel.transaction():
                await channel.publish(Message(b"whole"), "a")
                await channel.publish(Message(b"whole"), "b")

            async def interrupted() -> None:
                async with channel.transaction():
                    await channel.publish(Message(b"never"), "a")
                    await channel.get_queue("b")  # its reply says that the publish has arrived, too
                    daemon.kill()

            with pytest.raises(ConnectionLost):
                await interrupted()
        daemon.start()
        async with leveret.connect(daemon.leveret_url) as connection, await connection.channel() as channel:
            assert [(await channel.get_queue(queue)).message_count for queue in ("a", "b")] == [1, 1]


class TestAlarm:
    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ("--memory-high-watermark=0", "low on memory"),
            ("--disk-free-limit-bytes=" + "9" * 18, "low on disk"),
        ],
    )
    async def test_publishers_are_told_and_consumers_go_on(
        self, tmp_path: Path, option: str, reason: str
    ) -> None:
        with Daemon(tmp_path / "data", option) as daemon:
            async with (
                leveret.connect(daemon.leveret_url) as publishing,
                leveret.connect(daemon.leveret_url) as consuming,
            ):
                channel = await publishing.channel()
                await channel.declare_queue("q", durable=True)
                assert not publishing.is_blocked
                await channel.publish(Message(b"was read"), "q", timeout_s=PATIENCE_S)
                assert publishing.blocked_reason == reason
                message = Message(b"waits")
                with pytest.raises(Blocked, match=reason) as caught:
                    await channel.publish(message, "q", timeout_s=0.01)
                assert caught.value.message is message
                queue = await (await consuming.channel()).get_queue("q")
                assert (await next_of(queue)).body == b"was read"
                assert not consuming.is_blocked


class TestConsume:
    async def test_what_was_not_acked_comes_again(
        self, connection: Connection, channel: Channel, queue: Queue
    ) -> None:
        await channel.publish(Message(b"x"), queue.name)
        other = await connection.channel()
        first = await (await other.get_queue(queue.name)).get()
        assert first is not None
        assert not first.redelivered
        await other.close()
        assert (await next_of(queue)).redelivered

    async def test_rejected_messages_go_to_the_dead_letter_queue(
        self, channel: Channel, queue: Queue
    ) -> None:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        work = await channel.declare_queue(f"{queue.name}-work", arguments=arguments)
        await channel.publish(Message(b"bad", headers={"n": 1}), work.name)
        message = await work.get()
        assert message is not None
        with pytest.raises(ZeroDivisionError):
            async with message.process():
                raise ZeroDivisionError
        dead = await next_of(queue)
        assert dead.body == b"bad"
        assert dead.headers["n"] == 1
        assert dead.headers["x-first-death-reason"] == "rejected"
        await work.delete()

    async def test_the_prefetch_shares_work_between_consumers(
        self, connection: Connection, queue: Queue
    ) -> None:
        channels = [await connection.channel() for _ in range(2)]
        taken: list[list[bytes]] = [[], []]
        done = asyncio.Event()

        def worker(number: int):  # type: ignore[no-untyped-def]
            async def work(message: IncomingMessage) -> None:
                async with message.process():
                    taken[number].append(message.body)
                    await asyncio.sleep(0)
                    if len(taken[0]) + len(taken[1]) == 40:
                        done.set()

            return work

        for number, channel in enumerate(channels):
            await channel.set_qos(prefetch_count=1)
            await (await channel.get_queue(queue.name)).consume(worker(number))
        await asyncio.gather(*(channels[0].publish(Message(b"%d" % n), queue.name) for n in range(40)))
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        assert all(taken)
        for channel in channels:
            await channel.close()

    async def test_a_deleted_queue_ends_the_loop_with_an_error(
        self, connection: Connection, name: str
    ) -> None:
        channel, other = await connection.channel(), await connection.channel()
        queue = await channel.declare_queue(name)
        async with asyncio.timeout(PATIENCE_S), queue.iterator() as messages:
            await other.queue_delete(name)
            with pytest.raises(ConsumerCancelled):
                await anext(messages)

    async def test_requests_and_replies_without_a_reply_queue(
        self, connection: Connection, queue: Queue
    ) -> None:
        client = await connection.channel()
        replies = await client.get_queue("amq.rabbitmq.reply-to", ensure=False)
        async with asyncio.timeout(PATIENCE_S), replies.iterator(no_ack=True) as answers:
            await client.publish(Message(b"2+3", reply_to=replies.name, correlation_id="1"), queue.name)
            request = await next_of(queue)
            assert request.reply_to is not None
            answer = Message(b"5", correlation_id=request.correlation_id)
            await queue.channel.publish(answer, request.reply_to, mandatory=False)
            got = await anext(answers)
            assert (got.body, got.correlation_id) == (b"5", "1")


class TestBothWires:
    async def test_a_message_reads_the_same_on_the_other_wire(
        self, shared_daemon: Daemon, channel: Channel, queue: Queue
    ) -> None:
        amqp = await aio_pika.connect(shared_daemon.amqp_url)
        async with amqp, amqp.channel() as amqp_channel:
            amqp_queue = await amqp_channel.get_queue(queue.name)
            headers = {"text": "ä", "number": 7, "flag": True, "nested": {"list": [1, "two", None]}}
            await channel.publish(
                Message(b"native", headers=headers, content_type="text/plain", priority=3, expiration=60),
                queue.name,
            )
            received = await amqp_queue.get()
            assert received.body == b"native"
            assert received.headers == headers
            assert (received.content_type, received.priority, received.expiration) == ("text/plain", 3, 60.0)
            assert received.delivery_mode == DeliveryMode.PERSISTENT
            await received.ack()
            await amqp_channel.default_exchange.publish(
                aio_pika.Message(b"amqp", headers=headers, message_id="m", app_id="a"), queue.name
            )
            back = await next_of(queue)
            assert (back.body, back.headers, back.message_id, back.app_id) == (b"amqp", headers, "m", "a")


class TestRestartWithoutReconnecting:
    async def test_what_was_confirmed_survives_kill_9(self, daemon: Daemon) -> None:
        async with leveret.connect(daemon.leveret_url, reconnect=False) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("jobs", durable=True)
            for number in range(50):
                await channel.publish(Message(b"%d" % number), "jobs")
            await channel.publish(Message(b"", delivery_mode=DeliveryMode.NOT_PERSISTENT), "jobs")
            waiting = asyncio.create_task(next_of(await channel.declare_queue("empty")))
            acked = await next_of(queue)
            assert acked.body == b"0"
            daemon.kill()
            with pytest.raises(ConnectionLost):
                await waiting
        daemon.start()
        async with leveret.connect(daemon.leveret_url) as connection, await connection.channel() as channel:
            queue = await channel.get_queue("jobs")
            bodies = [int((await queue.get()).body) for _ in range(queue.message_count)]
            assert bodies in (list(range(50)), list(range(1, 50)))

    async def test_a_clean_stop_says_goodbye(self, daemon: Daemon) -> None:
        connection = await leveret.connect(daemon.leveret_url, reconnect=False)
        channel = await connection.channel()
        stop = asyncio.create_task(asyncio.to_thread(daemon.terminate))
        with pytest.raises(ConnectionLost, match="320 CONNECTION_FORCED"):
            await next_of(await channel.declare_queue("empty"))
        assert await stop == 0
        await connection.close()
