"""tx: what a channel publishes and settles in a transaction happens at its commit, or not at all."""

from collections.abc import Callable
from contextlib import suppress

from adapters.face import Client, ClientChannel
from adapters.steps import drain, get_some, message_count, publish_all

Name = Callable[[str], str]


class ChangedMyMind(Exception):
    pass


async def test_publishes_appear_with_the_commit(client: Client, channel: ClientChannel, name: Name) -> None:
    first, second = name("first"), name("second")
    for queue in (first, second):
        await channel.declare_queue(queue)
    transactional = await client.open_channel(confirms=False)

    async with transactional.transaction():
        await publish_all(transactional, first, b"1", b"2")
        await publish_all(transactional, second, b"3")
        assert await message_count(transactional, first) == 0  # the answer comes behind the publishes

    assert await drain(channel, first) == [b"1", b"2"]
    assert await drain(channel, second) == [b"3"]


async def test_a_rollback_forgets_publishes(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    transactional = await client.open_channel(confirms=False)

    with suppress(ChangedMyMind):
        async with transactional.transaction():
            await publish_all(transactional, queue, b"never")
            raise ChangedMyMind
    async with transactional.transaction():
        await publish_all(transactional, queue, b"committed")

    assert await drain(channel, queue) == [b"committed"]


async def test_acks_count_with_the_commit(client: Client, channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"acked", b"rolled back")
    transactional = await client.open_channel(confirms=False)

    async with transactional.transaction():
        (acked,) = await get_some(transactional, queue, 1)
        await transactional.ack(acked.delivery_tag)
    with suppress(ChangedMyMind):
        async with transactional.transaction():
            (rolled_back,) = await get_some(transactional, queue, 1)
            await transactional.ack(rolled_back.delivery_tag)
            raise ChangedMyMind
    assert await message_count(channel, queue) == 0  # a rollback does not requeue
    await transactional.close()

    (again,) = await get_some(channel, queue, 1)
    assert (again.body, again.redelivered) == (b"rolled back", True)
