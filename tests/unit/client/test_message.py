"""Messages: what is sent of them, and what a reader does with one."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from fake_native_server import FakeNativeServer

from leveret import AlreadySettled, ChannelClosed, DeliveryMode, IncomingMessage, Message
from leveret.client.channel import Channel
from leveret.protocol.amqp.properties import decode_properties
from leveret.protocol.native.layouts import FrameType


async def test_all_properties_arrive() -> None:
    when = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    sent = Message(
        b"body",
        headers={"n": 1, "nested": {"list": [1, "x"]}},
        content_type="text/plain",
        content_encoding="gzip",
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration=timedelta(seconds=1.5),
        message_id="m",
        timestamp=when,
        type="t",
        user_id="guest",
        app_id="a",
    )
    async with FakeNativeServer().connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("q")
        await channel.publish(sent, "q")
        got = await queue.get()
        assert got is not None
        assert (got.body, got.exchange, got.routing_key, got.redelivered) == (b"body", "", "q", False)
        assert got.headers == {"n": 1, "nested": {"list": [1, "x"]}}
        assert (got.content_type, got.content_encoding, got.priority) == ("text/plain", "gzip", 3)
        assert (got.correlation_id, got.reply_to, got.expiration) == ("c", "r", 1.5)
        assert (got.message_id, got.timestamp, got.type) == ("m", when, "t")
        assert (got.user_id, got.app_id, got.delivery_mode) == ("guest", "a", 2)


def test_a_message_is_persistent_unless_told_otherwise() -> None:
    assert decode_properties(Message(b"").encode_properties()).delivery_mode == 2
    assert decode_properties(Message(b"", delivery_mode=1).encode_properties()).delivery_mode == 1


def test_changing_a_message_changes_the_next_publish() -> None:
    message = Message(b"", message_id="1")
    first = message.encode_properties()
    message.message_id = "2"
    assert decode_properties(first).message_id == "1"
    assert decode_properties(message.encode_properties()).message_id == "2"


@pytest.mark.parametrize(
    ("expiration", "text"), [(1, "1000"), (0, "0"), (0.0015, "2"), (timedelta(days=1), "86400000")]
)
def test_expiration_is_in_seconds_and_travels_in_milliseconds(
    expiration: timedelta | float, text: str
) -> None:
    assert decode_properties(Message(b"", expiration=expiration).encode_properties()).expiration == text


@pytest.mark.parametrize(
    "message",
    [
        Message(b""),
        Message(b"plain", message_id="m1", delivery_mode=DeliveryMode.NOT_PERSISTENT),
        Message(
            b"everything",
            headers={"text": "a", "number": 2**40, "table": {"list": [1, None, b"raw"]}},
            content_type="text/plain",
            content_encoding="gzip",
            priority=5,
            correlation_id="c",
            reply_to="r",
            expiration=0.25,
            message_id="m2",
            timestamp=datetime(2024, 5, 1, tzinfo=UTC),
            type="t",
            user_id="guest",
            app_id="app",
        ),
    ],
)
def test_a_message_comes_back_from_its_properties(message: Message) -> None:
    properties = message.encode_properties()
    again = Message.from_properties(message.body, properties)
    assert again.encode_properties() == properties
    assert again.body == message.body
    assert again.headers == message.headers


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes, not str; encode it first"):
        Message("text")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ValueError, match="negative"):
        Message(b"", expiration=-1).encode_properties()
    with pytest.raises(TypeError, match="expiration is a timedelta or a number of seconds, not str"):
        Message(b"", expiration="60000").encode_properties()  # type: ignore[arg-type]  # as other clients do
    for headers in (None, {"a": 1}):
        with pytest.raises(ValueError, match=r"delivery_mode is .*PERSISTENT \(2\) or .* \(1\), not 3"):
            Message(b"", delivery_mode=3, headers=headers).encode_properties()
    with pytest.raises(ValueError, match="priority: must be an integer of 0 to 255, not 300"):
        Message(b"", priority=300).encode_properties()
    with pytest.raises(ValueError, match="correlation_id: must be a string, not int"):
        Message(b"", correlation_id=5).encode_properties()  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="headers: a field table cannot hold a value of type object"):
        Message(b"", headers={"a": object()}).encode_properties()  # type: ignore[dict-item]  # the mistake
    with pytest.raises(ValueError, match="headers: a field name must be a string, not int"):
        Message(b"", headers={1: "a"}).encode_properties()  # type: ignore[dict-item]  # the mistake
    with pytest.raises(ValueError, match="over 131072"):
        Message(b"", headers={"x": "y" * 200_000}).encode_properties()


async def one_message(
    server: FakeNativeServer, channel: Channel, *, redelivered: bool = False
) -> IncomingMessage:
    queue = await channel.declare_queue("q")
    await channel.publish(Message(b""), "q")
    message = await queue.get()
    assert message is not None
    if redelivered:
        message._flags = 1
    return message


async def settled(server: FakeNativeServer) -> list[list[object]]:
    """The settlements that the server was sent, without request and channel."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    kinds = (FrameType.ACK, FrameType.NACK, FrameType.REJECT)
    return [[FrameType(frame[0]).name, *frame[3:]] for frame in server.frames if frame[0] in kinds]


class TestProcess:
    async def test_acks_when_the_block_ends_well(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection, await connection.channel() as channel:
            async with (await one_message(server, channel)).process() as message:
                assert not message.is_settled
            assert message.is_settled
            assert await settled(server) == [["ACK", [1]]]

    @pytest.mark.parametrize(
        ("requeue", "redelivered", "requeued"),
        [(False, False, False), (True, False, True), (True, True, False)],
    )
    async def test_rejects_when_the_block_raises(
        self, server: FakeNativeServer, requeue: bool, redelivered: bool, requeued: bool
    ) -> None:
        async with server.connect() as connection, await connection.channel() as channel:
            message = await one_message(server, channel, redelivered=redelivered)
            with pytest.raises(ZeroDivisionError):
                async with message.process(requeue=requeue, reject_on_redelivered=True):
                    raise ZeroDivisionError
            assert await settled(server) == [["REJECT", [1], requeued]]

    async def test_hands_it_back_when_the_block_is_cancelled(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection, await connection.channel() as channel:
            message = await one_message(server, channel)
            with pytest.raises(asyncio.CancelledError):
                async with message.process():
                    raise asyncio.CancelledError
            assert await settled(server) == [["NACK", [1], True]]

    async def test_shows_the_error_of_the_block_on_a_closed_channel(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection:
            channel = await connection.channel()
            message = await one_message(server, channel)
            await channel.close()
            with pytest.raises(ZeroDivisionError):
                async with message.process():
                    raise ZeroDivisionError
            with pytest.raises(asyncio.CancelledError):
                async with message.process():
                    raise asyncio.CancelledError

    async def test_can_leave_a_settled_message_alone(self, server: FakeNativeServer) -> None:
        async with server.connect() as connection, await connection.channel() as channel:
            async with (await one_message(server, channel)).process(ignore_processed=True) as message:
                await message.nack(requeue=False)
            assert await settled(server) == [["NACK", [1], False]]


async def test_settling_twice_says_what_happened_before() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection, await connection.channel() as channel:
        message = await one_message(server, channel)
        await message.ack()
        with pytest.raises(AlreadySettled, match="message 1 cannot be nacked: it was acked before"):
            await message.nack()
        assert await settled(server) == [["ACK", [1]]]


async def test_settling_on_a_closed_channel_says_so() -> None:
    server = FakeNativeServer()
    async with server.connect() as connection:
        channel = await connection.channel()
        message = await one_message(server, channel)
        await channel.close()
        with pytest.raises(ChannelClosed, match="open another one"):
            await message.ack()
        assert not message.is_settled
