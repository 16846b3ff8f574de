"""What a connection makes again on its next link: topology, channels, prefetch, consumers, in order."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fake_native_server import FakeNativeServer
from reconnects import Gate, lose, lose_and_restore, turns

from leveret import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionLost,
    DeliveryLost,
    Exchange,
    IncomingMessage,
    Message,
    NotFound,
    Queue,
)
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

F = FrameType
PATIENCE_S = 5.0


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def connection(server: FakeNativeServer, gate: Gate) -> AsyncIterator[Connection]:
    async with server.connect(reconnect=gate.policy()) as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


async def restored(server: FakeNativeServer, connection: Connection) -> list[tuple[str, list[object]]]:
    """Lose the connection; what is sent to restore it, by name, without request ids."""
    server.frames.clear()
    await lose_and_restore(server, connection)
    return [(F(frame[0]).name, list(frame[2:])) for frame in server.frames if frame[0] != F.HELLO]


async def names_restored(server: FakeNativeServer, connection: Connection) -> list[str]:
    """Of the exchanges, queues and bindings."""
    kept = {"EXCHANGE_DECLARE", "QUEUE_DECLARE", "QUEUE_BIND", "EXCHANGE_BIND"}
    return [
        f"{name.lower()} {' '.join(str(field) for field in fields[1:3] if isinstance(field, str))}"
        for name, fields in await restored(server, connection)
        if name in kept
    ]


class TestTopology:
    async def test_is_made_again_in_order_before_the_channels(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        other = await connection.channel()
        exchange = await channel.declare_exchange("e", "topic", durable=True, arguments={"x": 1})
        queue = await other.declare_queue("q", durable=True, arguments={"y": [2]})
        await queue.bind(exchange, "k", {"z": 3})
        inner = await other.declare_exchange("inner", "fanout")
        await inner.bind(exchange, "all")
        await channel.get_queue("q")  # passive: of no account
        await channel.declare_queue("q", durable=True, arguments={"y": [2]})  # a second time
        assert await restored(server, connection) == [
            ("CHANNEL_OPEN", [1, False, b"", 0]),
            ("EXCHANGE_DECLARE", [1, "e", "topic", False, True, False, False, {"x": 1}]),
            ("QUEUE_DECLARE", [1, "q", False, True, False, False, {"y": [2]}]),
            ("QUEUE_BIND", [1, "q", "e", "k", {"z": 3}]),
            ("EXCHANGE_DECLARE", [1, "inner", "fanout", False, False, False, False, {}]),
            ("EXCHANGE_BIND", [1, "inner", "e", "all", {}]),
            ("CHANNEL_CLOSE", [1]),
            ("CHANNEL_OPEN", [1, True, channel._publisher.producer, 2]),
            ("CHANNEL_OPEN", [2, True, other._publisher.producer, 2]),
        ]

    async def test_what_was_undone_is_not_made_again(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        exchange = await channel.declare_exchange("e")
        gone = await channel.declare_exchange("gone")
        queue, deleted = await channel.declare_queue("q"), await channel.declare_queue("deleted")
        await queue.bind(exchange, "1")
        await queue.bind(exchange, "2")
        await queue.bind(exchange, "2", {"other": True})
        await queue.bind(gone, "3")
        await deleted.bind(exchange, "4")
        await exchange.bind(gone)
        await queue.unbind(exchange, "2")
        await gone.delete()
        await deleted.delete()
        assert await names_restored(server, connection) == [
            "exchange_declare e direct",
            "queue_declare q",
            "queue_bind q e",
            "queue_bind q e",
        ]
        assert [frame[5] for frame in server.of_type(F.QUEUE_BIND)] == ["1", "2"]
        assert [frame[6] for frame in server.of_type(F.QUEUE_BIND)] == [{}, {"other": True}]

    async def test_auto_delete_exchanges_go_with_their_last_binding(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        inner = await channel.declare_exchange("inner", auto_delete=True)
        outer = await channel.declare_exchange("outer", auto_delete=True)
        unused = await channel.declare_exchange("unused", auto_delete=True)
        queue = await channel.declare_queue("q")
        await queue.bind(inner)
        await inner.bind(outer)
        assert len(await names_restored(server, connection)) == 6
        await queue.unbind(inner)  # so inner goes, and its binding, and outer
        assert await names_restored(server, connection) == [
            f"exchange_declare {unused.name} direct",
            "queue_declare q",
        ]

    async def test_auto_delete_queues_go_with_their_last_consumer(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q", auto_delete=True)
        await queue.bind("amq.direct")
        other = await connection.channel()
        async with queue.iterator():
            async with (await other.get_queue("q")).iterator():
                await other.close()
            assert len(await names_restored(server, connection)) == 2
        assert await names_restored(server, connection) == []

    async def test_what_the_broker_refuses_now_is_logged_and_left_out(
        self,
        server: FakeNativeServer,
        connection: Connection,
        channel: Channel,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await channel.declare_queue("q")
        await channel.declare_queue(exclusive=True)
        server.errors[F.QUEUE_DECLARE] = (ReplyCode.PRECONDITION_FAILED, "inequivalent arg")
        await lose_and_restore(server, connection)
        assert caplog.text.count("could not be restored: queue_declare: 406") == 2

    async def test_a_lock_of_our_own_broken_connection_is_waited_for(
        self, server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
    ) -> None:
        await channel.declare_queue("q", exclusive=True)
        server.errors[F.QUEUE_DECLARE] = (ReplyCode.RESOURCE_LOCKED, "of another connection")
        gate.close()
        await lose(server, connection)
        gate.open()
        while len(gate.delays) < 5:
            await turns()
        assert not connection.is_connected
        server.errors.clear()
        await connection.wait_connected()

    async def test_but_not_for_ever(
        self, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("leveret.client.connection.LOCKS_WITHOUT_HEARTBEAT_S", 0.0)
        server = FakeNativeServer(heartbeat_s=0)
        async with server.connect(reconnect=gate.policy()) as connection:
            channel = await connection.channel()
            await channel.declare_queue("q", exclusive=True)
            server.errors[F.QUEUE_DECLARE] = (ReplyCode.RESOURCE_LOCKED, "of another connection")
            await lose_and_restore(server, connection)
            assert "could not be restored: queue_declare: 405" in caplog.text


class TestQueuesNamedByTheBroker:
    async def test_get_a_new_name_and_everything_follows(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        await channel.declare_queue("first")
        queue = await channel.declare_queue(exclusive=True)
        same = await channel.get_queue(queue.name)
        before = queue.name
        assert before == "amq.gen-1"
        await queue.bind("amq.direct")
        await queue.bind("amq.topic", "a.#")
        parked = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": before}
        await channel.declare_queue("parking", arguments=parked)
        async with queue.iterator() as messages:
            await lose_and_restore(server, connection)
            assert queue.name == same.name == "amq.gen-2"
            assert [frame[3:6] for frame in server.of_type(F.QUEUE_BIND)[-2:]] == [
                ["amq.gen-2", "amq.direct", "amq.gen-2"],
                ["amq.gen-2", "amq.topic", "a.#"],
            ]
            declared = server.of_type(F.QUEUE_DECLARE)[-1]
            assert declared[8] == {**parked, "x-dead-letter-routing-key": "amq.gen-2"}
            await channel.publish(Message(b"x"), queue.name)
            assert (await anext(messages)).body == b"x"
        await lose_and_restore(server, connection)
        assert queue.name == "amq.gen-3"
        await queue.delete()
        assert "queue_declare " not in await names_restored(server, connection)

    async def test_requests_that_were_under_way_use_the_new_name(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue(exclusive=True)
        server.silent.add(F.QUEUE_BIND)
        binding = asyncio.create_task(queue.bind("amq.direct"))
        await turns()
        server.silent.clear()
        await lose_and_restore(server, connection)
        await binding
        assert [frame[3:6] for frame in server.of_type(F.QUEUE_BIND)] == [
            ["amq.gen-1", "amq.direct", "amq.gen-1"],
            ["amq.gen-2", "amq.direct", "amq.gen-2"],
        ]

    async def test_one_that_outlived_the_link_is_the_same_with_what_is_in_it(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue(durable=True)
        await queue.bind("amq.direct")
        await channel.publish(Message(b"x"), queue.name)
        await lose_and_restore(server, connection)
        assert queue.name == "amq.gen-1"
        assert server.of_type(F.QUEUE_BIND)[-1][3:6] == ["amq.gen-1", "amq.direct", "amq.gen-1"]
        message = await queue.get(no_ack=True)
        assert message.body == b"x"
        server.unacked.clear()
        server.queues.clear()  # the broker was restarted, and the queue was not durable, say
        await lose_and_restore(server, connection)
        assert queue.name == "amq.gen-2"
        await lose_and_restore(server, connection)
        assert queue.name == "amq.gen-2"

    async def test_one_with_a_name_keeps_it(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("mine", exclusive=True)
        await lose_and_restore(server, connection)
        assert queue.name == "mine"


class TestChannels:
    async def test_keep_their_numbers_and_their_prefetch(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        closed, other = await connection.channel(), await connection.channel(publisher_confirms=False)
        await closed.close()
        await other.set_qos(7, global_=True)
        await channel.set_qos(3)
        await (await channel.declare_queue("q")).consume(print)
        await restored(server, connection)
        assert [frame[2:4] for frame in server.of_type(F.CHANNEL_OPEN)[1:]] == [[1, True], [3, False]]
        assert [frame[2:] for frame in server.of_type(F.QOS)] == [[3, 7, True]]
        assert [consumer.room for consumer in server.consumers.values()] == [3]

    async def test_closed_ones_free_their_numbers(
        self, server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
    ) -> None:
        server.silent.add(F.CHANNEL_CLOSE)
        closing = asyncio.create_task(channel.close())
        await turns()
        server.silent.clear()
        other = await connection.channel()
        assert other.number == 2
        gate.close()
        await lose(server, connection)
        await closing
        await other.close()
        gate.open()
        await connection.wait_connected()
        assert (await connection.channel()).number == 1

    async def test_one_that_is_closed_while_all_is_restored_is_not_opened_again(
        self, server: FakeNativeServer, connection: Connection
    ) -> None:
        for steps in range(30):
            channel = await connection.channel()
            await channel.declare_queue("q")
            await lose(server, connection)
            await turns(steps)
            await channel.close()
            await connection.wait_connected()
            other = await connection.channel()
            assert other.number == 1
            await other.close()

    async def test_one_that_cannot_be_opened_again_says_so(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        server.errors[F.CHANNEL_OPEN] = (ReplyCode.NOT_ALLOWED, "too many")
        await lose_and_restore(server, connection)
        with pytest.raises(ChannelClosed, match="could not be opened again: channel_open: 530"):
            await channel.declare_queue("q")

    async def test_opening_one_survives_too(
        self, server: FakeNativeServer, connection: Connection, gate: Gate
    ) -> None:
        server.silent.add(F.CHANNEL_OPEN)
        opening = asyncio.ensure_future(connection.channel())
        await turns()
        gate.close()
        await lose(server, connection)
        server.silent.clear()
        later = asyncio.ensure_future(connection.channel())
        gate.open()
        assert ((await opening).number, (await later).number) == (1, 2)
        await (await opening).declare_queue("q")


class TestRequests:
    async def test_those_under_way_are_sent_again(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        server.silent |= {F.QUEUE_DECLARE, F.QUEUE_PURGE, F.GET, F.QOS, F.CONSUME}
        queue = await channel.get_queue("q", ensure=False)
        requests = [
            asyncio.ensure_future(request)
            for request in (
                channel.declare_queue("q"),
                queue.purge(),
                queue.get(fail=False),
                channel.set_qos(5),
                queue.consume(print),
            )
        ]
        await turns()
        server.silent.clear()
        await lose_and_restore(server, connection)
        await asyncio.gather(*requests)
        assert len(server.of_type(F.QUEUE_DECLARE)) == 2
        assert len(server.of_type(F.CONSUME)) == 2

    async def test_those_made_meanwhile_wait(
        self, server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
    ) -> None:
        gate.close()
        await lose(server, connection)
        declaring = asyncio.create_task(channel.declare_queue("q"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await channel.declare_queue("given-up")
        assert not declaring.done()
        gate.open()
        assert (await declaring).name == "q"
        assert "given-up" not in server.queues

    async def test_a_get_without_acks_is_not_repeated(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        server.silent.add(F.GET)
        getting = asyncio.ensure_future(queue.get(no_ack=True))
        await turns()
        await lose_and_restore(server, connection)
        with pytest.raises(ConnectionLost, match="a message may have been taken without acks, and be lost"):
            await getting


class TestConsumers:
    async def test_start_again_in_order_and_go_on(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        other = await connection.channel()
        taken: list[bytes] = []

        async def take(message: IncomingMessage) -> None:
            taken.append(message.body)

        queue = await other.declare_queue("q")
        consumers = [
            await queue.consume(take, consumer_tag="one", arguments={"x-priority": 5}),
            await (await channel.get_queue("q")).consume(take, prefetch_count=9),
            await queue.consume(take, exclusive=True),
        ]
        await consumers[2].stop()
        await restored(server, connection)
        assert [frame[2:] for frame in server.of_type(F.CONSUME)] == [
            [2, "q", 1, "one", False, False, 256, {"x-priority": 5}],
            [1, "q", 1, "", False, False, 9, {}],
        ]
        await channel.publish(Message(b"x"), "q")
        await turns()
        assert taken == [b"x"]

    async def test_deliveries_of_before_are_lost_and_come_again(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        await asyncio.gather(*(channel.publish(Message(b"%d" % number), "q") for number in range(4)))
        async with queue.iterator() as messages:
            first, second = await anext(messages), await anext(messages)
            await first.ack()
            await turns()
            got = await queue.get(fail=False)
            assert got is None
            await lose_and_restore(server, connection)
            with pytest.raises(DeliveryLost, match="the broker delivers it again"):
                await second.ack()
            assert not second.is_settled
            async with asyncio.timeout(PATIENCE_S):
                again = [await anext(messages) for _ in range(3)]  # two of them were in the buffer before
            assert [message.body for message in again] == [b"1", b"2", b"3"]
            for message in again:
                await message.ack()
            await turns()
            assert server.unacked == {}
            server.frames.clear()
            await lose_and_restore(server, connection)
            assert server.of_type(F.ACK) == []

    async def test_an_extension_while_it_breaks_extends_nothing_on_the_next_link(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        await channel.publish(Message(b"x"), "q")
        message = await queue.get()
        connection.link.transport.abandon()  # nobody has noticed yet
        with pytest.raises(DeliveryLost):
            await message.extend()
        assert server.of_type(F.EXTEND) == []

    async def test_replies_that_have_come_are_kept_for_they_do_not_come_again(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        server.queues["amq.rabbitmq.reply-to"].append(("", "", b"\0\0", b"reply"))
        async with replies.iterator(no_ack=True) as messages:
            await turns()
            server.unacked.clear()  # as it was sent without acks
            await lose_and_restore(server, connection)
            message = await anext(messages)
        assert message.body == b"reply"
        assert message.is_settled

    async def test_process_overlooks_that(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        await channel.publish(Message(b"x"), "q")
        message = await queue.get()
        async with message.process():
            await lose_and_restore(server, connection)
        again = await queue.get()
        assert again.body == b"x"

    async def test_acks_of_the_turn_in_which_it_breaks_settle_nothing_on_the_next_link(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        for body in (b"1", b"2"):
            await channel.publish(Message(body), "q")
        first, second = await queue.get(), await queue.get()
        lost = asyncio.Event()
        connection.on_lost(lambda _error: lost.set())
        server.lose()
        await first.ack()  # with tag 1, which is another message's soon
        await lost.wait()
        await connection.wait_connected()
        assert (await queue.get()).body == b"1"
        with pytest.raises(DeliveryLost):
            await second.ack()
        await turns()
        assert len(server.unacked) == 1
        assert server.of_type(F.ACK) == []

    async def test_one_that_is_stopped_meanwhile_stays_so(
        self, server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
    ) -> None:
        queue = await channel.declare_queue("q")
        consumer = await queue.consume(print)
        gate.close()
        await lose(server, connection)
        await consumer.stop()
        gate.open()
        await connection.wait_connected()
        assert server.consumers == {}

    async def test_one_whose_queue_is_gone_ends_with_the_brokers_error(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.get_queue("q", ensure=False)
        consumer = await queue.consume(print)
        server.errors[F.CONSUME] = (ReplyCode.NOT_FOUND, "no queue 'q'")
        await lose_and_restore(server, connection)
        with pytest.raises(NotFound):
            await consumer.wait()
        server.frames.clear()
        await lose_and_restore(server, connection)
        assert server.of_type(F.CONSUME) == []

    async def test_one_that_was_cancelled_with_its_queue_is_forgotten_like_the_queue(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        await queue.bind("amq.direct")
        consumer = await queue.consume(print)
        server._queue_delete(1, "q")  # by somebody else
        server.flush()
        with pytest.raises(Exception, match="its queue was deleted"):
            await consumer.wait()
        assert await names_restored(server, connection) == []
        assert server.consumers == {}

    async def test_one_that_was_cancelled_for_a_late_ack_leaves_its_queue_where_it_is(
        self, server: FakeNativeServer, connection: Connection, channel: Channel
    ) -> None:
        queue = await channel.declare_queue("q")
        consumer = await queue.consume(print)
        server.protocol.send(F.CONSUMER_CANCELLED, 1, 1, False)
        server.flush()
        with pytest.raises(Exception, match="longer than the consumer timeout"):
            await consumer.wait()
        assert await names_restored(server, connection) == ["queue_declare q"]

    async def test_an_exclusive_one_waits_for_our_own_broken_connection(
        self, server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
    ) -> None:
        queue = await channel.declare_queue("q")
        consumer = await queue.consume(print, exclusive=True)
        server.errors[F.CONSUME] = (ReplyCode.ACCESS_REFUSED, "in exclusive use")
        gate.close()
        await lose(server, connection)
        gate.open()
        while len(gate.delays) < 3:
            await turns()
        server.errors.clear()
        await connection.wait_connected()
        assert len(server.consumers) == 1
        await consumer.stop()


class TestTransactions:
    async def test_a_block_in_which_the_connection_breaks_raises_and_the_next_works(
        self, server: FakeNativeServer, connection: Connection
    ) -> None:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue("q")

        async def block() -> None:
            async with channel.transaction():
                await channel.publish(Message(b"1"), "q")
                await turns()
                await lose_and_restore(server, connection)
                with pytest.raises(ConnectionLost, match="nothing of it has happened"):
                    await channel.publish(Message(b"2"), "q")

        with pytest.raises(ConnectionLost, match="nothing of it has happened"):
            await block()
        assert server.of_type(F.TX_COMMIT) == []
        server.frames.clear()
        async with channel.transaction():
            await channel.publish(Message(b"3"), "q")
        assert [F(frame[0]).name for frame in server.frames] == ["TX_SELECT", "PUBLISH", "TX_COMMIT"]

    async def test_an_end_that_was_under_way_is_left_open(
        self, server: FakeNativeServer, connection: Connection
    ) -> None:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue("q")
        server.silent.add(F.TX_COMMIT)

        async def block() -> None:
            async with channel.transaction():
                await channel.publish(Message(b"1"), "q")

        committing = asyncio.create_task(block())
        await turns()
        await lose_and_restore(server, connection)
        with pytest.raises(ConnectionLost, match="whether it has happened is unknown"):
            await committing


async def test_objects_stay_what_they_are(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    exchange: Exchange = channel.default_exchange
    queue: Queue = await channel.declare_queue("q")
    for number in range(5):
        await lose_and_restore(server, connection)
        await exchange.publish(Message(b"%d" % number), queue.name)
        message = await queue.get()
        assert message.body == b"%d" % number
        await message.ack()
        await turns()
