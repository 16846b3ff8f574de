"""Publishing: confirms, batches, back-pressure, and what can go wrong."""

import asyncio

import pytest
from fake_native_server import FakeNativeServer

from leveret import ConnectionLost, Message, Nacked, NotFound, PreconditionFailed, Unroutable
from leveret.client.publisher import IN_FLIGHT_MAX
from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.layouts import FrameType


async def turns(count: int = 5) -> None:
    """Let the loop run until everything that is on its way has arrived."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_publish_returns_when_the_broker_has_confirmed_and_not_before() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publish = asyncio.create_task(channel.publish(Message(b"x"), "q"))
        await turns()
        assert server.unconfirmed == {1: [1]}
        assert not publish.done()
        server.confirm_all()
        await publish


async def test_an_exchange_and_a_queue_stand_for_their_names() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        exchange, queue = channel.default_exchange, await channel.declare_queue("q")
        await channel.publish(Message(b"1"), queue, exchange=exchange)
        await channel.publish_many([Message(b"2")], queue, exchange=exchange)
        await exchange.publish(Message(b"3"), queue)
        await exchange.publish_many([Message(b"4")], queue)
        sent = [entry for frame in server.of_type(FrameType.PUBLISH) for entry in frame[3]]
        assert [(*entry[:2], entry[4]) for entry in sent] == [("", "q", b"%d" % n) for n in range(1, 5)]


async def test_all_publishes_of_a_turn_leave_as_one_frame_in_one_write() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        assert server.socket is not None
        server.socket.writes.clear()
        await asyncio.gather(*(channel.publish(Message(b"%d" % number), "q") for number in range(100)))
        [frame] = server.of_type(FrameType.PUBLISH)
        assert [entry[4] for entry in frame[3]] == [b"%d" % number for number in range(100)]
        assert len(server.socket.writes) == 1


async def test_a_batch_that_grows_large_is_split() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        bodies = [bytes(size) for size in (50_000, 50_000, 50_000, 1_000_000, 10, 10)]
        await asyncio.gather(*(channel.publish(Message(body), "q") for body in bodies))
        assert [len(frame[3]) for frame in server.of_type(FrameType.PUBLISH)] == [2, 1, 1, 2]
        assert [len(body) for *_, body in server.queues["q"]] == [len(body) for body in bodies]


async def test_a_batch_has_no_more_entries_than_the_protocol_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leveret.client.publisher.BATCH_BYTES", 1 << 30)
    server = FakeNativeServer()
    async with server.connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        for _ in range(ENTRIES_MAX + 1):
            await channel.publish(Message(b""), "q")
        await channel.declare_queue("q")
        assert [len(frame[3]) for frame in server.of_type(FrameType.PUBLISH)] == [ENTRIES_MAX, 1]


async def test_the_largest_message_fits_a_frame_whatever_was_published_before_it() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        largest = Message(bytes(connection.message_max_bytes), headers={"k": "v" * 131_000})
        await asyncio.gather(
            *(channel.publish(message, "q") for message in (Message(bytes(100_000)), largest))
        )


async def test_an_unroutable_message_is_raised_with_the_message() -> None:
    async with FakeNativeServer().connect() as connection, await connection.channel() as channel:
        message = Message(b"lost")
        with pytest.raises(Unroutable, match=r"no queue 'nowhere'.*mandatory=False") as caught:
            await channel.publish(message, "nowhere")
        assert caught.value.message is message
        await channel.publish(message, "nowhere", mandatory=False)


async def test_a_refused_message_raises_for_its_publisher_only() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        exchange = await channel.get_exchange("missing", ensure=False)
        outcomes = await asyncio.gather(
            channel.publish(Message(b"1"), "q"),
            exchange.publish(Message(b"2"), "q"),
            channel.publish(Message(b"3"), "q"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), NotFound, type(None)]
        assert "no exchange 'missing'" in str(outcomes[1])


@pytest.mark.parametrize(("code", "error"), [(506, Nacked), (406, PreconditionFailed)])
async def test_the_reply_code_chooses_the_error(code: int, error: type[Exception]) -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publishes = [asyncio.create_task(channel.publish(Message(b""), "q")) for _ in range(3)]
        await turns()
        server.send(FrameType.REFUSE, 1, [2], code, "why")
        server.send(FrameType.CONFIRM, 1, [[0, 3]])
        outcomes = await asyncio.gather(*publishes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), error, type(None)]


async def test_confirms_may_come_in_any_form_and_order() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publishes = [asyncio.create_task(channel.publish(Message(b""), "q")) for _ in range(9)]
        await turns()
        for tags, done in (([9, 2], {2, 9}), ([[4, 5]], {2, 4, 5, 9}), ([[0, 6], 1], {1, 2, 3, 4, 5, 6, 9})):
            server.send(FrameType.CONFIRM, 1, tags)
            await turns()
            assert {number for number, publish in enumerate(publishes, 1) if publish.done()} == done
        server.send(FrameType.CONFIRM, 1, [[0, 9]])
        await asyncio.gather(*publishes)


async def test_a_range_may_cover_everything() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publishes = [asyncio.create_task(channel.publish(Message(b""), "q")) for _ in range(3)]
        await turns()
        server.send(FrameType.CONFIRM, 1, [[0, 0]])
        await asyncio.gather(*publishes)


async def test_only_so_many_are_in_flight_and_the_others_wait_in_order() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        count = IN_FLIGHT_MAX + 10
        publishes = [asyncio.create_task(channel.publish(Message(b"%d" % n), "q")) for n in range(count)]
        await turns()
        assert len(server.queues["q"]) == IN_FLIGHT_MAX
        server.confirm_all()
        await turns()
        assert [int(body) for _, _, _, body in server.queues["q"]] == list(range(count))
        server.confirm_all()
        await asyncio.gather(*publishes)


async def test_a_full_socket_holds_publishers_back() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        connection.link.transport.pause_writing()
        publish = asyncio.create_task(channel.publish(Message(b""), "q"))
        await turns()
        assert server.of_type(FrameType.PUBLISH) == []
        connection.link.transport.resume_writing()
        await publish


async def test_a_cancelled_publish_gives_its_slot_back_with_its_confirm() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection, await connection.channel() as channel:
        await channel.declare_queue("q")
        publish = asyncio.create_task(channel.publish(Message(b""), "nowhere"))
        await turns()
        publish.cancel()
        await turns()
        publisher = channel._publisher
        assert len(publisher._pending) == 1
        server.confirm_all()
        await turns()
        assert (publisher._pending, publisher._pending_bytes) == ({}, 0)
        assert publisher._returned == set()


async def test_without_confirms_publish_does_not_wait() -> None:
    server = FakeNativeServer(hold_confirms=True)
    async with server.connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        for _ in range(3):
            await channel.publish(Message(b""), "q", mandatory=False)
        await turns()
        assert [len(frame[3]) for frame in server.of_type(FrameType.PUBLISH)] == [3]
        assert server.of_type(FrameType.CHANNEL_OPEN)[0][3] is False


async def test_without_confirms_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeNativeServer().connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.publish(Message(b""), "q", exchange="missing")
        await channel.publish(Message(b""), "nowhere")
        await turns()
        assert "a publish without confirms was refused: 404 NOT_FOUND - no exchange 'missing'" in caplog.text
        assert "1 mandatory messages without confirms reached no queue" in caplog.text


async def test_what_was_published_leaves_before_the_request_behind_it() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.publish(Message(b""), "q", mandatory=False)
        await channel.close()
        assert [FrameType(frame[0]).name for frame in server.frames[-2:]] == ["PUBLISH", "CHANNEL_CLOSE"]


async def test_a_body_over_the_brokers_limit_is_not_sent() -> None:
    server = FakeNativeServer()
    server.protocol.message_max = 10
    async with server.connect() as connection, await connection.channel() as channel:
        with pytest.raises(ValueError, match="the body has 11 bytes; the broker takes up to 10"):
            await channel.publish(Message(bytes(11)), "q")
        await channel.publish(Message(bytes(10)), "q", mandatory=False)


async def test_a_lost_connection_leaves_open_whether_it_arrived() -> None:
    server = FakeNativeServer(hold_confirms=True)
    connection = await server.connect()
    channel = await connection.channel()
    await channel.declare_queue("q")
    publishes = [asyncio.create_task(channel.publish(Message(b""), "q")) for _ in range(IN_FLIGHT_MAX + 1)]
    await turns()
    assert server.socket is not None
    server.socket.lose()
    outcomes = await asyncio.gather(*publishes, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionLost}
