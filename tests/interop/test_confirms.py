"""Publisher confirms: each publish is answered exactly once."""

import asyncio
from collections.abc import Callable

import pytest
from adapters.face import PERSISTENT, Client, ClientChannel, PublishRefused
from adapters.steps import drain, message_count

Name = Callable[[str], str]


async def test_a_confirmed_message_is_in_the_queue(channel: ClientChannel, name: Name) -> None:
    queue = name("durable")
    await channel.declare_queue(queue, durable=True)

    await channel.publish(b"kept", routing_key=queue, properties=PERSISTENT)

    assert await message_count(channel, queue) == 1


async def test_every_publish_is_confirmed(channel: ClientChannel, name: Name) -> None:
    queue = name("durable")
    await channel.declare_queue(queue, durable=True)
    bodies = [b"%d" % number for number in range(200)]

    await asyncio.gather(*(channel.publish(b, routing_key=queue, properties=PERSISTENT) for b in bodies))

    assert await drain(channel, queue) == bodies


async def test_an_unroutable_publish_is_confirmed(channel: ClientChannel, name: Name) -> None:
    await channel.publish(b"to nobody", routing_key=name("missing"), properties=PERSISTENT)


async def test_a_full_queue_that_rejects_publishes_refuses(channel: ClientChannel, name: Name) -> None:
    queue = name("full")
    await channel.declare_queue(queue, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    await channel.publish(b"1", routing_key=queue)
    await channel.publish(b"2", routing_key=queue)

    with pytest.raises(PublishRefused):
        await channel.publish(b"3", routing_key=queue)

    assert await drain(channel, queue) == [b"1", b"2"]
    await channel.publish(b"there is room again", routing_key=queue)


async def test_one_refusing_queue_does_not_stop_the_others(channel: ClientChannel, name: Name) -> None:
    exchange, full, other = name("fanout"), name("full"), name("other")
    await channel.declare_exchange(exchange, "fanout")
    await channel.declare_queue(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    await channel.declare_queue(other)
    for queue in (full, other):
        await channel.bind_queue(queue, exchange)

    with pytest.raises(PublishRefused):
        await channel.publish(b"x", exchange=exchange)

    assert await drain(channel, other) == [b"x"]


async def test_confirms_of_two_channels_are_apart(client: Client, name: Name) -> None:
    queue = name("q")
    first, second = await client.open_channel(confirms=True), await client.open_channel(confirms=True)
    await first.declare_queue(queue, durable=True)

    for number in range(10):
        await first.publish(b"first %d" % number, routing_key=queue, properties=PERSISTENT)
        await second.publish(b"second %d" % number, routing_key=queue)

    assert await message_count(first, queue) == 20
