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


@pytest.mark.parametrize(
    ("exchange", "text"),
    [("missing", "publish: 404 NOT_FOUND - no exchange"), ("", "tx_commit: 404 NOT_FOUND")],
)
async def test_a_commit_that_the_broker_refuses_raises_and_has_settled_nothing(
    server: FakeNativeServer, channel: Channel, exchange: str, text: str
) -> None:
    server.errors[F.TX_COMMIT] = (ReplyCode.NOT_FOUND, "no exchange 'missing' in vhost '/'")
    message = await a_job(server, channel)
    refused = Message(b"1")

    async def block() -> None:
        async with channel.transaction():
            await channel.publish(refused, "q", exchange=exchange)
            await message.ack()

    with pytest.raises(NotFound, match=text) as caught:
        await block()
    assert caught.value.message is (refused if exchange else None)
    assert not message.is_settled


async def test_the_commit_is_to_be_all_or_nothing(server: FakeNativeServer, channel: Channel) -> None:
    async with channel.transaction():
        pass
    await channel.publish(Message(b"by itself"), "q")
    await channel.request(F.QOS, 1, False)
    assert [frame[3] for frame in server.of_type(F.TX_COMMIT)] == [True, False]


async def test_an_unroutable_message_undoes_all_and_is_raised(
    server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors[F.TX_COMMIT] = (ReplyCode.NO_ROUTE, "exchange '' has no queue for routing key 'nowhere'")
    message = await a_job(server, channel)
    lost = Message(b"lost")

    async def block() -> None:
        async with channel.transaction():
            await channel.publish(Message(b"1"), "q")
            await channel.publish(lost, "nowhere")
            await message.ack()

    with pytest.raises(Unroutable) as caught:
        await block()
    assert caught.value.message is lost
    assert caught.value.others == ()
    assert not message.is_settled
    assert sent(server)[-1] is F.TX_COMMIT
    assert caplog.text == ""
    del server.errors[F.TX_COMMIT]
    async with channel.transaction():
        await channel.publish(Message(b"2"), "q")


async def test_when_several_publishes_fail_the_first_knows_of_the_others(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.errors[F.TX_COMMIT] = (ReplyCode.RESOURCE_ERROR, "queue 'full' in vhost '/' has no room")
    messages = [Message(b"%d" % number) for number in range(4)]

    async def block() -> None:
        async with channel.transaction():
            for message, queue in zip(messages, ("q", "full", "nowhere", "full"), strict=True):
                server.queues["full"].clear()
                await channel.publish(message, queue)
            server.send(F.REFUSE, channel.number, [2, 4], 506, "RESOURCE_ERROR - no room")

    with pytest.raises(Nacked, match="publish: 506 RESOURCE_ERROR - no room") as caught:
        await block()
    assert [caught.value.message, *(other.message for other in caught.value.others)] == messages[1:]
    assert [type(other) for other in caught.value.others] == [Unroutable, Nacked]
    next_one = caught.value.others[0]
    assert caught.value.__notes__ == [f"2 more publishes of the transaction failed; the next: {next_one}"]


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
