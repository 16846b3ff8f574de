"""Settling a message: at once, once, from where it may be done; many at a time; and lease extension."""

import asyncio
import gc
import threading

import pytest
from fake_native_server import FakeNativeServer

from leveret import (
    AlreadySettled,
    Channel,
    ChannelClosed,
    DeliveryLost,
    IncomingMessage,
    Message,
    NotFound,
    PreconditionFailed,
    WrongLoop,
)
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode


async def taken(channel: Channel, count: int) -> list[IncomingMessage]:
    """So many messages, with the delivery tags 1, 2, ..."""
    queue = await channel.declare_queue("q")
    await asyncio.gather(*(channel.publish(Message(b""), "q") for _ in range(count)))
    return [await queue.get() for _ in range(count)]


async def settlements(server: FakeNativeServer) -> list[list[object]]:
    """What the server was told, without request and channel."""
    for _ in range(4):
        await asyncio.sleep(0)
    kinds = (FrameType.ACK, FrameType.NACK, FrameType.REJECT)
    return [[FrameType(frame[0]).name, *frame[3:]] for frame in server.frames if frame[0] in kinds]


class TestAwait:
    async def test_a_forgotten_await_loses_nothing(self, server: FakeNativeServer, channel: Channel) -> None:
        first, second, third = await taken(channel, 3)
        first.ack()
        second.nack(requeue=False)
        third.reject()
        gc.collect()  # a coroutine that was never awaited would warn now, and warnings are errors
        assert await settlements(server) == [["ACK", [1]], ["NACK", [2], False], ["REJECT", [3], False]]

    async def test_whatever_takes_a_coroutine_takes_an_ack(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        messages = await taken(channel, 5)
        await messages[0].ack()
        await asyncio.gather(messages[1].ack(), messages[2].ack())
        await asyncio.create_task(messages[3].ack())
        await asyncio.wait_for(messages[4].ack(), 1)
        assert server.unacked == {}


class TestOnce:
    @pytest.mark.parametrize("again", ["ack", "nack", "reject", "extend"])
    async def test_the_second_time_is_an_error(
        self, server: FakeNativeServer, channel: Channel, again: str
    ) -> None:
        [message] = await taken(channel, 1)
        await message.reject(requeue=True)
        with pytest.raises(AlreadySettled, match=r"it was rejected before; look at message\.is_settled"):
            await getattr(message, again)()
        assert await settlements(server) == [["REJECT", [1], True]]

    async def test_what_came_before_a_lost_link_cannot_be_settled(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        [message] = await taken(channel, 1)
        channel.settler.end(DeliveryLost("the connection broke; the broker delivers the message again"))
        assert message.is_lost
        assert not message.is_settled
        with pytest.raises(DeliveryLost):
            await message.ack()
        with pytest.raises(DeliveryLost):
            await message.extend()
        assert await settlements(server) == []


class TestWhere:
    async def test_a_thread_may_settle(self, server: FakeNativeServer, channel: Channel) -> None:
        messages = await taken(channel, 3)
        await asyncio.to_thread(messages[0].ack)
        await asyncio.to_thread(messages[1].nack)
        await asyncio.to_thread(messages[2].reject)
        assert await settlements(server) == [["ACK", [1]], ["NACK", [2], True], ["REJECT", [3], False]]

    async def test_a_thread_that_comes_too_late_is_logged(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        [message] = await taken(channel, 1)
        thread = threading.Thread(target=message.ack)
        thread.start()
        thread.join()  # the loop has not run since
        await channel.close()
        await asyncio.sleep(0)
        assert "message 1 was settled too late: the channel was closed" in caplog.text

    async def test_another_loop_may_not(self, server: FakeNativeServer, channel: Channel) -> None:
        [message] = await taken(channel, 1)

        async def elsewhere() -> None:
            with pytest.raises(WrongLoop, match="came over a connection of another event loop"):
                await message.ack()

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert not message.is_settled

    async def test_a_consumer_is_read_in_its_own_loop(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        async with queue.iterator() as messages:

            async def elsewhere() -> None:
                with pytest.raises(WrongLoop, match="iterate over it there, or open a connection here"):
                    await anext(messages)

            await asyncio.to_thread(asyncio.run, elsewhere())


class TestMultiple:
    async def test_one_ack_for_all_before(self, server: FakeNativeServer, channel: Channel) -> None:
        messages = await taken(channel, 4)
        await messages[0].nack(requeue=False)
        await messages[2].ack(multiple=True)
        await messages[3].ack()
        assert await settlements(server) == [["NACK", [1], False], ["ACK", [[0, 3]]], ["ACK", [4]]]
        assert messages[1].is_settled
        with pytest.raises(AlreadySettled, match="settled with multiple=True on a later message"):
            await messages[1].ack()

    async def test_one_nack_for_all_before(self, server: FakeNativeServer, channel: Channel) -> None:
        messages = await taken(channel, 3)
        await messages[1].nack(requeue=False, multiple=True)
        assert await settlements(server) == [["NACK", [[0, 2]], False]]
        assert [message.is_settled for message in messages] == [True, True, False]

    async def test_a_rollback_takes_it_back(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection:
            channel = await connection.channel(publisher_confirms=False)
            messages = await taken(channel, 3)
            await messages[0].ack(multiple=True)

            async def spoiled() -> None:
                async with channel.transaction():
                    await messages[2].ack(multiple=True)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await spoiled()
            assert [message.is_settled for message in messages] == [True, False, False]

    async def test_outside_of_a_transaction_it_is_committed_at_once(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection:
            channel = await connection.channel(publisher_confirms=False)
            messages = await taken(channel, 2)
            async with channel.transaction():
                pass
            await messages[1].ack(multiple=True)
            await settlements(server)
            assert [frame[0] for frame in server.frames[-2:]] == [FrameType.ACK, FrameType.TX_COMMIT]


class TestProcess:
    async def test_a_block_that_settles_by_itself_must_say_so(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        first, second, third = await taken(channel, 3)
        with pytest.raises(AlreadySettled):
            async with first.process():
                await first.reject()
        async with second.process(ignore_processed=True):
            await second.reject()

        async def fail_after_settling() -> None:
            async with third.process():
                await third.reject()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):  # the block's own error is the one to see
            await fail_after_settling()
        assert await settlements(server) == [["REJECT", [[1, 3]], False]]

    async def test_a_lost_delivery_is_logged(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = await taken(channel, 2)
        async with first.process():
            channel.settler.end(DeliveryLost("the connection broke"))
        assert "message 1 was processed and comes again: the connection broke" in caplog.text
        with pytest.raises(ZeroDivisionError):
            async with second.process():
                raise ZeroDivisionError

    async def test_a_closed_channel_is_an_error(self, server: FakeNativeServer, channel: Channel) -> None:
        [message] = await taken(channel, 1)
        with pytest.raises(ChannelClosed):
            async with message.process():
                await channel.close()


class TestExtend:
    async def test_it_is_asked_for_behind_what_was_settled_before(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        first, second = await taken(channel, 2)
        first.ack()
        await second.extend()
        assert [frame[0] for frame in server.frames[-2:]] == [FrameType.ACK, FrameType.EXTEND]
        assert server.frames[-1][3] == [2]

    async def test_its_refusal_is_raised(self, server: FakeNativeServer, channel: Channel) -> None:
        [message] = await taken(channel, 1)
        server.errors[FrameType.EXTEND] = (ReplyCode.PRECONDITION_FAILED, "unknown delivery tag 1")
        with pytest.raises(PreconditionFailed, match="extend: 406"):
            await message.extend()


async def test_get_says_how_many_are_left(server: FakeNativeServer, channel: Channel) -> None:
    messages = await taken(channel, 3)
    assert [message.message_count for message in messages] == [2, 1, 0]
    queue = await channel.declare_queue("q")
    await channel.publish(Message(b""), "q")
    async with queue.iterator() as deliveries:
        assert (await anext(deliveries)).message_count is None


async def test_a_loop_over_an_iterator_needs_no_with(server: FakeNativeServer, channel: Channel) -> None:
    queue = await channel.declare_queue("q")
    await channel.publish(Message(b"x"), "q")
    async for message in queue.iterator():
        assert message.body == b"x"
        assert message.channel is channel
        break


async def test_an_iterator_of_no_queue_raises_when_it_is_entered(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.errors[FrameType.CONSUME] = (ReplyCode.NOT_FOUND, "no queue 'q' in vhost '/'")
    queue = await channel.get_queue("q", ensure=False)
    with pytest.raises(NotFound, match="no queue 'q'"):
        async with queue.iterator():
            pass
