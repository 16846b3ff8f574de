"""Wrong use says what to do: mistakes that people make, against a real broker, and what they read then."""

import asyncio
import gc
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from daemon import Daemon

import leveret
from leveret import Channel, Connection, IncomingMessage, Message, Queue

_numbers = count(1)


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_wrong_use") as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queue(channel: Channel) -> Queue:
    return await channel.declare_queue(f"wrong-{next(_numbers)}", exclusive=True)


@pytest.fixture
async def message(channel: Channel, queue: Queue) -> IncomingMessage:
    """One that waits to be settled."""
    await channel.publish(Message(b"x"), queue.name)
    message = await queue.get()
    assert message is not None
    return message


def in_another_loop(use: Callable[[], Awaitable[object]]) -> None:
    """What happens to those who start a second loop in a thread."""

    async def main() -> None:
        await use()

    asyncio.run(main())


class TestClosed:
    async def test_publishing_on_a_closed_channel(self, channel: Channel, queue: Queue) -> None:
        await channel.close()
        with pytest.raises(leveret.ChannelClosed, match=r"open another one with connection\.channel\(\)"):
            await channel.publish(Message(b""), queue.name)

    async def test_acking_on_a_closed_channel(self, channel: Channel, message: IncomingMessage) -> None:
        await channel.close()
        with pytest.raises(leveret.ChannelClosed, match=r"open another one with connection\.channel\(\)"):
            await message.ack()

    async def test_using_a_closed_connection(self, connection: Connection, channel: Channel) -> None:
        await connection.close()
        for use in (connection.channel, channel.declare_queue, lambda: channel.publish(Message(b""), "q")):
            with pytest.raises(
                leveret.ConnectionLost, match=r"closed; open another one with leveret\.connect"
            ):
                await use()


class TestSettling:
    async def test_acking_twice(self, message: IncomingMessage) -> None:
        await message.ack()
        with pytest.raises(leveret.AlreadySettled, match=r"it was acked before; look at message\.is_settled"):
            await message.ack()

    async def test_acking_in_a_block_that_acks(self, message: IncomingMessage) -> None:
        with pytest.raises(leveret.AlreadySettled, match="acked"):
            async with message.process():
                await message.ack()

    async def test_acking_what_came_with_no_ack(self, channel: Channel, queue: Queue) -> None:
        await channel.publish(Message(b""), queue.name)
        message = await queue.get(no_ack=True)
        assert message is not None
        with pytest.raises(leveret.AlreadySettled, match="no_ack"):
            await message.reject()


class TestLoops:
    async def test_publishing_in_another_loop(self, channel: Channel, queue: Queue) -> None:
        with pytest.raises(leveret.WrongLoop, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(in_another_loop, lambda: channel.publish(Message(b""), queue.name))

    async def test_declaring_in_another_loop(self, channel: Channel) -> None:
        with pytest.raises(leveret.WrongLoop, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(in_another_loop, lambda: channel.declare_queue("q"))

    async def test_opening_a_channel_in_another_loop(self, connection: Connection) -> None:
        with pytest.raises(leveret.WrongLoop, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(in_another_loop, connection.channel)

    async def test_acking_in_another_loop(self, message: IncomingMessage) -> None:
        with pytest.raises(leveret.WrongLoop, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(in_another_loop, message.ack)

    def test_connecting_without_a_loop(self, shared_daemon: Daemon) -> None:
        with pytest.raises(AttributeError, match="`await` it"):
            leveret.connect(shared_daemon.leveret_url).channel()  # type: ignore[attr-defined]  # the mistake


class TestForgottenAwait:
    async def test_of_connect(self, shared_daemon: Daemon) -> None:
        connection = leveret.connect(shared_daemon.leveret_url)
        with pytest.raises(AttributeError, match="not open yet; `await` it, or enter it with `async with`"):
            await connection.channel()  # type: ignore[attr-defined]  # the mistake

    async def test_of_a_channel(self, connection: Connection) -> None:
        channel = connection.channel()
        with pytest.raises(AttributeError, match="not open yet; `await` it, or enter it with `async with`"):
            await channel.declare_queue("q")  # type: ignore[attr-defined]  # the mistake

    async def test_of_publish(self, channel: Channel, queue: Queue) -> None:
        with pytest.warns(RuntimeWarning, match=r"'Channel\.publish' was never awaited"):
            channel.publish(Message(b""), queue.name)  # type: ignore[unused-coroutine]  # the mistake

    async def test_of_ack_is_no_mistake(self, message: IncomingMessage, queue: Queue) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            message.ack()
            gc.collect()
        assert message.is_settled
        assert (await queue.channel.declare_queue(queue.name, passive=True)).message_count == 0


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "advice"),
        [
            ("levert://127.0.0.1", "did you mean leveret://"),
            ("amqp://127.0.0.1", "write leveret://"),
            ("127.0.0.1:5672", "leveret://user:password@host:5672/vhost"),
            ("leveret://127.0.0.1:amqp/", "port must be a number from 1 to 65535"),
            ("leveret:///vhost", "names no host"),
            ("leveret://127.0.0.1/a/b", "write a slash in a vhost name as %2F"),
            ("leveret://127.0.0.1/?heartbeat=5", "did you mean 'heartbeat_s'"),
            ("leveret://127.0.0.1/?heartbeat_s=often", "must be a whole number of seconds"),
            ("leveret://127.0.0.1/?reconnect=maybe", "must be yes or no"),
        ],
    )
    def test_a_typo(self, url: str, advice: str) -> None:
        with pytest.raises(ValueError, match=re.escape(advice)):
            leveret.connect(url)

    async def test_a_vhost_that_is_not_there(self, shared_daemon: Daemon) -> None:
        with pytest.raises(leveret.NotAllowed, match="vhost shop not found"):
            await leveret.connect(f"leveret://127.0.0.1:{shared_daemon.port}/shop")

    async def test_a_wrong_password(self, shared_daemon: Daemon) -> None:
        with pytest.raises(leveret.AuthenticationFailed, match=r"127\.0\.0\.1:\d+ .*'ann'") as refused:
            await leveret.connect(f"leveret://ann:secret@127.0.0.1:{shared_daemon.port}/")
        assert "secret" not in str(refused.value)

    async def test_tls_where_there_is_none(self, shared_daemon: Daemon) -> None:
        with pytest.raises(leveret.ConnectionLost, match="without TLS the URL begins with leveret://"):
            await leveret.connect(f"leverets://127.0.0.1:{shared_daemon.port}/")

    async def test_a_port_where_nobody_listens(self) -> None:
        with pytest.raises(leveret.ConnectionLost, match=r"cannot connect to 127\.0\.0\.1:1"):
            await leveret.connect("leveret://127.0.0.1:1/")


class TestArguments:
    @pytest.mark.parametrize(
        ("wrong", "advice"),
        [
            ({"reconnect": "no"}, "reconnect is True, False or a leveret.Reconnect, not str"),
            ({"heartbeat_s": "60"}, "heartbeat_s must be a whole number, not str"),
            ({"timeout_s": "5"}, "timeout_s must be a number of seconds, not str"),
        ],
    )
    def test_connecting_with_texts(self, wrong: dict[str, Any], advice: str) -> None:
        with pytest.raises(TypeError, match=re.escape(advice)):
            leveret.connect("leveret://127.0.0.1", **wrong)

    def test_connecting_with_no_time_at_all(self) -> None:
        with pytest.raises(ValueError, match="timeout_s must be above 0, not 0"):
            leveret.connect("leveret://127.0.0.1", timeout_s=0)

    async def test_publishing_what_is_no_message(self, channel: Channel, queue: Queue) -> None:
        with pytest.raises(TypeError, match=r"publish takes a leveret\.Message, not bytes"):
            await channel.publish(b"body", queue.name)  # type: ignore[arg-type]  # the mistake

    @pytest.mark.parametrize("nothing", [None, 5])
    async def test_an_exchange_that_is_none(self, channel: Channel, queue: Queue, nothing: Any) -> None:
        exchange = channel.default_exchange
        advice = f"declare_exchange returns, or its name, not {type(nothing).__name__}"
        for use in (queue.bind, queue.unbind, exchange.bind, exchange.unbind):
            with pytest.raises(TypeError, match=advice):
                await use(nothing)
        with pytest.raises(TypeError, match=advice):
            await channel.publish(Message(b""), queue, exchange=nothing)

    async def test_an_exchange_as_a_routing_key(self, channel: Channel) -> None:
        with pytest.raises(ValueError, match="routing_key must be a string, not Exchange"):
            await channel.publish(Message(b""), channel.default_exchange)  # type: ignore[arg-type]  # the mistake

    def test_a_text_as_a_body(self) -> None:
        with pytest.raises(TypeError, match=r"Message\.text"):
            Message("text")  # type: ignore[arg-type]  # the mistake

    async def test_a_body_that_is_too_long(self, connection: Connection, channel: Channel) -> None:
        with pytest.raises(ValueError, match="the broker takes up to"):
            await channel.publish(Message(bytes(connection.message_max_bytes + 1)), "q")

    async def test_a_prefetch_without_an_end(self, channel: Channel) -> None:
        with pytest.raises(ValueError, match="prefetch_count must be 1 to 65535"):
            await channel.set_qos(prefetch_count=0)

    async def test_numbers_that_are_texts(self, channel: Channel, queue: Queue) -> None:
        with pytest.raises(TypeError, match="prefetch_count must be a whole number, not str"):
            await channel.set_qos("10")  # type: ignore[arg-type]  # the mistake
        with pytest.raises(TypeError, match="concurrency must be a whole number, not str"):
            channel.handler(queue, concurrency="10")(print)  # type: ignore[arg-type]  # the mistake

    async def test_a_handler_without_its_queue(self, channel: Channel) -> None:
        with pytest.raises(TypeError, match=r'a queue or its name, as in @channel\.handler\("orders"\)'):

            @channel.handler  # type: ignore[arg-type]  # the mistake
            async def handle(message: IncomingMessage) -> None: ...

    async def test_a_queue_that_is_not_there(self, channel: Channel) -> None:
        with pytest.raises(leveret.NotFound, match="no queue 'ordres' in vhost '/'"):
            await channel.get_queue("ordres")

    async def test_publishing_to_a_queue_that_is_not_there(self, channel: Channel) -> None:
        with pytest.raises(leveret.Unroutable, match="there is no queue 'ordres': declare it first"):
            await channel.publish(Message(b""), "ordres")

    async def test_a_routing_key_that_nobody_bound(self, channel: Channel) -> None:
        with pytest.raises(leveret.Unroutable, match="publish with mandatory=False when that is no error"):
            await channel.publish(Message(b""), "ordres", exchange="amq.direct")

    async def test_a_transaction_on_a_channel_with_confirms(self, channel: Channel) -> None:
        with pytest.raises(leveret.LeveretError, match=r"connection\.channel\(publisher_confirms=False\)"):
            async with channel.transaction():
                pass
