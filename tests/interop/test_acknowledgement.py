"""ack, nack, reject, and what comes back, where to, and marked how."""

from collections.abc import Callable

import pytest
from adapters.face import Client, ClientChannel, Delivery
from adapters.relay import Relay
from adapters.steps import drain, eventually, get_some, message_count, publish_all

Name = Callable[[str], str]

BODIES = [b"1", b"2", b"3", b"4", b"5"]


def facts(deliveries: list[Delivery]) -> list[tuple[bytes, bool]]:
    return [(delivery.body, delivery.redelivered) for delivery in deliveries]


@pytest.fixture
async def queue(channel: ClientChannel, name: Name) -> str:
    """A queue with the five messages."""
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, *BODIES)
    return queue


@pytest.fixture
def acks_multiple(client_class: type[Client]) -> None:
    if not client_class.acks_multiple:
        pytest.skip("this library acks one by one")


@pytest.fixture
def nacks_multiple(client_class: type[Client]) -> None:
    if not client_class.nacks_multiple:
        pytest.skip("this library nacks one by one")


async def test_acked_messages_do_not_come_back(client: Client, channel: ClientChannel, queue: str) -> None:
    worker = await client.open_channel()
    for delivery in await get_some(worker, queue, 5):
        assert not delivery.redelivered
        await worker.ack(delivery.delivery_tag)

    await worker.close()

    assert await message_count(channel, queue) == 0


async def test_delivery_tags_count_from_one_on_each_channel(client: Client, queue: str) -> None:
    first, second = await client.open_channel(), await client.open_channel()

    assert [delivery.delivery_tag for delivery in await get_some(first, queue, 2)] == [1, 2]
    assert [delivery.delivery_tag for delivery in await get_some(second, queue, 2)] == [1, 2]


@pytest.mark.usefixtures("acks_multiple")
async def test_ack_multiple_settles_up_to_the_tag(client: Client, channel: ClientChannel, queue: str) -> None:
    worker = await client.open_channel()
    deliveries = await get_some(worker, queue, 4)
    await worker.ack(deliveries[2].delivery_tag, multiple=True)

    await worker.close()

    assert facts(await get_some(channel, queue, 2)) == [(b"4", True), (b"5", False)]


@pytest.mark.usefixtures("acks_multiple")
async def test_ack_of_tag_zero_settles_everything(client: Client, channel: ClientChannel, queue: str) -> None:
    worker = await client.open_channel()
    await get_some(worker, queue, 5)
    await worker.ack(0, multiple=True)

    await worker.close()

    assert await message_count(channel, queue) == 0


async def test_requeue_by_reject_restores_the_position(channel: ClientChannel, queue: str) -> None:
    deliveries = await get_some(channel, queue, 3)

    await channel.reject(deliveries[1].delivery_tag, requeue=True)

    assert facts(await get_some(channel, queue, 2)) == [(b"2", True), (b"4", False)]


async def test_requeue_by_nack_restores_the_position(channel: ClientChannel, queue: str) -> None:
    deliveries = await get_some(channel, queue, 5)

    for index in (4, 0, 2):
        await channel.nack(deliveries[index].delivery_tag, requeue=True)

    assert facts(await get_some(channel, queue, 3)) == [(b"1", True), (b"3", True), (b"5", True)]


@pytest.mark.usefixtures("nacks_multiple")
async def test_nack_multiple_requeues_all_up_to_the_tag(channel: ClientChannel, queue: str) -> None:
    deliveries = await get_some(channel, queue, 4)

    await channel.nack(deliveries[2].delivery_tag, multiple=True, requeue=True)

    assert facts(await get_some(channel, queue, 4)) == [
        (b"1", True),
        (b"2", True),
        (b"3", True),
        (b"5", False),
    ]


async def test_reject_without_requeue_drops(client: Client, channel: ClientChannel, queue: str) -> None:
    worker = await client.open_channel()
    first, second = await get_some(worker, queue, 2)
    await worker.reject(first.delivery_tag, requeue=False)
    await worker.nack(second.delivery_tag, requeue=False)

    await worker.close()

    assert await drain(channel, queue) == BODIES[2:]


async def test_closing_a_channel_requeues_in_order(
    client: Client, channel: ClientChannel, queue: str
) -> None:
    worker = await client.open_channel()
    consumer = await worker.consume(queue)
    await consumer.take(5)

    await worker.close()

    assert facts(await get_some(channel, queue, 5)) == [(body, True) for body in BODIES]


async def test_a_cut_connection_requeues_at_once(
    channel: ClientChannel, queue: str, cut_client: Client, relay: Relay
) -> None:
    worker = await cut_client.open_channel()
    deliveries = await get_some(worker, queue, 3)
    await worker.ack(deliveries[0].delivery_tag)
    assert await message_count(channel, queue) == 2

    relay.cut()

    async def all_back() -> bool:
        return await message_count(channel, queue) == 4

    await eventually(all_back)
    assert facts(await get_some(channel, queue, 4)) == [
        (b"2", True),
        (b"3", True),
        (b"4", False),
        (b"5", False),
    ]


async def test_no_ack_means_settled_when_sent(client: Client, channel: ClientChannel, queue: str) -> None:
    worker = await client.open_channel()
    consumer = await worker.consume(queue, no_ack=True)
    await consumer.take(5)

    await worker.close()

    assert await message_count(channel, queue) == 0


async def test_cancel_leaves_the_unacked_with_the_channel(channel: ClientChannel, queue: str) -> None:
    await channel.qos(2)
    consumer = await channel.consume(queue)
    first, second = await consumer.take(2)

    await channel.cancel(consumer)

    assert await message_count(channel, queue) == 3
    await channel.ack(first.delivery_tag)
    await channel.reject(second.delivery_tag, requeue=True)
    assert facts(await get_some(channel, queue, 2)) == [(b"2", True), (b"3", False)]


async def test_a_requeued_message_goes_to_a_waiting_consumer(client: Client, queue: str) -> None:
    giver, taker = await client.open_channel(), await client.open_channel()
    held = await get_some(giver, queue, 5)
    consumer = await taker.consume(queue)

    await giver.reject(held[3].delivery_tag, requeue=True)

    assert facts([await consumer.next()]) == [(b"4", True)]
    assert await consumer.stays_quiet(for_s=0.05)
