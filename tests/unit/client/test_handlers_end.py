"""How handlers end: stopped, cancelled, by the broker, with their connection; and `serve`."""

import asyncio

import pytest
from consuming_house import filled, settlements, until, waiting
from fake_native_server import FakeNativeServer

from leveret import (
    Channel,
    ChannelClosed,
    ConsumerCancelled,
    DeliveryLost,
    IncomingMessage,
    LeveretError,
    Message,
)
from leveret.protocol.native.layouts import FrameType


class TestStop:
    async def test_what_runs_finishes_and_the_rest_goes_back(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 5)
        release, done = asyncio.Event(), []

        async def work(message: IncomingMessage) -> None:
            await release.wait()
            done.append(message.body)

        consumer = await queue.consume(work, concurrency=2)
        await until(lambda: consumer.workers is not None and len(consumer.workers._running) == 2)
        stopping = asyncio.create_task(consumer.stop())
        await until(lambda: len(server.queues["q"]) == 3)
        await channel.publish(Message(b"late"), "q")
        assert not stopping.done()
        release.set()
        await stopping
        await until(lambda: not server.unacked)
        assert done == [b"0", b"1"]
        assert waiting(server) == [b"2", b"3", b"4", b"late"]
        assert server.consumers == {}
        await consumer.stop()
        await consumer.wait()

    async def test_what_takes_too_long_is_cancelled_and_goes_back(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 2)
        cancelled = []

        async def work(message: IncomingMessage) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message.body)
                raise

        consumer = await queue.consume(work)
        await until(lambda: consumer.workers is not None and consumer.workers._running)
        await consumer.stop(timeout_s=0.01)
        await until(lambda: not server.unacked)
        assert cancelled == [b"0"]
        assert sorted(waiting(server)) == [b"0", b"1"]
        assert all(kind == "NACK" for kind, *_ in settlements(server))

    async def test_cancel_cuts_a_stop_short(self, server: FakeNativeServer, channel: Channel) -> None:
        queue = await filled(channel, 1)

        async def work(message: IncomingMessage) -> None:
            await asyncio.Event().wait()

        consumer = await queue.consume(work)
        await until(lambda: consumer.workers is not None and consumer.workers._running)
        stopping = asyncio.create_task(consumer.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        await consumer.cancel()
        await stopping
        await until(lambda: not server.unacked)
        assert waiting(server) == [b"0"]

    async def test_a_stop_that_is_given_up_ends_no_handler(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 1)
        release = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            await release.wait()

        consumer = await queue.consume(work)
        await until(lambda: consumer.workers is not None and consumer.workers._running)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await consumer.stop()
        release.set()
        await consumer.stop()
        await until(lambda: not server.unacked)
        assert settlements(server) == [["ACK", [1]]]

    async def test_a_handler_may_stop_its_own_consumer(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 3)

        async def work(message: IncomingMessage) -> None:
            await consumer.stop()

        consumer = await queue.consume(work)
        await consumer.wait()
        await until(lambda: not server.unacked)
        assert waiting(server) == [b"1", b"2"]
        assert ["ACK", [1]] in settlements(server)

    async def test_handlers_that_stop_their_consumer_do_not_wait_for_each_other(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 3)
        together = asyncio.Barrier(2)

        async def work(message: IncomingMessage) -> None:
            await together.wait()
            await consumer.stop()

        consumer = await queue.consume(work, concurrency=2)
        async with asyncio.timeout(10):
            await consumer.wait()
        await until(lambda: not server.unacked)
        assert waiting(server) == [b"2"]

    async def test_a_loop_over_a_stopped_consumer_ends(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 3)
        bodies = []
        async with queue.iterator() as messages:
            async for message in messages:
                bodies.append(message.body)
                await message.ack()
                await messages.stop()
        await until(lambda: not server.unacked)
        assert bodies == [b"0"]
        assert waiting(server) == [b"1", b"2"]


class TestEnds:
    async def test_a_deleted_queue_is_raised_to_who_waits_and_logged_once(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 1)
        done = []

        async def work(message: IncomingMessage) -> None:
            done.append(message.body)

        consumer = await queue.consume(work, concurrency=3)
        await queue.delete()
        with pytest.raises(ConsumerCancelled, match="its queue was deleted"):
            await consumer.wait()
        assert done == [b"0"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    async def test_a_closed_channel_is_raised_to_who_waits_after_what_runs(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 2)
        release, done = asyncio.Event(), []

        async def work(message: IncomingMessage) -> None:
            await release.wait()
            done.append(message.body)

        consumer = await queue.consume(work)
        await until(lambda: consumer.workers is not None and consumer.workers._running)
        waiting = asyncio.create_task(consumer.wait())
        await channel.close()
        assert not waiting.done()
        release.set()
        with pytest.raises(ChannelClosed):
            await waiting
        assert done == [b"0"]
        assert "message 1 of <Consumer 'amq.ctag-1' of queue 'q'> comes again" in caplog.text

    async def test_after_a_lost_link_running_handlers_finish_and_the_buffer_is_dropped(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 3)
        release, done = asyncio.Event(), []

        async def work(message: IncomingMessage) -> None:
            await release.wait()
            done.append(message.body)

        consumer = await queue.consume(work)
        await until(lambda: consumer.workers is not None and consumer.workers._running)
        channel.settler.end(DeliveryLost("the connection broke"))
        consumer.link_lost()
        release.set()
        await until(lambda: "comes again: the connection broke" in caplog.text)
        assert done == [b"0"]
        assert settlements(server) == []
        await consumer.stop()


class TestServe:
    async def test_declared_handlers_start_together_and_stay_functions(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        await filled(channel, 2, "orders")
        bills = await filled(channel, 1, "bills")
        seen = []

        @channel.handler("orders", concurrency=2, consumer_tag="mine")
        async def place(message: IncomingMessage) -> str:
            seen.append(("order", message.body))
            return "placed"

        @channel.handler(bills)
        def pay(message: IncomingMessage) -> None:
            seen.append(("bill", message.body))

        assert server.consumers == {}
        serving = asyncio.create_task(channel.serve())
        await until(lambda: len(seen) == 3 and not server.unacked)
        assert sorted(seen) == [("bill", b"0"), ("order", b"0"), ("order", b"1")]
        assert {frame[5] for frame in server.of_type(FrameType.CONSUME)} == {"mine", ""}
        await channel.stop_consumers()
        await serving
        assert server.consumers == {}

        class Fake(IncomingMessage):
            def __init__(self) -> None:
                self.body = b"called"

        assert await place(Fake()) == "placed"

    async def test_cancelling_it_stops_gracefully(self, server: FakeNativeServer, channel: Channel) -> None:
        await filled(channel, 2)
        began, release = asyncio.Event(), asyncio.Event()

        @channel.handler("q")
        async def work(message: IncomingMessage) -> None:
            began.set()
            await release.wait()

        serving = asyncio.create_task(channel.serve())
        await began.wait()
        serving.cancel()
        await until(lambda: not server.consumers)
        assert not serving.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await until(lambda: not server.unacked)
        assert ["ACK", [1]] in settlements(server)
        assert waiting(server) == [b"1"]

    async def test_when_one_ends_the_others_are_stopped(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        for name in ("a", "b"):
            queue = await channel.declare_queue(name)

            @channel.handler(name)
            async def work(message: IncomingMessage) -> None: ...

        serving = asyncio.create_task(channel.serve())
        await until(lambda: len(server.consumers) == 2)
        await queue.delete()
        with pytest.raises(ConsumerCancelled):
            await serving
        assert server.consumers == {}

    async def test_without_handlers_there_is_nothing_to_serve(self, channel: Channel) -> None:
        with pytest.raises(LeveretError, match=r"decorate a function with @channel\.handler"):
            await channel.serve()
