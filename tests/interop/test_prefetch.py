"""basic.qos: how many unacknowledged messages a consumer and a channel may have."""

from collections.abc import Callable

from adapters.face import Client, ClientChannel
from adapters.steps import eventually, get_some, publish_all

Name = Callable[[str], str]

BODIES = [b"%d" % number for number in range(10)]


async def test_never_more_than_the_prefetch_count_unacked(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, *BODIES)
    await channel.qos(3)

    consumer = await channel.consume(queue)

    got = await consumer.take(3)
    assert await consumer.stays_quiet()
    while len(got) < len(BODIES):
        await channel.ack(got[len(got) - 3].delivery_tag)  # one settled, two remain
        got.append(await consumer.next())
        assert await consumer.stays_quiet(for_s=0.05)
    assert [delivery.body for delivery in got] == BODIES


async def test_without_a_prefetch_count_everything_is_pushed(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, *BODIES)

    consumer = await channel.consume(queue)

    assert [delivery.body for delivery in await consumer.take(len(BODIES))] == BODIES


async def test_each_consumer_of_a_channel_has_its_own_limit(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await channel.qos(2)
    first, second = await channel.consume(queue), await channel.consume(queue)

    await publish_all(channel, queue, *BODIES)

    await first.take(2)
    await second.take(2)
    assert await first.stays_quiet()
    assert second.deliveries.empty()


async def test_a_new_count_is_for_consumers_that_start_later(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await channel.qos(1)
    early = await channel.consume(queue)
    await channel.qos(4)
    late = await channel.consume(queue)

    await publish_all(channel, queue, *BODIES)

    await early.take(1)
    await late.take(4)
    assert await early.stays_quiet()
    assert late.deliveries.empty()


async def test_a_global_limit_is_shared_and_can_be_raised(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await channel.qos(3, global_=True)
    first, second = await channel.consume(queue), await channel.consume(queue)

    async def got_exactly(count: int) -> bool:
        async def got_them() -> bool:
            return first.deliveries.qsize() + second.deliveries.qsize() >= count

        await eventually(got_them)
        await first.stays_quiet()
        return first.deliveries.qsize() + second.deliveries.qsize() == count

    await publish_all(channel, queue, *BODIES)
    assert await got_exactly(3)

    await channel.qos(5, global_=True)  # at once, also for running consumers
    assert await got_exactly(5)


async def test_get_and_no_ack_are_not_limited(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, *BODIES)
    await channel.qos(1)

    assert [delivery.body for delivery in await get_some(channel, queue, 4)] == BODIES[:4]
    consumer = await channel.consume(queue, no_ack=True)
    assert [delivery.body for delivery in await consumer.take(6)] == BODIES[4:]


async def test_room_on_one_channel_serves_while_another_is_full(client: Client, name: Name) -> None:
    queue = name("q")
    full, free = await client.open_channel(), await client.open_channel()
    await full.declare_queue(queue)
    await full.qos(1)
    await free.qos(1)
    stuck, working = await full.consume(queue), await free.consume(queue)

    await publish_all(full, queue, *BODIES)

    await stuck.next()
    for _ in BODIES[1:]:
        await free.ack((await working.next()).delivery_tag)
    assert await stuck.stays_quiet(for_s=0.05)
