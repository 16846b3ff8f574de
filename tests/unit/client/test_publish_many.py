"""`publish_many`, and how much may be under way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fake_native_server import FakeNativeServer
from reconnects import Gate, lose_and_restore, turns

from leveret import (
    Blocked,
    Channel,
    ChannelClosed,
    LeveretError,
    Message,
    Nacked,
    PublishFailed,
    PublishTimeout,
    Unroutable,
)
from leveret.client.publisher import IN_FLIGHT_MAX
from leveret.protocol.native.layouts import FrameType


@pytest.fixture
async def channel(server: FakeNativeServer) -> AsyncIterator[Channel]:
    async with server.connect() as connection:
        channel = await connection.channel()
        await channel.declare_queue("q")
        yield channel


def some(count: int) -> list[Message]:
    return [Message(b"%d" % number) for number in range(count)]


def bodies(server: FakeNativeServer) -> list[int]:
    return [int(body) for *_, body in server.queues["q"]]


async def test_returns_when_all_are_confirmed(server: FakeNativeServer, channel: Channel) -> None:
    server.hold_confirms = True
    publishing = asyncio.create_task(channel.publish_many(some(100), "q"))
    await turns()
    assert bodies(server) == list(range(100))
    server.send(FrameType.CONFIRM, 1, [[1, 99]])
    await turns()
    assert not publishing.done()
    server.confirm_all()
    await publishing


async def test_takes_anything_that_gives_messages(server: FakeNativeServer, channel: Channel) -> None:
    await channel.publish_many((message for message in some(3)), "q")
    await channel.publish_many([], "q")
    await channel.default_exchange.publish_many(some(1), "q")
    assert bodies(server) == [0, 1, 2, 0]


async def test_more_than_may_be_under_way(server: FakeNativeServer, channel: Channel) -> None:
    server.hold_confirms = True
    count = 3 * IN_FLIGHT_MAX + 7
    publishing = asyncio.create_task(channel.publish_many(some(count), "q"))
    highest = 0
    while not publishing.done():
        await turns()
        highest = max(highest, len(channel._publisher._pending))
        assert len(channel._publisher._waiting) <= IN_FLIGHT_MAX
        server.confirm_all()
    await publishing
    assert 0 < highest <= IN_FLIGHT_MAX
    assert bodies(server) == list(range(count))


async def test_those_that_failed_are_told_and_the_others_are_published(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.hold_confirms = True
    messages = some(5)
    publishing = asyncio.create_task(channel.publish_many(messages, "q"))
    await turns()
    server.send(FrameType.REFUSE, 1, [2, 4], 506, "RESOURCE_ERROR - full")
    server.send(FrameType.RETURN, 1, [[5, 312, "NO_ROUTE"]])
    server.send(FrameType.CONFIRM, 1, [[0, 5]])
    with pytest.raises(
        PublishFailed, match="3 of 5 messages were not published; the first: publish: 506"
    ) as e:
        await publishing
    assert isinstance(e.value, LeveretError)
    assert [type(error) for error in e.value.exceptions] == [Nacked, Nacked, Unroutable]
    assert e.value.messages == [messages[1], messages[3], messages[4]]


async def test_except_star_picks_those_of_one_kind(server: FakeNativeServer, channel: Channel) -> None:
    groups: list[object] = []
    try:
        await channel.publish_many(some(2), "nowhere")
    except* Unroutable as group:
        groups.append(group)
    [group] = groups
    assert isinstance(group, PublishFailed)
    assert [message.body for message in group.messages] == [b"0", b"1"]
    await channel.publish_many(some(2), "nowhere", mandatory=False)


async def test_one_that_makes_no_sense_keeps_all_from_being_published(
    server: FakeNativeServer, channel: Channel
) -> None:
    with pytest.raises(TypeError, match=r"takes a leveret\.Message, not bytes"):
        await channel.publish_many([*some(2), b"x"], "q")  # type: ignore[list-item]  # the mistake
    await turns()
    assert bodies(server) == []


async def test_when_the_time_is_over_each_that_is_late_is_told(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.hold_confirms = True
    messages = some(2 * IN_FLIGHT_MAX)
    publishing = asyncio.create_task(channel.publish_many(messages, "q", timeout_s=0.5))
    await turns()
    server.send(FrameType.CONFIRM, 1, [[1, 10]])
    with pytest.raises(PublishFailed) as caught:
        await publishing
    errors = [error for error in caught.value.exceptions if isinstance(error, PublishTimeout)]
    assert caught.value.messages == messages[10:]
    assert [error.was_sent for error in errors] == [True] * len(bodies(server)[10:]) + [False] * (
        len(messages) - len(bodies(server))
    )
    server.hold_confirms = False
    server.confirm_all()
    await turns()
    assert len(channel._publisher._waiting) == len(channel._publisher._pending) == 0
    assert len(bodies(server)) < len(messages)  # what had not left does not leave any more


async def test_blocked_is_the_reason_if_it_is(server: FakeNativeServer, channel: Channel) -> None:
    server.send(FrameType.BLOCKED, "low on disk")
    await turns()
    with pytest.raises(PublishFailed, match="the broker is low on disk") as caught:
        await channel.publish_many(some(2), "q", timeout_s=0.01)
    assert [type(error) for error in caught.value.exceptions] == [Blocked, Blocked]


async def test_cancelling_it_keeps_the_rest_from_being_sent(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.send(FrameType.BLOCKED, "low on disk")
    await turns()
    publishing = asyncio.create_task(channel.publish_many(some(5), "q"))
    await turns()
    publishing.cancel()
    await turns()
    server.send(FrameType.UNBLOCKED)
    await turns()
    assert bodies(server) == []


async def test_a_channel_that_closes_fails_all_that_is_left(
    server: FakeNativeServer, channel: Channel
) -> None:
    server.hold_confirms = True
    publishing = asyncio.create_task(channel.publish_many(some(2 * IN_FLIGHT_MAX), "q"))
    await turns()
    await channel.close()
    with pytest.raises(PublishFailed) as caught:
        await publishing
    assert {type(error) for error in caught.value.exceptions} == {ChannelClosed}
    assert len(caught.value.messages) == 2 * IN_FLIGHT_MAX


async def test_it_survives_the_connection(server: FakeNativeServer) -> None:
    server.hold_confirms = True
    async with server.connect(reconnect=Gate().policy()) as connection:
        channel = await connection.channel()
        await channel.declare_queue("q")
        publishing = asyncio.create_task(channel.publish_many(some(IN_FLIGHT_MAX + 9), "q"))
        await turns()
        await lose_and_restore(server, connection)
        while not publishing.done():
            server.confirm_all()
            await turns()
        await publishing
        assert bodies(server) == list(range(IN_FLIGHT_MAX + 9))


async def test_without_confirms_it_returns_when_all_are_sent(server: FakeNativeServer) -> None:
    server.hold_confirms = True
    async with server.connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue("q")
        await channel.publish_many(some(3), "q")
        async with channel.transaction():
            await channel.publish_many(some(2), "q")
        assert bodies(server) == [0, 1, 2, 0, 1]


async def test_bytes_under_way_are_bounded_too(
    server: FakeNativeServer, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leveret.client.publisher.IN_FLIGHT_BYTES_MAX", 10_000)
    server.hold_confirms = True
    publishes = [asyncio.create_task(channel.publish(Message(bytes(4000)), "q")) for _ in range(7)]
    sent = []
    while not all(publish.done() for publish in publishes):
        await turns()
        sent.append(len(server.queues["q"]))
        assert channel._publisher._pending_bytes < 10_000 + 5_000
        server.confirm_all()
    assert sent[:2] == [3, 6]
    assert channel._publisher._pending_bytes == 0
