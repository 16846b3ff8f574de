"""Handlers: how many run, what becomes of their messages, and how they are stopped."""

import asyncio
import functools
import threading

import pytest
from consuming_house import filled, settlements, until
from fake_native_server import FakeNativeServer

from leveret import (
    AlreadySettled,
    Channel,
    IncomingMessage,
    Message,
)
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode


class TestSettling:
    async def test_a_message_is_acked_when_its_handler_returns(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 3)
        bodies = []

        async def work(message: IncomingMessage) -> None:
            bodies.append(message.body)

        consumer = await queue.consume(work)
        await until(lambda: not server.unacked)
        await consumer.stop()
        assert bodies == [b"0", b"1", b"2"]
        assert settlements(server) == [["ACK", [[1, 3]]]]

    async def test_a_handler_may_settle_by_itself(self, server: FakeNativeServer, channel: Channel) -> None:
        queue = await filled(channel, 3)

        async def work(message: IncomingMessage) -> None:
            if message.body == b"0":
                await message.reject()
            elif message.body == b"1":
                message.nack(requeue=False)
            else:
                async with message.process():
                    pass

        await queue.consume(work)
        await until(lambda: not server.unacked)
        assert settlements(server) == [["ACK", [3]], ["REJECT", [1], False], ["NACK", [2], False]]

    async def test_ack_on_return_can_be_left_to_somebody_else(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 2)
        handed_over = asyncio.Queue[IncomingMessage]()
        await queue.consume(handed_over.put, ack_on_return=False)
        messages = [await handed_over.get() for _ in range(2)]
        await asyncio.sleep(0)
        assert settlements(server) == []
        await messages[1].ack()
        await until(lambda: settlements(server) == [["ACK", [2]]])

    async def test_settling_after_the_return_says_what_to_do(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 1)
        handed_over = asyncio.Queue[IncomingMessage]()
        await queue.consume(handed_over.put)
        message = await handed_over.get()
        await until(lambda: not server.unacked)
        with pytest.raises(AlreadySettled, match=r"acked when its handler returned \(see ack_on_return\)"):
            await message.ack()

    async def test_with_no_ack_there_is_nothing_to_settle(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 2)

        async def work(message: IncomingMessage) -> None:
            raise ZeroDivisionError

        await queue.consume(work, no_ack=True)
        await until(lambda: not server.unacked)
        assert settlements(server) == [["ACK", [[1, 2]]]]
        assert "ZeroDivisionError" in caplog.text


class TestErrors:
    @pytest.mark.parametrize(
        ("policy", "redelivered", "requeued"),
        [
            ("reject", False, False),
            ("requeue", False, True),
            ("requeue", True, True),
            ("requeue_once", False, True),
            ("requeue_once", True, False),
        ],
    )
    async def test_policies(
        self, server: FakeNativeServer, channel: Channel, policy: str, redelivered: bool, requeued: bool
    ) -> None:
        queue = await filled(channel, 1)
        failed = False

        async def work(message: IncomingMessage) -> None:
            nonlocal failed
            if not failed:
                failed = True
                message._flags = int(redelivered)
                raise ZeroDivisionError

        await queue.consume(work, on_error=policy)  # type: ignore[arg-type]  # the parameter is a str
        await until(lambda: settlements(server))
        assert settlements(server)[0] == ["REJECT", [1], requeued]

    async def test_a_function_decides_and_what_it_leaves_is_rejected(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 2)
        seen = []

        async def work(message: IncomingMessage) -> None:
            raise ZeroDivisionError(message.body)

        async def on_error(message: IncomingMessage, error: Exception) -> None:
            seen.append(repr(error))
            if message.body == b"0":
                await message.ack()

        await queue.consume(work, on_error=on_error)
        await until(lambda: not server.unacked)
        assert seen == ["ZeroDivisionError(b'0')", "ZeroDivisionError(b'1')"]
        assert settlements(server) == [["ACK", [1]], ["REJECT", [2], False]]

    async def test_a_plain_function_decides_too_and_its_own_error_is_logged(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 1)

        async def work(message: IncomingMessage) -> None:
            raise ZeroDivisionError

        def on_error(message: IncomingMessage, error: Exception) -> None:
            raise KeyError("spoiled")

        await queue.consume(work, on_error=on_error)
        await until(lambda: not server.unacked)
        assert settlements(server) == [["REJECT", [1], False]]
        assert "KeyError: 'spoiled'" in caplog.text

    async def test_what_a_handler_waits_for_being_cancelled_is_an_error_and_ends_no_worker(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 2)

        async def work(message: IncomingMessage) -> None:
            if message.body == b"0":
                cancelled = asyncio.get_running_loop().create_future()
                cancelled.cancel()
                await cancelled

        await queue.consume(work)
        await until(lambda: not server.unacked)
        assert settlements(server) == [["ACK", [2]], ["REJECT", [1], False]]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"concurrency": 0}, "concurrency must be at least 1"),
            ({"concurrency": 5, "prefetch_count": 4}, "prefetch_count=4 no more .* concurrency=5"),
            ({"prefetch_count": 0}, "prefetch_count must be 1 to 65535"),
            ({"on_error": "retry"}, "on_error must be 'reject', 'requeue', 'requeue_once' or a function"),
            ({"extend_every_s": 0}, "extend_every_s must be positive"),
        ],
    )
    async def test_what_makes_no_sense_is_refused(
        self, channel: Channel, options: dict[str, object], text: str
    ) -> None:
        queue = await channel.declare_queue("q")

        async def work(message: IncomingMessage) -> None: ...

        with pytest.raises(ValueError, match=text):
            await queue.consume(work, **options)  # type: ignore[arg-type]  # the mistakes
        with pytest.raises(ValueError, match=text):
            channel.handler("q", **options)(work)  # type: ignore[arg-type]  # the mistakes


class TestConcurrency:
    async def test_it_is_reached_and_never_exceeded(self, server: FakeNativeServer, channel: Channel) -> None:
        queue = await filled(channel, 20)
        running, most = 0, 0

        async def work(message: IncomingMessage) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        await queue.consume(work, concurrency=4)
        await until(lambda: not server.unacked)
        assert most == 4

    async def test_the_prefetch_is_at_least_the_concurrency(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        await channel.set_qos(prefetch_count=2)
        queue = await channel.declare_queue("q")

        async def work(message: IncomingMessage) -> None: ...

        for options in ({"concurrency": 7}, {}, {"prefetch_count": 9}):
            await queue.consume(work, **options)
        assert [frame[8] for frame in server.of_type(FrameType.CONSUME)] == [7, 2, 9]

    async def test_an_iterator_has_a_prefetch_of_its_own(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 5)
        async with queue.iterator(prefetch_count=2):
            assert len(server.unacked) == 2


class TestThreads:
    async def test_a_def_runs_in_a_thread_and_may_block(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 3)
        together = threading.Barrier(3)
        names = set()

        def work(message: IncomingMessage) -> None:
            together.wait(10)  # passes only if three run at once
            names.add(threading.current_thread().name)

        consumer = await queue.consume(work, concurrency=3)
        await until(lambda: not server.unacked)
        await consumer.stop()
        assert names == {"leveret-q_0", "leveret-q_1", "leveret-q_2"}
        assert {kind for kind, *_ in settlements(server)} == {"ACK"}

    async def test_it_may_settle_its_message_from_there(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 4)

        def work(message: IncomingMessage) -> None:
            if message.body == b"0":
                message.nack(requeue=False)
            elif message.body == b"1":
                message.reject()
            elif message.body == b"3":
                message.ack(multiple=True)

        await queue.consume(work)
        await until(lambda: not server.unacked)
        assert ["NACK", [1], False] in settlements(server)
        assert ["REJECT", [2], False] in settlements(server)

    async def test_its_errors_count(self, server: FakeNativeServer, channel: Channel) -> None:
        queue = await filled(channel, 2)

        def work(message: IncomingMessage) -> None:
            raise StopIteration if message.body == b"0" else ZeroDivisionError

        await queue.consume(work)
        await until(lambda: not server.unacked)
        assert {kind for kind, *_ in settlements(server)} == {"REJECT"}

    async def test_what_is_async_in_disguise_runs_in_the_loop(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 1)
        threads = []

        async def work(text: str, message: IncomingMessage) -> None:
            threads.append((text, threading.current_thread()))

        class Worker:
            async def __call__(self, message: IncomingMessage) -> None:
                threads.append(("called", threading.current_thread()))

        for callback in (
            functools.partial(work, "partial"),
            Worker(),
            lambda message: work("lambda", message),
        ):
            consumer = await queue.consume(callback)
            await until(lambda: not server.unacked)
            await consumer.stop()
            await channel.publish(Message(b""), "q")
        here = threading.current_thread()
        assert threads == [("partial", here), ("called", here), ("lambda", here)]


class TestExtension:
    async def test_what_runs_and_what_waits_is_extended(
        self, server: FakeNativeServer, channel: Channel
    ) -> None:
        queue = await filled(channel, 4)
        release = asyncio.Event()

        async def work(message: IncomingMessage) -> None:
            if message.body != b"0":
                await release.wait()

        consumer = await queue.consume(work, concurrency=2, extend_every_s=0.01)
        await until(lambda: server.of_type(FrameType.EXTEND))
        assert server.of_type(FrameType.EXTEND)[0][3] == [[2, 4]]
        release.set()
        await until(lambda: not server.unacked)
        await consumer.stop()
        assert consumer.workers is not None
        assert consumer.workers._extending is not None
        await until(consumer.workers._extending.cancelled)

    async def test_a_failure_is_logged_and_tried_again(
        self, server: FakeNativeServer, channel: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = await filled(channel, 1)
        server.errors[FrameType.EXTEND] = (ReplyCode.PRECONDITION_FAILED, "unknown delivery tag")

        async def work(message: IncomingMessage) -> None:
            await asyncio.Event().wait()

        consumer = await queue.consume(work, extend_every_s=0.01)
        await until(lambda: len(server.of_type(FrameType.EXTEND)) == 2)
        assert "could not be extended" in caplog.text
        await consumer.cancel()
