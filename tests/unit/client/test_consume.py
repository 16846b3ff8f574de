"""Consuming: iterators, callbacks, prefetch, acks, and how a consumer ends."""

import asyncio

import pytest
from fake_native_server import FakeNativeServer

from leveret import Channel, ConsumerCancelled, IncomingMessage, Message, Queue, QueueEmpty
from leveret.client.channel import DEFAULT_PREFETCH_COUNT
from leveret.client.settler import ACKS_AT_ONCE
from leveret.protocol.native.layouts import FrameType


async def turns(count: int = 5) -> None:
    """Let the loop run until everything that is on its way has arrived."""
    for _ in range(count):
        await asyncio.sleep(0)


async def filled(channel: Channel, count: int, name: str = "q") -> Queue:
    """A queue with messages b"0", b"1", ..."""
    queue = await channel.declare_queue(name)
    await asyncio.gather(*(channel.publish(Message(b"%d" % number), name) for number in range(count)))
    return queue


async def test_a_queue_is_an_endless_loop() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        bodies = []
        async for message in queue:
            bodies.append(message.body)
            await message.ack()
            if len(bodies) == 2:
                await channel.publish(Message(b"later"), "q")
            if len(bodies) == 3:
                break
        assert bodies == [b"0", b"1", b"later"]


async def test_leaving_the_loop_ends_the_consumer_and_gives_back_what_was_not_taken() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 5)
        async with queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                break
        await turns()
        assert server.consumers == {}
        assert server.unacked == {}
        assert [body for *_, body in server.queues["q"]] == [b"1", b"2", b"3", b"4"]
        await messages.cancel()


async def test_breaking_out_of_a_bare_loop_ends_the_consumer_too() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        async for message in await filled(channel, 3):
            await message.ack()
            break
        await turns(20)
        assert server.consumers == {}
        assert len(server.queues["q"]) == 2


async def test_a_consumer_that_is_left_while_the_connection_closes_has_nothing_to_say() -> None:
    """A loop that was broken out of is ended by the garbage collector, which may come late."""
    connection = await FakeNativeServer().connect()
    queue = await filled(await connection.channel(), 0)
    consumer = await queue.iterator().__aenter__()
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    await consumer.cancel()
    await closing


async def test_the_prefetch_bounds_what_is_sent_ahead() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.set_qos(prefetch_count=3)
        queue = await filled(channel, 10)
        async with queue.iterator() as messages:
            assert len(server.unacked) == 3
            first = await anext(messages)
            await first.ack()
            await turns()
            assert len(server.unacked) == 3
            assert len(server.queues["q"]) == 6


async def test_without_set_qos_there_is_a_prefetch_all_the_same() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("q")
        async with queue.iterator():
            [consumer] = server.consumers.values()
            assert consumer.room == DEFAULT_PREFETCH_COUNT


@pytest.mark.parametrize("prefetch_count", [0, 65_536])
async def test_an_unlimited_prefetch_is_refused(prefetch_count: int) -> None:
    async with FakeNativeServer().connect() as connection, await connection.channel() as channel:
        with pytest.raises(ValueError, match="it is what bounds this client's memory"):
            await channel.set_qos(prefetch_count=prefetch_count)


async def test_the_acks_of_a_turn_leave_as_one_frame_of_ranges() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 6)
        async with queue.iterator() as messages:
            taken = [await anext(messages) for _ in range(6)]
            for number in (2, 0, 1, 4):
                await taken[number].ack()
            await taken[3].nack()
            await taken[5].reject()
            await turns()
            assert [frame[1:4] for frame in server.of_type(FrameType.ACK)] == [[0, 1, [[1, 3], 5]]]
            assert [frame[1:] for frame in server.of_type(FrameType.NACK)] == [[0, 1, [4], True]]
            assert [frame[1:] for frame in server.of_type(FrameType.REJECT)] == [[0, 1, [6], False]]


async def test_a_long_turn_sends_acks_before_its_end() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, ACKS_AT_ONCE + 1)
        async with queue.iterator() as messages:
            taken = [await anext(messages) for _ in range(ACKS_AT_ONCE + 1)]
            for message in taken:
                await message.ack()
            await turns()
            assert [frame[3] for frame in server.of_type(FrameType.ACK)] == [
                [[1, ACKS_AT_ONCE]],
                [ACKS_AT_ONCE + 1],
            ]


async def test_with_no_ack_a_message_is_done_when_it_is_taken() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 3)
        async with queue.iterator(no_ack=True) as messages:
            message = await anext(messages)
            assert message.is_settled
        await turns()
        assert [body for *_, body in server.queues["q"]] == [b"1", b"2"]
        assert server.unacked == {}


async def test_replies_to_requests_are_read_without_acks() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        async with queue.iterator(no_ack=True):
            assert server.of_type(FrameType.CONSUME)[0][6] is True


async def test_several_tasks_share_one_consumer() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("q")
        async with queue.iterator() as messages:
            tasks = [asyncio.ensure_future(anext(messages)) for _ in range(3)]
            await turns()
            tasks[0].cancel()
            for number in range(2):
                await channel.publish(Message(b"%d" % number), "q")
            assert [(await task).body for task in tasks[1:]] == [b"0", b"1"]


async def test_a_callback_gets_each_message() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 3)
        done = asyncio.Event()
        bodies = []

        async def callback(message: IncomingMessage) -> None:
            async with message.process():
                bodies.append(message.body)
                if len(bodies) == 3:
                    done.set()

        consumer = await queue.consume(callback, consumer_tag="mine")
        assert consumer.consumer_tag == "mine"
        await done.wait()
        await consumer.cancel()
        assert bodies == [b"0", b"1", b"2"]
        assert server.consumers == {}


async def test_a_callback_must_be_callable() -> None:
    async with FakeNativeServer().connect() as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("q")
        with pytest.raises(TypeError, match="`async def` or `def` function, not str"):
            await queue.consume("work")  # type: ignore[arg-type]  # the mistake


async def test_callbacks_run_side_by_side_up_to_the_concurrency() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 5)
        running = 0
        release = asyncio.Event()

        async def callback(message: IncomingMessage) -> None:
            nonlocal running
            running += 1
            await release.wait()
            await message.ack()

        consumer = await queue.consume(callback, concurrency=3)
        await turns()
        assert running == 3
        release.set()
        await turns(10)
        assert running == 5
        await consumer.cancel()
        with pytest.raises(ValueError, match="at least 1"):
            await queue.consume(callback, concurrency=0)


async def test_ending_a_consumer_cancels_its_callbacks_and_hands_their_messages_back() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 3)

        async def callback(message: IncomingMessage) -> None:
            async with message.process():
                await asyncio.Event().wait()

        consumer = await queue.consume(callback, concurrency=2)
        await turns()
        await consumer.cancel()
        await turns()
        assert server.unacked == {}
        assert len(server.queues["q"]) == 3


async def test_a_callback_may_end_its_own_consumer() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        done = asyncio.Event()

        async def callback(message: IncomingMessage) -> None:
            await message.ack()
            await consumer.cancel()
            done.set()

        consumer = await queue.consume(callback)
        await done.wait()
        await turns()
        assert [body for *_, body in server.queues["q"]] == [b"1"]


async def test_a_callback_that_fails_is_logged_its_message_rejected_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        seen = asyncio.Queue[bytes](maxsize=2)

        async def callback(message: IncomingMessage) -> None:
            await seen.put(message.body)
            raise ZeroDivisionError

        await queue.consume(callback)
        assert [await seen.get(), await seen.get()] == [b"0", b"1"]
        await turns()
        assert [frame[3:] for frame in server.of_type(FrameType.REJECT)] == [[[[1, 2]], False]]
        assert "ZeroDivisionError" in caplog.text


async def test_a_deleted_queue_ends_its_consumers_after_what_they_have() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        async with queue.iterator() as messages:
            await queue.delete()
            assert [(await anext(messages)).body for _ in range(2)] == [b"0", b"1"]
            with pytest.raises(ConsumerCancelled, match=r"cancelled consumer amq\.ctag-1"):
                await anext(messages)


async def test_what_arrives_for_a_cancelled_consumer_goes_back() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("q")
        async with queue.iterator() as messages:
            cancelling = asyncio.create_task(messages.cancel())
            server.queues["q"].append(("", "q", b"\0\0", b"late"))
            server.deliver_ready()
            server.flush()
            await cancelling
        await turns()
        assert [body for *_, body in server.queues["q"]] == [b"late"]


async def test_a_cancelled_consume_leaves_nothing_behind() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), queue.iterator():
                pass
        await turns(10)
        assert server.consumers == {}
        assert len(server.queues["q"]) == 2


async def test_get_takes_one_message() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        queue = await filled(channel, 2)
        message = await queue.get()
        assert message is not None
        assert message.body == b"0"
        await message.ack()
        taken = await queue.get(no_ack=True)
        assert taken is not None
        assert taken.is_settled
        with pytest.raises(QueueEmpty, match="queue 'q' is empty"):
            await queue.get()
        assert await queue.get(fail=False) is None
