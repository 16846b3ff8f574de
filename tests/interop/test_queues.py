"""The life of queues: names, counts, exclusive and auto-delete, limits, priorities, deletion."""

import re
from collections.abc import Awaitable, Callable

from adapters.face import Client, ClientChannel, Properties
from adapters.relay import Relay
from adapters.steps import drain, eventually, failure, message_count, publish_all

Name = Callable[[str], str]


async def exists(client: Client, queue: str) -> bool:
    channel = await client.open_channel()
    try:
        await channel.declare_queue(queue, passive=True)
    except Exception:
        return False
    await channel.close()
    return True


async def test_server_names_are_unique(channel: ClientChannel) -> None:
    first, second = [await channel.declare_queue("", exclusive=True) for _ in range(2)]

    assert first.name != second.name
    assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", first.name)


async def test_declare_again_tells_the_counts(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    assert (await channel.declare_queue(queue)).message_count == 0
    await publish_all(channel, queue, b"1", b"2")
    idle = await client.open_channel()
    await idle.qos(1)
    await idle.consume(queue)
    await idle.consume(queue)

    async def both_delivered() -> bool:
        return await message_count(channel, queue) == 0

    await eventually(both_delivered)
    assert (await channel.declare_queue(queue)).consumer_count == 2


async def test_purge_counts_and_keeps_the_unacked(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"1", b"2", b"3")
    held = await channel.get(queue)
    assert held is not None

    assert await channel.purge_queue(queue) == 2

    await channel.reject(held.delivery_tag, requeue=True)
    assert await drain(channel, queue) == [b"1"]


async def test_delete_counts_the_messages(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"1", b"2")

    assert await channel.delete_queue(queue) == 2
    assert await channel.delete_queue(queue) == 0  # not there: fine
    assert not await exists(client, queue)


async def test_deletion_cancels_the_consumers(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    consumer = await (await client.open_channel()).consume(queue)

    await channel.delete_queue(queue)

    async def cancelled() -> bool:
        return consumer.cancelled.is_set()

    await eventually(cancelled)


async def test_an_exclusive_queue_goes_with_its_connection(
    client: Client, connect: Callable[[], Awaitable[Client]], name: Name
) -> None:
    queue = name("mine")
    owner = await connect()
    owner_channel = await owner.open_channel()
    await owner_channel.declare_queue(queue, exclusive=True)
    await (await owner.open_channel()).declare_queue(queue, exclusive=True)  # its other channels may
    stranger = await client.open_channel()
    assert (await failure(stranger, stranger.declare_queue(queue, passive=True))).code == 405

    await owner.close()

    assert not await exists(client, queue)


async def test_an_exclusive_queue_goes_with_a_cut_connection(
    client: Client, cut_client: Client, relay: Relay, name: Name
) -> None:
    queue = name("mine")
    await (await cut_client.open_channel()).declare_queue(queue, exclusive=True)

    relay.cut()

    async def may_be_declared_anew() -> bool:
        channel = await client.open_channel()
        try:
            await channel.declare_queue(queue, exclusive=True)
        except Exception:
            return False
        return True

    await eventually(may_be_declared_anew)


async def test_auto_delete_waits_for_a_consumer(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("auto")
    await channel.declare_queue(queue, auto_delete=True)
    await publish_all(channel, queue, b"1")
    await channel.get(queue)  # is no consumer
    assert await exists(client, queue)
    first, second = await channel.consume(queue), await channel.consume(queue)

    await channel.cancel(first)
    assert await exists(client, queue)
    await channel.cancel(second)

    assert not await exists(client, queue)


async def test_auto_delete_when_the_consumers_channel_closes(
    client: Client, channel: ClientChannel, name: Name
) -> None:
    queue = name("auto")
    await channel.declare_queue(queue, auto_delete=True)
    worker = await client.open_channel()
    await worker.consume(queue)

    await worker.close()

    async def gone() -> bool:
        return not await exists(client, queue)

    await eventually(gone)


async def test_max_length_drops_the_oldest(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-max-length": 3})

    await publish_all(channel, queue, b"1", b"2", b"3", b"4", b"5")

    assert await drain(channel, queue) == [b"3", b"4", b"5"]


async def test_only_ready_messages_count_against_the_limit(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-max-length": 2})
    await publish_all(channel, queue, b"1", b"2")
    held = await channel.get(queue)
    assert held is not None
    await publish_all(channel, queue, b"3")
    assert await message_count(channel, queue) == 2

    await channel.reject(held.delivery_tag, requeue=True)  # over the limit now: the head goes

    assert await drain(channel, queue) == [b"2", b"3"]


async def test_higher_priorities_first(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-max-priority": 5})
    for priority in (None, 1, 5, 0, 9, 3, 1):
        await channel.publish(
            str(priority).encode(), routing_key=queue, properties=Properties(priority=priority)
        )

    # None counts as 0, 9 as the maximum, and equals keep their order.
    assert await drain(channel, queue) == [b"5", b"9", b"3", b"1", b"1", b"None", b"0"]


async def test_messages_expire_without_consumers(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-message-ttl": 20})
    await publish_all(channel, queue, b"1", b"2")

    async def all_expired() -> bool:
        return await message_count(channel, queue) == 0

    await eventually(all_expired)


async def test_an_unused_queue_expires(client: Client, channel: ClientChannel, name: Name) -> None:
    # The proof must not keep the queue in use, so it looks for the consequence: a cancelled binding.
    queue = name("q")
    exchange = name("auto")
    await channel.declare_exchange(exchange, "fanout", auto_delete=True)
    await channel.declare_queue(queue, arguments={"x-expires": 50})
    await channel.bind_queue(queue, exchange)

    async def exchange_gone() -> bool:
        probe = await client.open_channel()
        try:
            await probe.declare_exchange(exchange, passive=True)
        except Exception:
            return True
        return False

    await eventually(exchange_gone)
    assert not await exists(client, queue)
