"""`leveret.sync` against the real broker: the same promises as the asynchronous SDK, from any thread."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

import pytest
from daemon import TIMEOUT_FACTOR

import leveret.sync
from leveret.sync import (
    AlreadySettled,
    Channel,
    Connection,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryLost,
    IncomingMessage,
    Message,
    NotFound,
    Queue,
    QueueEmpty,
    Unroutable,
    WrongLoop,
)
from leveret.testing import Broker

PATIENCE_S = 60 * TIMEOUT_FACTOR


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[Connection]:
    with leveret.sync.connect(broker.url, name="test_sync") as connection, leveret.sync.timeout(PATIENCE_S):
        yield connection


@pytest.fixture
def channel(connection: Connection) -> Channel:
    return connection.channel()


@pytest.fixture
def queue(channel: Channel) -> Queue:
    """A queue of this test's own, which goes with its connection."""
    return channel.declare_queue(exclusive=True)


def publish(queue: Queue, *bodies: bytes) -> None:
    for body in bodies:
        queue.channel.publish(Message(body), queue.name)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("leveret-sync")]


class TestTheSameAsTheOther:
    def test_publish_and_loop(self, queue: Queue) -> None:
        publish(queue, b"1", b"2", b"3")
        bodies = []
        for message in queue:
            with message.process():
                bodies.append(message.body)
            if len(bodies) == 2:
                break
        assert bodies == [b"1", b"2"]
        rest = queue.get()
        assert (rest.body, rest.redelivered, rest.message_count) == (b"3", True, 0)
        rest.ack()
        with pytest.raises(AlreadySettled):
            rest.ack()
        with pytest.raises(QueueEmpty):
            queue.get()
        assert queue.get(fail=False) is None

    def test_topology_and_what_things_are(self, channel: Channel, queue: Queue) -> None:
        exchange = queue.channel.default_exchange
        assert (exchange.name, exchange) == ("", channel.default_exchange)
        topic = channel.declare_exchange("sync-topic", "topic", auto_delete=True)
        queue.bind(topic, "*.error")
        topic.publish(Message.json({"disk": "full"}), "disk.error")
        message = queue.get()
        assert message.decode() == {"disk": "full"}
        assert message.decode(dict) == {"disk": "full"}
        assert (message.exchange, message.routing_key) == ("sync-topic", "disk.error")
        assert (queue.channel, str(queue)) == (channel, queue.name)
        assert {queue.channel: 1}[channel] == 1
        assert repr(queue) == f"<sync Queue {queue.name!r}>"
        queue.unbind(topic, "*.error")

    def test_errors(self, channel: Channel) -> None:
        with pytest.raises(NotFound):
            channel.get_queue("nowhere")
        with pytest.raises(Unroutable) as caught:
            channel.publish(Message(b"lost"), "nowhere")
        assert caught.value.message.body == b"lost"
        with pytest.raises(ValueError, match="must begin with leveret://"):
            leveret.sync.connect("http://127.0.0.1/")

    def test_a_block_that_fails_rejects(self, channel: Channel, queue: Queue) -> None:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        work = channel.declare_queue(exclusive=True, arguments=arguments)
        publish(work, b"bad")
        with pytest.raises(StopIteration), work.get().process():
            raise StopIteration  # the one that no coroutine can raise
        assert queue.get().body == b"bad"

    def test_iterator_with_options(self, channel: Channel, queue: Queue) -> None:
        publish(queue, b"1", b"2", b"3")
        with queue.iterator(prefetch_count=1) as messages:
            first = next(messages)
            assert channel.get_queue(queue.name).message_count == 2
            first.nack()
            assert messages.consumer_tag
        assert channel.get_queue(queue.name).message_count == 3
        assert next(messages, None) is None

    def test_a_deleted_queue_ends_the_loop(self, connection: Connection, channel: Channel) -> None:
        queue = channel.declare_queue("sync-deleted")
        with queue.iterator() as messages:
            connection.channel().queue_delete("sync-deleted")
            with pytest.raises(ConsumerCancelled):
                next(messages)

    def test_transactions(self, connection: Connection, queue: Queue) -> None:
        publish(queue, b"order")
        with connection.channel(publisher_confirms=False) as channel:
            order = channel.get_queue(queue.name).get()

            def fail() -> None:
                with channel.transaction():
                    channel.publish(Message(b"never"), queue.name)
                    order.ack()
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                fail()
            with channel.transaction():
                channel.publish(Message(b"invoice"), queue.name)
                order.ack()
        assert [queue.get().body, queue.get(fail=False)] == [b"invoice", None]


class TestThreads:
    def test_many_share_a_channel(self, channel: Channel, queue: Queue) -> None:
        def work(number: int) -> None:
            publish(queue, *(b"%d.%d" % (number, turn) for turn in range(40)))

        run_all(*(lambda number=number: work(number) for number in range(8)))
        assert channel.get_queue(queue.name).message_count == 320
        taken: SimpleQueue[bytes] = SimpleQueue()
        with queue.iterator() as messages:

            def take() -> None:
                for message in messages:
                    message.ack()
                    taken.put(message.body)
                    if taken.qsize() >= 320:
                        messages.stop()

            run_all(*[take] * 4)
        assert len({taken.get() for _ in range(320)}) == 320

    def test_handlers_run_in_threads_and_may_use_everything(self, channel: Channel, queue: Queue) -> None:
        results = channel.declare_queue(exclusive=True)
        both_run = threading.Barrier(2)

        def work(message: IncomingMessage) -> None:
            both_run.wait(PATIENCE_S)
            channel.publish(Message(message.body.upper()), results.name)

        consumer = queue.consume(work, concurrency=2)
        publish(queue, b"a", b"b")
        assert {body_of_next(results), body_of_next(results)} == {b"A", b"B"}
        consumer.stop()
        assert queue.get(fail=False) is None

    def test_on_error_is_called_in_a_thread(self, channel: Channel, queue: Queue) -> None:
        seen: SimpleQueue[object] = SimpleQueue()

        def fail(message: IncomingMessage) -> None:
            raise ZeroDivisionError

        def on_error(message: IncomingMessage, error: Exception) -> None:
            channel.publish(Message(b"failed"), queue.name)  # would block the loop
            message.ack()
            seen.put((message.body, type(error)))

        with queue.consume(fail, on_error=on_error):
            publish(queue, b"work")
            assert seen.get(timeout=PATIENCE_S) == (b"work", ZeroDivisionError)
            assert seen.get(timeout=PATIENCE_S) == (b"failed", ZeroDivisionError)

    def test_declared_handlers(self, channel: Channel, queue: Queue) -> None:
        @channel.handler(queue)
        def work(message: IncomingMessage) -> None:
            channel.stop_consumers()  # does not wait for this one

        publish(queue, b"work")
        channel.serve()
        assert work.__name__ == "work"
        assert queue.get(fail=False) is None

    def test_a_handler_without_its_queue(self, channel: Channel) -> None:
        with pytest.raises(TypeError, match=r'as in @channel\.handler\("orders"\)'):

            @channel.handler  # type: ignore[arg-type]  # the mistake
            def handle(message: IncomingMessage) -> None: ...

    def test_a_handler_may_stop_its_own_consumer(self, queue: Queue) -> None:
        stopped = threading.Event()

        def work(message: IncomingMessage) -> None:
            consumer.stop()
            stopped.set()

        consumer = queue.consume(work)
        publish(queue, b"1", b"2")
        consumer.wait()
        assert stopped.wait(PATIENCE_S)
        assert queue.get().body == b"2"

    def test_an_async_def_is_refused(self, channel: Channel, queue: Queue) -> None:
        async def work(message: object) -> None: ...

        with pytest.raises(TypeError, match="calls `def` functions"):
            queue.consume(work)
        with pytest.raises(TypeError, match="calls `def` functions"):
            channel.handler(queue)(work)
        with pytest.raises(TypeError, match="must be"):
            queue.consume("work")  # type: ignore[arg-type] # that is what is tested

    def test_a_thread_that_waits_hears_of_the_end(self, broker: Broker) -> None:
        connection = leveret.sync.connect(broker.url)
        queue = connection.channel().declare_queue(exclusive=True)
        ended: SimpleQueue[BaseException] = SimpleQueue()
        with queue.iterator() as messages:

            def wait() -> None:
                try:
                    next(messages)
                except BaseException as error:
                    ended.put(error)

            thread = threading.Thread(target=wait)
            thread.start()
            connection.close()
            thread.join(PATIENCE_S)
            assert isinstance(ended.get(timeout=PATIENCE_S), ConnectionLost)

    def test_a_handler_may_close_the_connection(self, broker: Broker) -> None:
        connection = leveret.sync.connect(broker.url)
        queue = connection.channel().declare_queue(exclusive=True)
        closed = threading.Event()

        def work(message: IncomingMessage) -> None:
            connection.close()
            closed.set()

        publish(queue, b"goodbye")
        queue.consume(work)
        assert closed.wait(PATIENCE_S)

    def test_publish_many_takes_its_messages_in_the_calling_thread(
        self, channel: Channel, queue: Queue
    ) -> None:
        publish(queue, b"1", b"2", b"3")
        channel.publish_many((Message(queue.get(no_ack=True).body * 2) for _ in range(3)), queue.name)
        assert [queue.get(no_ack=True).body for _ in range(3)] == [b"11", b"22", b"33"]


class TestSurvival:
    def test_a_restart_of_the_broker(self) -> None:
        told: SimpleQueue[str] = SimpleQueue()
        with Broker(storage="disk") as broker, leveret.sync.connect(broker.url) as connection:
            channel = connection.channel()
            queue = channel.declare_queue("jobs", durable=True)
            connection.on_lost(lambda error: told.put(type(error).__name__))
            connection.on_restored(lambda: told.put(channel.get_queue("jobs").name))
            publish(queue, b"before")
            with leveret.sync.timeout(PATIENCE_S), queue.iterator() as messages:
                stale = next(messages)
                broker.restart()
                publish(queue, b"after")
                again = next(messages)
                assert (again.body, again.redelivered) == (b"before", True)
                with pytest.raises(DeliveryLost):
                    stale.ack()
                again.ack()
                assert next(messages).body == b"after"
            assert {told.get(timeout=PATIENCE_S), told.get(timeout=PATIENCE_S)} == {"ConnectionLost", "jobs"}

    def test_without_reconnecting_it_ends(self) -> None:
        ended = threading.Event()
        with Broker() as broker:
            connection = leveret.sync.connect(broker.url, reconnect=False)
            connection.on_lost(lambda error: connection.close() or ended.set())
        assert ended.wait(PATIENCE_S)
        with pytest.raises(ConnectionLost):
            connection.channel()


class TestTimeouts:
    def test_a_call_that_waits_is_cancelled(self, queue: Queue) -> None:
        with pytest.raises(TimeoutError, match=r"0\.01 s"), leveret.sync.timeout(0.01):
            for _ in queue:
                pass
        publish(queue, b"the connection goes on")
        assert queue.get().body == b"the connection goes on"

    def test_the_shorter_one_counts_and_strikes_once(self, queue: Queue) -> None:
        with leveret.sync.timeout(PATIENCE_S), leveret.sync.timeout(0.01), leveret.sync.timeout(None):
            with pytest.raises(TimeoutError), queue.iterator() as messages:
                next(messages)
            publish(queue, b"later")
        assert queue.get().body == b"later"

    def test_one_that_is_over_begins_nothing(self, queue: Queue) -> None:
        with leveret.sync.timeout(0), pytest.raises(TimeoutError):
            publish(queue, b"x")
        assert queue.get(fail=False) is None

    def test_publish_has_its_own(self, queue: Queue) -> None:
        queue.channel.publish(Message(b"x"), queue.name, timeout_s=PATIENCE_S)


class TestInterrupts:
    def test_ctrl_c_ends_what_waits_and_nothing_else(self, channel: Channel, queue: Queue) -> None:
        def interrupt() -> None:
            while channel.get_queue(queue.name).consumer_count == 0:
                time.sleep(0.001)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in queue:
                pass
        thread.join()
        publish(queue, b"the connection goes on")
        assert queue.get().body == b"the connection goes on"


class TestLoops:
    async def test_in_a_thread_that_runs_a_loop_it_works(self, broker: Broker) -> None:
        """As at a prompt that has one; it blocks that loop, of course."""
        with leveret.sync.connect(broker.url) as connection:
            queue = connection.channel().declare_queue(exclusive=True)
            publish(queue, b"1", b"2")
            queue.get().ack()
            with queue.get().process() as message:
                assert message.body == b"2"
            assert asyncio.get_running_loop().is_running()

    def test_in_its_own_loop_it_says_what_is_wrong(self, connection: Connection, channel: Channel) -> None:
        def call() -> None:
            channel.declare_queue()

        with pytest.raises(WrongLoop, match="the thread of its own event loop"):
            connection._portal.call(call)


class TestEnds:
    def test_after_the_end_everything_says_so(self, broker: Broker) -> None:
        before = threads()
        connection = leveret.sync.connect(broker.url)
        channel = connection.channel()
        queue = channel.declare_queue(exclusive=True)
        consumer = queue.consume(print)
        publish(channel.declare_queue("sync-left"), b"x")
        message = channel.get_queue("sync-left").get()
        connection.close()
        assert connection.is_closed
        assert channel.is_closed
        assert threads() == before
        for use in (lambda: channel.publish(Message(b""), ""), connection.channel, queue.get, message.extend):
            with pytest.raises(ConnectionLost):
                use()
        for end in (connection.close, channel.close, consumer.stop, consumer.cancel):
            end()

    def test_who_lets_go_of_everything_has_closed_it(self, broker: Broker) -> None:
        before = threads()
        connection = leveret.sync.connect(broker.url)
        queue = connection.channel().declare_queue("sync-forgotten", auto_delete=True)
        del connection
        gc.collect()
        publish(queue, b"what comes of it keeps it open")
        del queue
        gc.collect()
        deadline_s = time.monotonic() + PATIENCE_S
        while threads() != before and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert threads() == before

    def test_a_loop_that_cannot_be_made(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> asyncio.AbstractEventLoop:
            raise OSError("too many open files")

        monkeypatch.setattr("leveret.sync.loop_thread.new_event_loop", fail)
        with pytest.raises(OSError, match="too many open files"):
            leveret.sync.connect(broker.url)

    def test_nobody_there(self) -> None:
        before = threads()
        with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:1"):
            leveret.sync.connect("leveret://127.0.0.1:1/")
        assert threads() == before


FORK = """
import os, sys
import leveret.sync

connection = leveret.sync.connect(sys.argv[1])
queue = connection.channel().declare_queue("forked")
child = os.fork()
if child == 0:
    try:
        for use in (queue.get, lambda: queue.channel.publish(leveret.sync.Message(b""), "forked")):
            try:
                use()
                os._exit(2)
            except leveret.sync.ConnectionLost as error:
                assert "after it, in the child" in str(error)
        connection.close()  # changes nothing
        with leveret.sync.connect(sys.argv[1]) as own:
            own.channel().publish(leveret.sync.Message(b"from the child"), "forked")
        del queue, connection
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
message = queue.get()
assert message.body == b"from the child"
message.ack()
"""

NOT_CLOSED = """
import sys
import leveret.sync

queue = leveret.sync.connect(sys.argv[1]).channel().declare_queue("not-closed", durable=True)
queue.channel.publish(leveret.sync.Message(b"1"), queue.name)
queue.channel.publish(leveret.sync.Message(b"2"), queue.name)
queue.get().ack()
"""

CONSUMES = """
import sys, threading
import leveret.sync

channel = leveret.sync.connect(sys.argv[1]).channel()
queue = channel.declare_queue("consumes", arguments={"x-dead-letter-exchange": "amq.fanout"})
busy = threading.Event()
consumer = queue.consume(lambda message: busy.set())
for number in range(200):
    channel.publish(leveret.sync.Message(b"x"), "consumes")
assert busy.wait(20)
"""


class TestProcesses:
    def run(self, broker: Broker, program: str) -> None:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, broker.url]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_a_fork_is_noticed(self, broker: Broker) -> None:
        self.run(broker, FORK)

    def test_a_script_may_just_end(self, broker: Broker, channel: Channel) -> None:
        self.run(broker, NOT_CLOSED)
        queue = channel.get_queue("not-closed")
        assert (queue.message_count, queue.get().body) == (1, b"2")

    def test_at_the_end_of_a_process_nothing_is_dead_lettered(self, broker: Broker, channel: Channel) -> None:
        dead = channel.declare_queue(exclusive=True)
        dead.bind("amq.fanout")
        self.run(broker, CONSUMES)
        assert dead.get(fail=False) is None
        channel.queue_delete("consumes")


def body_of_next(queue: Queue) -> bytes:
    for message in queue:
        message.ack()
        return message.body
    raise AssertionError("the loop over a queue ended")


def run_all(*functions: object) -> None:
    """Each in a thread of its own; raises what one of them raises."""
    errors: SimpleQueue[BaseException] = SimpleQueue()

    def run(function: object) -> None:
        try:
            assert callable(function)
            function()
        except BaseException as error:
            errors.put(error)

    running = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(PATIENCE_S)
    if not errors.empty():
        raise errors.get()
