"""Connecting, logging in, requests, heartbeats and the end of a connection."""

import asyncio
from collections import deque

import pytest
from fake_native_server import FakeNativeServer

import leveret
from leveret import (
    AuthenticationFailed,
    ChannelClosed,
    ConnectionLost,
    LeveretError,
    Message,
    NotFound,
    PreconditionFailed,
)
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode


class TestConnect:
    async def test_can_be_awaited(self) -> None:
        connection = await FakeNativeServer().connect()
        assert not connection.is_closed
        assert connection.server_properties == {"product": "fake"}
        await connection.close()
        assert connection.is_closed

    async def test_can_be_entered(self) -> None:
        async with FakeNativeServer().connect() as connection:
            assert not connection.is_closed
        assert connection.is_closed

    async def test_says_who_it_is(self) -> None:
        server = FakeNativeServer()
        async with server.connect("leveret://guest:guest@fake/orders", name="worker 1"):
            [hello] = server.of_type(FrameType.HELLO)
            assert hello[6] == "orders"
            assert hello[7]["connection_name"] == "worker 1"
            assert hello[7]["product"] == "leveret"

    async def test_a_wrong_password_is_an_authentication_failure(self) -> None:
        with pytest.raises(AuthenticationFailed, match="Login was refused"):
            await FakeNativeServer(password="other").connect()

    async def test_a_server_that_speaks_something_else_is_named(self) -> None:
        server = FakeNativeServer()
        server.receive = lambda data: server.socket and server.socket.deliver(b"AMQP\0\0\x09\x01")  # type: ignore[method-assign]  # a different server
        with pytest.raises(ConnectionLost, match="speaks AMQP only"):
            await server.connect()

    async def test_a_silent_server_is_given_up(self) -> None:
        server = FakeNativeServer()
        server.receive = lambda data: None  # type: ignore[method-assign]  # it hangs
        with pytest.raises(ConnectionLost, match=r"no answer from fake:5672 within 0\.01 s"):
            await server.connect(timeout_s=0.01)

    async def test_nobody_there_is_a_lost_connection(self) -> None:
        server = FakeNativeServer(refusals=deque([ConnectionRefusedError(111, "Connection refused")]))
        with pytest.raises(ConnectionLost, match=r"cannot connect to fake:5672: .*refused"):
            await server.connect()

    def test_bad_arguments_are_refused_at_once(self) -> None:
        with pytest.raises(ValueError, match="leveret://"):
            leveret.connect("http://host")
        with pytest.raises(ValueError, match="heartbeat_s must be"):
            leveret.connect(heartbeat_s=100_000)

    def test_the_environment_says_where_to_go_when_the_program_does_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LEVERET_URL", "nonsense://host")
        with pytest.raises(ValueError, match="leveret://"):
            leveret.connect()
        leveret.connect("leveret://host")


class TestRequests:
    async def test_many_are_under_way_on_one_channel(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection, await connection.channel() as channel:
            names = [f"q{number}" for number in range(50)]
            queues = await asyncio.gather(*(channel.declare_queue(name) for name in names))
            assert [queue.name for queue in queues] == names

    async def test_an_error_is_raised_and_the_channel_stays_open(self) -> None:
        server = FakeNativeServer(
            errors={FrameType.QUEUE_PURGE: (ReplyCode.NOT_FOUND, "no queue 'q' in vhost '/'")}
        )
        async with server.connect() as connection, await connection.channel() as channel:
            queue = await channel.declare_queue("q")
            with pytest.raises(NotFound) as caught:
                await queue.purge()
            assert caught.value.reply_code == 404
            assert caught.value.reply_text == "NOT_FOUND - no queue 'q' in vhost '/'"
            assert caught.value.operation == "queue_purge"
            assert str(caught.value) == "queue_purge: 404 NOT_FOUND - no queue 'q' in vhost '/'"
            await queue.delete()

    async def test_every_error_is_a_leveret_error(self) -> None:
        server = FakeNativeServer(
            errors={FrameType.QUEUE_DECLARE: (ReplyCode.PRECONDITION_FAILED, "inequivalent")}
        )
        async with server.connect() as connection, await connection.channel() as channel:
            with pytest.raises(LeveretError) as caught:
                await channel.declare_queue("q")
            assert type(caught.value) is PreconditionFailed

    async def test_what_no_broker_would_take_is_not_sent(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection, await connection.channel() as channel:
            with pytest.raises(ValueError, match="queue is 300 octets long"):
                await channel.declare_queue("q" * 300)
            with pytest.raises(ValueError, match="routing_key is 300 octets long"):
                await channel.publish(Message(b""), "q" * 300)
            with pytest.raises(ValueError, match="not a value of a table"):
                await channel.declare_queue("q", arguments={"x": object()})  # type: ignore[dict-item]  # the mistake
            with pytest.raises(ValueError, match="routing_key must be a string, not int"):
                await channel.publish(Message(b""), 5)  # type: ignore[arg-type]  # the mistake
            with pytest.raises(TypeError, match=r"takes a leveret\.Message, not bytes"):
                await channel.publish(b"", "q")  # type: ignore[arg-type]  # the mistake
            assert server.of_type(FrameType.QUEUE_DECLARE) == []
            assert server.of_type(FrameType.PUBLISH) == []
            await channel.declare_queue("q")

    async def test_a_reply_that_nobody_waits_for_any_more_is_dropped(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection, await connection.channel() as channel:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await channel.declare_queue("q")
            await channel.declare_queue("q")


class TestChannels:
    async def test_numbers_are_used_again_once_the_broker_has_closed_them(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection:
            first, second = await connection.channel(), await connection.channel()
            assert (first.number, second.number) == (1, 2)
            await first.close()
            await first.close()
            assert (await connection.channel()).number == 1
            server.silent.add(FrameType.CHANNEL_CLOSE)
            second.abandon()
            assert (await connection.channel()).number == 3

    async def test_can_be_entered_and_are_closed_behind_the_block(self) -> None:
        async with FakeNativeServer().connect() as connection:
            async with connection.channel() as channel:
                assert not channel.is_closed
            assert channel.is_closed

    async def test_who_forgets_to_open_is_told_so(self) -> None:
        connector = FakeNativeServer().connect()
        with pytest.raises(AttributeError, match="channel: not open yet; `await` it"):
            _ = connector.channel
        async with connector as connection:
            with pytest.raises(AttributeError, match="declare_queue: not open yet; `await` it"):
                _ = connection.channel().declare_queue

    async def test_there_are_only_so_many(self) -> None:
        server = FakeNativeServer()
        server.protocol.channel_max = 1
        async with server.connect() as connection:
            await connection.channel()
            with pytest.raises(LeveretError, match="all 1 channels are in use"):
                await connection.channel()

    async def test_a_cancelled_open_is_closed_again(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await connection.channel()
            assert (await connection.channel()).number == 2
            assert [frame[2] for frame in server.of_type(FrameType.CHANNEL_CLOSE)] == [1]

    async def test_a_closed_channel_says_what_to_do(self) -> None:
        async with FakeNativeServer().connect() as connection:
            channel = await connection.channel()
            await channel.close()
            with pytest.raises(ChannelClosed, match=r"open another one with connection\.channel\(\)"):
                await channel.declare_queue("q")
            with pytest.raises(ChannelClosed):
                await channel.publish(Message(b""), "q")

    async def test_a_channel_that_the_broker_closes_raises_why(self) -> None:
        server = FakeNativeServer()
        async with server.connect() as connection:
            channel = await connection.channel()
            server.silent.add(FrameType.QUEUE_PURGE)
            queue = await channel.declare_queue("q")
            server.protocol.fail_channel(1, 406, "PRECONDITION_FAILED - unknown delivery tag 5")
            server.flush()
            with pytest.raises(ChannelClosed, match="406 PRECONDITION_FAILED - unknown delivery tag 5"):
                async for _ in queue:
                    pass
            assert channel.is_closed
            again = await connection.channel()
            assert again.number in (1, 2)


class TestTheEnd:
    async def test_a_broken_connection_raises_in_everything_that_waits(self) -> None:
        server = FakeNativeServer(hold_confirms=True, silent={FrameType.QUEUE_PURGE})
        connection = await server.connect()
        channel = await connection.channel()
        queue = await channel.declare_queue("q")

        async def consume() -> None:
            async for _ in await channel.declare_queue("empty"):
                pass

        waiting = [
            asyncio.create_task(channel.publish(Message(b""), "q")),
            asyncio.create_task(queue.purge()),
            asyncio.create_task(consume()),
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        assert server.socket is not None
        server.socket.lose()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
        assert "the connection broke" in str(outcomes[0])
        with pytest.raises(ConnectionLost, match="the connection broke"):
            await connection.channel()
        with pytest.raises(ConnectionLost, match="the connection broke"):
            await channel.publish(Message(b""), "q")
        await connection.close()

    async def test_the_broker_says_why_it_closes(self) -> None:
        server = FakeNativeServer()
        connection = await server.connect()
        channel = await connection.channel()
        purge = asyncio.create_task(channel.declare_queue("q"))
        server.silent.add(FrameType.QUEUE_DECLARE)
        await asyncio.sleep(0)
        server.protocol.close(320, "CONNECTION_FORCED - shutdown")
        server.flush()
        with pytest.raises(ConnectionLost, match="320 CONNECTION_FORCED - shutdown"):
            await purge
        assert server.of_type(FrameType.CLOSED)

    async def test_closing_says_goodbye_after_what_was_sent_before(self) -> None:
        server = FakeNativeServer()
        connection = await server.connect()
        channel = await connection.channel(publisher_confirms=False)
        await channel.publish(Message(b""), "q", mandatory=False)
        await connection.close()
        assert [FrameType(frame[0]).name for frame in server.frames[-2:]] == ["PUBLISH", "CLOSE"]
        await connection.close()

    async def test_a_broker_that_breaks_the_protocol_is_left(self) -> None:
        server = FakeNativeServer()
        connection = await server.connect()
        channel = await connection.channel()
        assert server.socket is not None
        server.socket.deliver(b"\xff" * 8)
        with pytest.raises(ConnectionLost, match="the connection failed: a frame of 4294967295 octets"):
            await channel.declare_queue("q")


class TestHeartbeats:
    async def test_a_silent_broker_is_given_up(self) -> None:
        connection = await FakeNativeServer().connect(heartbeat_s=0)
        protocol, transport = connection.link.protocol, connection.link.transport
        protocol.heartbeat_s = 4
        protocol.tick = lambda now_s: False  # type: ignore[method-assign]  # the protocol's tests say when
        transport._tick()
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(ConnectionLost, match="nothing was heard from the broker for 4 s"):
            await connection.channel()

    async def test_a_program_that_was_held_up_itself_reads_first_what_has_come_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = FakeNativeServer(heartbeat_s=10)
        async with server.connect(heartbeat_s=10) as connection:
            transport, loop = connection.link.transport, asyncio.get_running_loop()
            began_s = loop.time()

            def tick_at(seconds: float) -> None:
                with monkeypatch.context() as patch:
                    patch.setattr(loop, "time", lambda: began_s + seconds)
                    transport._tick()

            tick_at(2.5)
            tick_at(100)  # some handler blocked the loop for so long
            assert connection.is_connected
            for late in (102.5, 105, 107.5):
                tick_at(late)
                assert connection.is_connected
            tick_at(110)  # and now nothing has come for 10 s in which we looked
            assert not connection.is_connected
