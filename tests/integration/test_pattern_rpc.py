"""RPC, against the real broker: every way in which a call can end, and other people's clients and servers."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import aio_pika
import pika
import pytest
from daemon import Daemon
from polling import PATIENCE_S, until

import leveret
from leveret import Channel, Connection, IncomingMessage, Message, Reconnect, Unroutable
from leveret.patterns.rpc import (
    ERROR_TEXT_MAX,
    SERVER_LOST,
    CallLost,
    CallTimeout,
    RemoteError,
    RpcClient,
    RpcServer,
)

WORKER = Path(__file__).parents[1] / "support" / "pattern_workers.py"
SOON = Reconnect(max_delay_s=0.1)
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"rpc-{next(_numbers)}"


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_pattern_rpc") as connection:
        yield connection


@pytest.fixture
async def client(connection: Connection) -> AsyncIterator[RpcClient]:
    async with RpcClient(connection) as client:
        yield client


@pytest.fixture
async def queue(connection: Connection, name: str) -> AsyncIterator[str]:
    """Where requests go; gone after the test."""
    yield name
    async with connection.channel() as channel:
        await channel.queue_delete(name)


async def double(request: IncomingMessage) -> bytes:
    return request.body * 2


async def until_empty(channel: Channel, queue: str) -> None:
    async def is_empty() -> bool:
        return (await channel.get_queue(queue)).message_count == 0

    await until(is_empty, f"{queue} is empty")


class TestCalls:
    async def test_a_reply(self, connection: Connection, client: RpcClient, queue: str) -> None:
        async with RpcServer(connection, queue, double):
            assert (await client.call(queue, b"ab")).body == b"abab"

    async def test_a_def_runs_in_a_thread(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        two = threading.Barrier(2)

        def meet(request: IncomingMessage) -> bytes:
            two.wait(PATIENCE_S)
            return request.body * 2

        async with RpcServer(connection, queue, meet):
            replies = await asyncio.gather(client.call(queue, b"a"), client.call(queue, b"b"))
        assert [reply.body for reply in replies] == [b"aa", b"bb"]

    async def test_many_at_once_get_their_own_replies_in_any_order(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        last_one_first: list[asyncio.Event] = [asyncio.Event() for _ in range(51)]
        last_one_first[50].set()

        async def backwards(request: IncomingMessage) -> bytes:
            number = int(request.body)
            await last_one_first[number + 1].wait()
            last_one_first[number].set()
            return b"reply to %d" % number

        async with RpcServer(connection, queue, backwards, concurrency=50):
            replies = await asyncio.gather(*(client.call(queue, b"%d" % number) for number in range(50)))
        assert [reply.body for reply in replies] == [b"reply to %d" % number for number in range(50)]

    async def test_headers_go_there_and_properties_come_back(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        async def describe(request: IncomingMessage) -> Message:
            body = f"{request.headers['tenant']} {request.content_type}".encode()
            return Message(body, content_type="text/plain", headers={"x": 1})

        async with RpcServer(connection, queue, describe):
            reply = await client.call(
                queue, b"", headers={"tenant": "t1"}, content_type="application/octet-stream"
            )
        assert (reply.body, reply.content_type) == (b"t1 application/octet-stream", "text/plain")
        assert reply.headers == {"x": 1}

    async def test_through_an_exchange(self, connection: Connection, client: RpcClient, queue: str) -> None:
        async with connection.channel() as channel, RpcServer(connection, queue, double):
            exchange = await channel.declare_exchange(f"{queue}-exchange", "topic", auto_delete=True)
            await (await channel.get_queue(queue)).bind(exchange, "double.*")
            assert (await client.call("double.it", b"x", exchange=exchange.name)).body == b"xx"


class TestErrors:
    async def test_what_the_procedure_raises_comes_back(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        class NoSuchCustomer(Exception):
            pass

        async def fail(request: IncomingMessage) -> bytes:
            if request.body:
                raise NoSuchCustomer("y" * 2 * ERROR_TEXT_MAX)
            raise KeyError("customer")

        async with RpcServer(connection, queue, fail):
            with pytest.raises(RemoteError, match=r"KeyError: 'customer'") as raised:
                await client.call(queue, b"")
            assert (raised.value.type, raised.value.text) == ("KeyError", "'customer'")
            with pytest.raises(RemoteError) as raised:
                await client.call(queue, b"long")
            assert raised.value.type.endswith("NoSuchCustomer")
            assert len(raised.value.text) == ERROR_TEXT_MAX

    async def test_a_reply_that_cannot_be_sent_is_an_error(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        async def too_large(request: IncomingMessage) -> Any:
            return bytes(connection.message_max_bytes + 1) if request.body else "no bytes"

        async with RpcServer(connection, queue, too_large):
            with pytest.raises(RemoteError, match="ValueError: the body has"):
                await client.call(queue, b"x")
            with pytest.raises(RemoteError, match="TypeError"):
                await client.call(queue, b"")

    async def test_no_such_procedure_is_known_at_once(self, client: RpcClient, name: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Unroutable):
                await client.call(name, b"", timeout_s=1000)

    async def test_a_client_that_is_closed_ends_its_calls(self, connection: Connection, queue: str) -> None:
        begun = asyncio.Event()

        async def hang(request: IncomingMessage) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            return b""

        async with RpcServer(connection, queue, hang, grace_s=0):
            client = RpcClient(connection)
            call = asyncio.create_task(client.call(queue, b""))
            await begun.wait()
            await client.close()
            with pytest.raises(CallLost, match="closed"):
                await call


class TestTime:
    async def test_no_reply_in_time_and_nobody_works_for_it_afterwards(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        asked: list[bytes] = []

        async def note(request: IncomingMessage) -> bytes:
            asked.append(request.body)
            return b""

        async with connection.channel() as channel:
            await channel.declare_queue(queue)
            with pytest.raises(CallTimeout, match=r"no reply within 0\.05 s"):
                await client.call(queue, b"nobody there", timeout_s=0.05)
            await until_empty(channel, queue)  # the request left a moment after the call had begun
        async with RpcServer(connection, queue, note):
            await client.call(queue, b"somebody there")
        assert asked == [b"somebody there"]

    async def test_a_procedure_is_stopped_when_its_caller_has_gone(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        stopped = asyncio.Event()

        async def hang(request: IncomingMessage) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return b""

        async with RpcServer(connection, queue, hang):
            with pytest.raises(CallTimeout):
                await client.call(queue, b"", timeout_s=0.05)
            async with asyncio.timeout(PATIENCE_S):
                await stopped.wait()

    async def test_a_late_reply_disturbs_nobody(
        self, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        replied = asyncio.Event()

        async def late(request: IncomingMessage) -> bytes:
            if request.body == b"late":
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.Event().wait()  # goes on although it was stopped
                replied.set()
            return request.body

        async with RpcServer(connection, queue, late):
            with pytest.raises(CallTimeout):
                await client.call(queue, b"late", timeout_s=0.05)
            await replied.wait()
            assert (await client.call(queue, b"next")).body == b"next"


class TestLosses:
    async def test_a_caller_who_has_gone_is_no_trouble_for_the_server(
        self, shared_daemon: Daemon, connection: Connection, client: RpcClient, queue: str
    ) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait(request: IncomingMessage) -> bytes:
            begun.set()
            await go_on.wait()
            return b"done"

        async with RpcServer(connection, queue, wait):
            async with leveret.connect(shared_daemon.leveret_url) as other, RpcClient(other) as leaving:
                call = asyncio.create_task(leaving.call(queue, b""))
                await begun.wait()
                call.cancel()
            go_on.set()
            assert (await client.call(queue, b"")).body == b"done"

    @pytest.mark.parametrize("rerun", [True, False])
    async def test_a_server_that_is_killed(
        self, shared_daemon: Daemon, connection: Connection, client: RpcClient, queue: str, rerun: bool
    ) -> None:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, WORKER, "serve", shared_daemon.leveret_url, queue), stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert await server.stdout.readline() == b"ready\n"
                call = asyncio.create_task(client.call(queue, b"ab"))
                assert await server.stdout.readline() == b"asked\n"
        finally:
            server.kill()
            await server.communicate()
        async with RpcServer(connection, queue, double, rerun=rerun):
            if rerun:
                assert (await call).body == b"abab"
                return
            with pytest.raises(RemoteError) as raised:
                await call
            assert raised.value.type == SERVER_LOST

    async def test_the_broker_is_killed_under_a_call(self, daemon: Daemon) -> None:
        """The call is lost at once; the next one waits until the broker is back, and works."""
        begun = asyncio.Event()

        async def hang(request: IncomingMessage) -> bytes:
            begun.set()
            if request.body == b"hang":
                await asyncio.Event().wait()
            return b"done"

        async with (
            leveret.connect(daemon.leveret_url, reconnect=SOON) as connection,
            leveret.connect(daemon.leveret_url, reconnect=SOON) as serving,
            RpcClient(connection) as client,
            RpcServer(serving, "calls", hang, grace_s=0),
        ):
            call = asyncio.create_task(client.call("calls", b"hang", timeout_s=1000))
            await begun.wait()
            daemon.kill()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(CallLost):
                    await call
                await asyncio.to_thread(daemon.start)
                await serving.wait_connected()
                assert (await client.call("calls", b"again")).body == b"done"


class TestOtherPeople:
    async def test_our_client_and_the_server_of_the_tutorial(
        self, shared_daemon: Daemon, client: RpcClient, queue: str
    ) -> None:
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        parameters = pika.URLParameters(shared_daemon.amqp_url)

        def serve() -> None:
            connection = pika.BlockingConnection(parameters)
            channel = connection.channel()
            channel.queue_declare(queue=queue)

            def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
                channel.basic_publish(
                    exchange="",
                    routing_key=properties.reply_to,
                    properties=pika.BasicProperties(correlation_id=properties.correlation_id),
                    body=body * 2,
                )
                channel.basic_ack(delivery_tag=method.delivery_tag)
                if body == b"last":
                    channel.stop_consuming()

            channel.basic_qos(prefetch_count=1)
            channel.basic_consume(queue=queue, on_message_callback=on_request)
            loop.call_soon_threadsafe(ready.set)
            channel.start_consuming()
            connection.close()

        serving = asyncio.create_task(asyncio.to_thread(serve))
        await ready.wait()
        bodies = [b"%d" % number for number in range(10)]
        replies = await asyncio.gather(*(client.call(queue, body) for body in bodies))
        assert [reply.body for reply in replies] == [body * 2 for body in bodies]
        assert (await client.call(queue, b"last")).body == b"lastlast"
        await serving

    @pytest.mark.parametrize("reply_to", ["", "amq.rabbitmq.reply-to"])
    async def test_the_client_of_the_tutorial_and_our_server(
        self, shared_daemon: Daemon, connection: Connection, queue: str, reply_to: str
    ) -> None:
        """With a reply queue of its own, as the tutorial has it, and with direct reply-to."""

        def call() -> tuple[str, bytes]:
            connection = pika.BlockingConnection(pika.URLParameters(shared_daemon.amqp_url))
            channel = connection.channel()
            replies = reply_to or channel.queue_declare(queue="", exclusive=True).method.queue
            found: list[tuple[str, bytes]] = []
            channel.basic_consume(
                queue=replies,
                on_message_callback=lambda _, __, properties, body: found.append(
                    (properties.correlation_id, body)
                ),
                auto_ack=True,
            )
            channel.basic_publish(
                exchange="",
                routing_key=queue,
                properties=pika.BasicProperties(reply_to=replies, correlation_id="one"),
                body=b"ab",
            )
            while not found:
                connection.process_data_events(time_limit=PATIENCE_S)
            connection.close()
            return found[0]

        async with RpcServer(connection, queue, double):
            assert await asyncio.to_thread(call) == ("one", b"abab")

    async def test_waiting_for_a_server_that_was_not_started(
        self, connection: Connection, queue: str
    ) -> None:
        with pytest.raises(leveret.LeveretError, match="async with RpcServer"):
            await RpcServer(connection, queue, pytest.fail).wait()

    async def test_a_request_without_a_return_address(
        self, shared_daemon: Daemon, connection: Connection, queue: str
    ) -> None:
        asked = asyncio.Event()

        async def note(request: IncomingMessage) -> bytes:
            asked.set()
            return b"to nobody"

        async with RpcServer(connection, queue, note), connection.channel() as channel:
            other = await aio_pika.connect(shared_daemon.amqp_url)
            async with other:
                theirs = await other.channel()
                await theirs.default_exchange.publish(aio_pika.Message(b"just do it"), queue)
            await asked.wait()
            await until_empty(channel, queue)
