"""What a publisher sees while the broker is short of memory or disk."""

import asyncio

import pytest
from fake_native_server import FakeNativeServer

from leveret import Blocked, Connection, ConnectionLost, LeveretError, Message, PublishTimeout
from leveret.protocol.native.layouts import FrameType

PATIENCE_S = 5.0


async def turns(count: int = 5) -> None:
    """Let the loop run until everything that is on its way has arrived."""
    for _ in range(count):
        await asyncio.sleep(0)


async def blocked(server: FakeNativeServer) -> Connection:
    """A connection that the broker has blocked."""
    connection = await server.connect()
    server.send(FrameType.BLOCKED, "low on disk")
    await turns()
    return connection


async def test_a_connection_knows_that_and_why() -> None:
    server = FakeNativeServer()
    connection = await blocked(server)
    assert (connection.is_blocked, connection.blocked_reason) == (True, "low on disk")
    server.send(FrameType.UNBLOCKED)
    await turns()
    assert (connection.is_blocked, connection.blocked_reason) == (False, None)


async def test_publishes_wait_here_and_go_on_afterwards() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        server.send(FrameType.BLOCKED, "low on memory")
        await turns()
        publishes = [asyncio.create_task(channel.publish(Message(b"%d" % n), "q")) for n in range(3)]
        await turns()
        assert server.of_type(FrameType.PUBLISH) == []
        server.send(FrameType.UNBLOCKED)
        await asyncio.gather(*publishes)
        assert [body for _, _, _, body in server.queues["q"]] == [b"0", b"1", b"2"]


async def test_a_publish_that_cannot_be_sent_in_time_raises_with_its_message() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        server.send(FrameType.BLOCKED, "low on disk")
        await turns()
        message = Message(b"x")
        with pytest.raises(Blocked, match=r"no confirm within 0 s: the broker is low on disk") as caught:
            await channel.publish(message, "q", timeout_s=0)
        assert caught.value.message is message
        assert caught.value.reason == "low on disk"
        assert isinstance(caught.value, LeveretError)
        assert isinstance(caught.value, TimeoutError)
        assert not caught.value.was_sent
        server.send(FrameType.UNBLOCKED)
        await turns()
        assert server.of_type(FrameType.PUBLISH) == []


async def test_one_that_was_sent_and_is_not_confirmed_in_time_raises_the_same() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publish = asyncio.create_task(channel.default_exchange.publish(Message(b"x"), "q", timeout_s=0.01))
        await turns()
        server.send(FrameType.BLOCKED, "low on disk")
        with pytest.raises(Blocked):
            await publish
        assert len(server.of_type(FrameType.PUBLISH)) == 1


async def test_without_an_alarm_it_is_a_timeout_that_says_whether_it_was_sent() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        with pytest.raises(TimeoutError, match=r"no confirm within 0\.01 s") as caught:
            await channel.publish(Message(b"x"), "q", timeout_s=0.01)
        assert type(caught.value) is PublishTimeout
        assert caught.value.message.body == b"x"
        assert caught.value.was_sent


async def test_the_end_of_the_connection_ends_the_wait() -> None:
    server = FakeNativeServer()
    connection = await blocked(server)
    channel = await connection.channel()
    publish = asyncio.create_task(channel.publish(Message(b"x"), "q"))
    await turns()
    assert server.socket is not None
    server.socket.lose()
    with pytest.raises(ConnectionLost):
        await publish
    assert not connection.is_blocked


async def test_closing_waits_for_no_answer_that_the_broker_cannot_give() -> None:
    server = FakeNativeServer()
    connection = await server.connect()
    channel = await connection.channel()
    queue = await channel.declare_queue("q")
    async with asyncio.timeout(PATIENCE_S):
        async with queue.iterator():
            server.silent |= {FrameType.CANCEL, FrameType.CHANNEL_CLOSE}
            server.send(FrameType.BLOCKED, "low on memory")
            await turns()
        closing = asyncio.create_task(channel.close())
        await closing
        server.receive = lambda data: None  # type: ignore[method-assign]  # it reads nothing
        await connection.close()
    assert connection.is_closed


async def test_a_block_that_comes_while_an_answer_is_waited_for_ends_the_wait() -> None:
    server = FakeNativeServer(silent={FrameType.CHANNEL_CLOSE})
    async with server.connect() as connection:
        channel = await connection.channel()
        closing = asyncio.create_task(channel.close())
        await turns()
        assert not closing.done()
        server.send(FrameType.BLOCKED, "low on memory")
        async with asyncio.timeout(PATIENCE_S):
            await closing
