"""`async with channel.transaction()`: which frames it sends, and what it raises."""

from collections.abc import AsyncIterator

import pytest
from fake_native_server import FakeNativeServer

from leveret import (
    Channel,
    ChannelClosed,
    IncomingMessage,
    LeveretError,
    Message,
    Nacked,
    NotFound,
    Unroutable,
)
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

F = FrameType


@pytest.fixture
def server() -> FakeNativeServer:
    return FakeNativeServer(hold_confirms=True)


@pytest.fixture
async def channel(server: FakeNativeServer) -> AsyncIterator[Channel]:
    async with server.connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue("q")
        yield channel


def sent(server: FakeNativeServer) -> list[FrameType]:
    """The frames since the queue was declared."""
    return [FrameType(frame[0]) for frame in server.frames[3:]]


async def a_job(server: FakeNativeServer, channel: Channel) -> IncomingMessage:
    """A message that was taken from the queue; the server overlooks its ack, for it is rolled back."""
    server.silent.add(F.ACK)
    server.queues["q"].append(("", "q", b"\0\0", b"job"))
    message = await channel.get("q")
    assert message is not None
    return message


async def test_what_the_block_does_travels_before_its_commit(
    server: FakeNativeServer, channel: Channel
) -> None:
    async with channel.transaction():
        await channel.publish(Message(b"1"), "q")
        await channel.publish(Message(b"2"), "q")
    async with channel.transaction():
        await channel.publish(Message(b"3"), "q")
    assert sent(server) == [F.TX_SELECT, F.PUBLISH, F.TX_COMMIT, F.PUBLISH, F.TX_COMMIT]


async def test_a_block_that_raises_is_rolled_back(server: FakeNativeServer, channel: Channel) -> None:
    message = await a_job(server, channel)

    async def block() -> None:
        async with channel.transaction():
            await channel.publish(Message(b"1"), "q")
            await message.ack()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    assert not message.is_settled
    await message.nack()
    await channel.request(F.QOS, 1, False)
    assert sent(server)[1:] == [F.TX_SELECT, F.PUBLISH, F.ACK, F.TX_ROLLBACK, F.NACK, F.TX_COMMIT, F.QOS]


async def test_outside_of_blocks_everything_is_committed_at_once(
    server: FakeNativeServer, channel: Channel
) -> None:
    await channel.publish(Message(b"before"), "q")
    async with channel.transaction():
        pass
    await channel.publish(Message(b"between"), "q")
    async with channel.transaction():
        pass
    assert sent(server) == [F.PUBLISH, F.TX_SELECT, F.TX_COMMIT, F.PUBLISH, F.TX_COMMIT, F.TX_COMMIT]
    assert [frame[1] for frame in server.of_type(F.TX_COMMIT)].count(0) == 1


async def test_a_commit_that_the_broker_refuses_raises_and_has_settled_nothing(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.errors[F.TX_COMMIT] = (ReplyCode.NOT_FOUND, "no exchange 'missing' in vhost '/'")
    message = await a_job(server, channel)

    async def block() -> None:
        async with channel.transaction():
            await channel.publish(Message(b"1"), "", exchange="missing")
            await message.ack()

    with pytest.raises(NotFound, match="tx_commit: 404"):
        await block()
    assert not message.is_settled


async def test_an_unroutable_message_is_raised_after_the_commit(
    server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Message(b"lost")

    async def block() -> None:
        async with channel.transaction():
            await channel.publish(Message(b"1"), "q")
            await channel.publish(lost, "nowhere")

    with pytest.raises(Unroutable) as caught:
        await block()
    assert caught.value.message is lost
    assert sent(server)[-1] is F.TX_COMMIT
    assert caplog.text == ""
    async with channel.transaction():
        pass


async def test_what_a_full_queue_refuses_is_raised_after_the_commit(
    server: FakeNativeServer, channel: Channel
) -> None:
    async def block() -> None:
        async with channel.transaction():
            await channel.publish(Message(b"1"), "q")
            server.send(F.REFUSE, channel.number, [1], 506, "RESOURCE_ERROR - a queue refused the message")

    with pytest.raises(Nacked):
        await block()


async def test_there_is_one_at_a_time(channel: Channel) -> None:
    async with channel.transaction():
        with pytest.raises(LeveretError, match="this channel is in a transaction"):
            async with channel.transaction():
                pass


async def test_a_channel_with_confirms_says_which_one_to_open(server: FakeNativeServer) -> None:
    async with server.connect() as connection:
        channel = await connection.channel()
        with pytest.raises(LeveretError, match="publisher_confirms=False"):
            async with channel.transaction():
                pass


async def test_a_channel_that_closes_in_the_block(channel: Channel) -> None:
    with pytest.raises(ChannelClosed):
        async with channel.transaction():
            await channel.close()


async def test_the_blocks_own_error_is_the_one_to_see_on_a_closed_channel(channel: Channel) -> None:
    async def block() -> None:
        async with channel.transaction():
            await channel.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
