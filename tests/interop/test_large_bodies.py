"""Bodies around the frame size, and far above it."""

import random
from collections.abc import Callable

import pytest
from adapters.face import PERSISTENT, ClientChannel, Properties
from adapters.steps import get_some

FRAME_MAX = 131072
AROUND_A_FRAME = [FRAME_MAX + more for more in (-9, -8, -7, -1, 0, 1)]
SIZES = [0, 1, *AROUND_A_FRAME, 272179, 3 << 20]


@pytest.mark.parametrize("properties", [Properties(), PERSISTENT], ids=["transient", "persistent"])
async def test_bodies_come_back_as_sent(
    channel: ClientChannel, name: Callable[[str], str], properties: Properties
) -> None:
    queue = name("q")
    await channel.declare_queue(queue, durable=True)
    bodies = [random.Random(size).randbytes(size) for size in SIZES]

    for body in bodies:
        await channel.publish(body, routing_key=queue, properties=properties)

    pulled = await get_some(channel, queue, len(bodies))
    assert [delivery.body for delivery in pulled] == bodies
    for delivery in pulled:
        await channel.reject(delivery.delivery_tag, requeue=True)
    consumer = await channel.consume(queue)
    assert [delivery.body for delivery in await consumer.take(len(bodies))] == bodies
