"""basic.get: one message at a time."""

from collections.abc import Callable

import pytest
from adapters.face import Client, ClientChannel
from adapters.steps import publish_all

Name = Callable[[str], str]


async def test_an_empty_queue_gives_nothing(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)

    assert await channel.get(queue) is None
    assert await channel.get(queue, no_ack=True) is None


async def test_get_tells_how_many_are_left(
    channel: ClientChannel, client_class: type[Client], name: Name
) -> None:
    if not client_class.counts_on_get:
        pytest.skip("this library does not tell")
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"a", b"b", b"c")

    left = []
    while (delivery := await channel.get(queue)) is not None:
        left.append((delivery.body, delivery.message_count))

    assert left == [(b"a", 2), (b"b", 1), (b"c", 0)]


async def test_declare_counts_the_ready_and_not_the_unacked(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"a", b"b", b"c")
    await channel.get(queue)

    state = await channel.declare_queue(queue, passive=True)

    assert (state.message_count, state.consumer_count) == (2, 0)


async def test_get_and_consume_share_the_delivery_tags(channel: ClientChannel, name: Name) -> None:
    queue, other = name("q"), name("other")
    await channel.declare_queue(queue)
    await channel.declare_queue(other)
    await publish_all(channel, queue, b"pushed")
    await publish_all(channel, other, b"pulled")

    pushed = await (await channel.consume(queue)).next()
    pulled = await channel.get(other)

    assert pulled is not None
    assert (pushed.delivery_tag, pulled.delivery_tag) == (1, 2)


async def test_get_beside_an_exclusive_consumer(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await channel.qos(1)
    await channel.consume(queue, exclusive=True)
    await publish_all(channel, queue, b"to the consumer", b"to the getter")

    delivery = await (await client.open_channel()).get(queue)

    assert delivery is not None
    assert delivery.body == b"to the getter"
