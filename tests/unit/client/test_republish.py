"""Publishes over several links: what was not confirmed is sent again, once, and what was not sent waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fake_native_server import FakeNativeServer
from reconnects import Gate, lose, lose_and_restore, turns

from leveret import (
    Channel,
    ChannelClosed,
    Connection,
    Message,
    NotFound,
    PreconditionFailed,
    PublishTimeout,
    Unroutable,
)
from leveret.client.publisher import IN_FLIGHT_MAX, PRODUCER_WINDOW
from leveret.protocol.native.connection import BATCH_BYTES
from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.layouts import FrameType


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server() -> FakeNativeServer:
    return FakeNativeServer(hold_confirms=True)


@pytest.fixture
async def connection(server: FakeNativeServer, gate: Gate) -> AsyncIterator[Connection]:
    async with server.connect(reconnect=gate.policy()) as connection:
        yield connection


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    channel = await connection.channel()
    await channel.declare_queue("q")
    return channel


def publishes(channel: Channel, *bodies: bytes) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(channel.publish(Message(body), "q")) for body in bodies]


def bodies(server: FakeNativeServer) -> list[bytes]:
    return [body for *_, body in server.queues["q"]]


def tags(server: FakeNativeServer) -> list[tuple[int, int]]:
    """The first tag and the number of messages of each PUBLISH."""
    return [(frame[2], len(frame[3])) for frame in server.of_type(FrameType.PUBLISH)]


async def test_what_the_broker_had_accepted_is_confirmed_and_not_doubled(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    tasks = publishes(channel, b"1", b"2", b"3")
    await turns()
    assert bodies(server) == [b"1", b"2", b"3"]
    await lose_and_restore(server, connection)
    await turns()
    assert tags(server) == [(1, 3), (1, 3)]
    assert not any(task.done() for task in tasks)
    server.confirm_all()
    await asyncio.gather(*tasks)
    assert bodies(server) == [b"1", b"2", b"3"]


async def test_what_had_not_arrived_arrives_then(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    server.hold_confirms = False
    await channel.publish(Message(b"0"), "q")
    tasks = publishes(channel, b"1", b"2")
    await asyncio.sleep(0)
    server.lose()  # in the turn in which they would have left
    later = publishes(channel, b"3")
    await turns()
    await connection.wait_connected()
    await asyncio.gather(*tasks, *later)
    assert bodies(server) == [b"0", b"1", b"2", b"3"]


async def test_only_what_has_no_answer_is_sent_again_with_gaps_in_the_tags(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    tasks = publishes(channel, *(b"%d" % number for number in range(1, 8)))
    await turns()
    server.send(FrameType.CONFIRM, 1, [1, [3, 4]])
    server.send(FrameType.REFUSE, 1, [6], 404, "NOT_FOUND - no exchange")
    await turns()
    server.frames.clear()
    await lose_and_restore(server, connection)
    await turns()
    assert tags(server) == [(2, 1), (5, 1), (7, 1)]
    server.hold_confirms = False
    server.confirm_all()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(NotFound) == 1
    await channel.publish(Message(b"8"), "q")
    assert tags(server)[-1] == (8, 1)  # the tags go on


async def test_they_are_sent_again_in_batches_that_fit(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    size = BATCH_BYTES // 2 - 1000
    tasks = publishes(channel, *(bytes(size) for _ in range(5)))
    await turns()
    server.frames.clear()
    await lose_and_restore(server, connection)
    await turns()
    assert tags(server) == [(1, 2), (3, 2), (5, 1)]
    assert all(len(frame[3]) <= ENTRIES_MAX for frame in server.of_type(FrameType.PUBLISH))
    server.confirm_all()
    await asyncio.gather(*tasks)


async def test_what_is_published_meanwhile_waits_behind_what_was_sent_before(
    server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
) -> None:
    tasks = publishes(channel, b"1")
    await turns()
    gate.close()
    await lose(server, connection)
    tasks += publishes(channel, b"2", b"3")
    await turns()
    server.frames.clear()
    gate.open()
    await connection.wait_connected()
    await turns()
    assert tags(server) == [(1, 1), (2, 2)]
    server.confirm_all()
    await asyncio.gather(*tasks)
    assert bodies(server) == [b"1", b"2", b"3"]


async def test_who_gives_up_meanwhile_publishes_nothing(
    server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
) -> None:
    gate.close()
    await lose(server, connection)
    with pytest.raises(PublishTimeout, match="the connection is broken and not restored yet") as caught:
        await channel.publish(Message(b"late"), "q", timeout_s=0.01)
    assert not caught.value.was_sent
    [cancelled] = publishes(channel, b"cancelled")
    await turns()
    cancelled.cancel()
    await turns()
    assert len(channel._publisher._waiting) == 0
    gate.open()
    await connection.wait_connected()
    await turns()
    assert bodies(server) == []


async def test_who_gave_up_after_it_was_sent_is_not_sent_again(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    with pytest.raises(PublishTimeout) as caught:
        await channel.publish(Message(b"x"), "q", timeout_s=0.01)
    assert caught.value.was_sent
    server.frames.clear()
    await lose_and_restore(server, connection)
    await turns()
    assert tags(server) == []
    assert channel._publisher._pending_bytes == 0


async def test_a_return_counts_for_the_link_that_it_came_over(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    publish = asyncio.create_task(channel.publish(Message(b"x"), "nowhere"))
    await turns()
    server.last_tags.clear()  # a returned publish is tried again
    server.queues["nowhere"].clear()  # for now there is a queue
    await lose_and_restore(server, connection)
    await turns()
    server.confirm_all()
    await publish
    del server.queues["nowhere"]
    publish = asyncio.create_task(channel.publish(Message(b"y"), "nowhere"))
    await turns()
    server.confirm_all()
    with pytest.raises(Unroutable) as caught:
        await publish
    assert caught.value.message.body == b"y"


async def test_a_broker_that_knows_more_than_we_do_is_believed(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    server.last_tags[channel._publisher.producer] = 41
    await lose_and_restore(server, connection)
    publishes(channel, b"x")
    await turns()
    assert tags(server) == [(42, 1)]


async def test_channels_have_producers_of_their_own(connection: Connection, channel: Channel) -> None:
    other = await connection.channel()
    assert len({channel._publisher.producer, other._publisher.producer}) == 2
    assert len(other._publisher.producer) == 16
    assert (await connection.channel(publisher_confirms=False))._publisher.producer == b""


async def test_closing_a_channel_while_reconnecting_ends_its_publishes(
    server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
) -> None:
    tasks = publishes(channel, b"1")
    await turns()
    gate.close()
    await lose(server, connection)
    tasks += publishes(channel, b"2")
    await turns()
    await channel.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ChannelClosed] * 2
    assert [outcome.message.body for outcome in outcomes] == [b"1", b"2"]  # type: ignore[union-attr]
    gate.open()
    await connection.wait_connected()
    assert tags(server) == [(1, 1)]


async def test_without_confirms_publishing_goes_on_from_the_first_tag(
    server: FakeNativeServer, connection: Connection, gate: Gate
) -> None:
    channel = await connection.channel(publisher_confirms=False)
    await channel.declare_queue("q")
    await channel.publish(Message(b"1"), "q")
    await turns()
    gate.close()
    await lose(server, connection)
    publish = asyncio.create_task(channel.publish(Message(b"2"), "q"))
    await turns()
    assert not publish.done()
    gate.open()
    await publish
    await turns()
    assert tags(server) == [(1, 1), (1, 1)]
    assert bodies(server) == [b"1", b"2"]


async def test_the_bound_holds_over_links(
    server: FakeNativeServer, connection: Connection, channel: Channel
) -> None:
    tasks = publishes(channel, *(b"%d" % number for number in range(IN_FLIGHT_MAX + 5)))
    await turns()
    await lose_and_restore(server, connection)
    await turns()
    assert len(bodies(server)) == IN_FLIGHT_MAX
    while not all(task.done() for task in tasks):
        server.confirm_all()
        await turns()
    assert [int(body) for body in bodies(server)] == list(range(IN_FLIGHT_MAX + 5))


async def test_the_window_of_tags_is_not_exceeded(
    server: FakeNativeServer, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leveret.client.publisher.PRODUCER_WINDOW", 10)
    assert PRODUCER_WINDOW == 65_536
    tasks = publishes(channel, b"0")  # has no answer for long
    await turns()
    for number in range(1, 20):
        tasks += publishes(channel, b"%d" % number)
        await turns()
        server.unconfirmed.clear()
        server.send(FrameType.CONFIRM, 1, [[2, 20]])
        await turns()
    assert len(bodies(server)) == 10
    server.hold_confirms = False
    server.send(FrameType.CONFIRM, 1, [1])
    await asyncio.gather(*tasks)
    assert [int(body) for body in bodies(server)] == list(range(20))


async def test_what_is_too_large_for_the_broker_by_now_fails_alone(
    server: FakeNativeServer, connection: Connection, channel: Channel, gate: Gate
) -> None:
    """A frame that is too long would end that connection, too, and the next one."""
    sent = publishes(channel, b"small", bytes(3_000_000))
    await turns()
    server.queues["q"].clear()
    gate.close()
    await lose(server, connection)
    waiting = publishes(channel, bytes(3_000_000), b"later")
    await turns()
    server.protocol.message_max = 1_000_000
    server.hold_confirms = False
    gate.open()
    await asyncio.wait_for(asyncio.gather(sent[0], waiting[1]), 5)
    for task in (sent[1], waiting[0]):
        with pytest.raises(
            PreconditionFailed, match="3000000 is larger than the 1000000 that the broker takes"
        ):
            await task
