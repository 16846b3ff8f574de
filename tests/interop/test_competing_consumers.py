"""Several consumers on one queue."""

from collections.abc import Callable

from adapters.face import Client, ClientChannel
from adapters.steps import publish_all

Name = Callable[[str], str]


async def test_messages_go_round(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    consumers = [await (await client.open_channel()).consume(queue) for _ in range(3)]

    await publish_all(channel, queue, *(b"%d" % number for number in range(9)))

    taken = [[delivery.body for delivery in await consumer.take(3)] for consumer in consumers]
    assert sorted(taken) == [[b"0", b"3", b"6"], [b"1", b"4", b"7"], [b"2", b"5", b"8"]]


async def test_a_busy_consumer_is_passed_over(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    busy_channel, free_channel = await client.open_channel(), await client.open_channel()
    await busy_channel.qos(1)
    busy, free = await busy_channel.consume(queue), await free_channel.consume(queue)

    await publish_all(channel, queue, *(b"%d" % number for number in range(6)))

    assert len([await busy.next(), *await free.take(5)]) == 6
    assert await busy.stays_quiet(for_s=0.05)


async def test_higher_consumer_priority_first(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    low_channel, high_channel = await client.open_channel(), await client.open_channel()
    await high_channel.qos(2)
    low = await low_channel.consume(queue, arguments={"x-priority": -1})
    high = await high_channel.consume(queue, arguments={"x-priority": 10})

    await publish_all(channel, queue, b"1", b"2", b"3")

    assert [delivery.body for delivery in await high.take(2)] == [b"1", b"2"]
    assert (await low.next()).body == b"3"  # only because the other one is full


async def test_single_active_consumer(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-single-active-consumer": True})
    first_channel, second_channel = await client.open_channel(), await client.open_channel()
    first, second = await first_channel.consume(queue), await second_channel.consume(queue)

    await publish_all(channel, queue, b"1", b"2")
    for delivery in await first.take(2):
        await first_channel.ack(delivery.delivery_tag)
    assert await second.stays_quiet(for_s=0.05)

    await first_channel.cancel(first)
    await publish_all(channel, queue, b"3")

    assert (await second.next()).body == b"3"


async def test_what_a_gone_consumer_held_goes_to_the_others(
    client: Client, channel: ClientChannel, name: Name
) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    leaving_channel, staying_channel = await client.open_channel(), await client.open_channel()
    leaving = await leaving_channel.consume(queue)
    await publish_all(channel, queue, b"1", b"2")
    await leaving.take(2)
    staying = await staying_channel.consume(queue)

    await leaving_channel.close()

    taken = await staying.take(2)
    assert [(delivery.body, delivery.redelivered) for delivery in taken] == [(b"1", True), (b"2", True)]
