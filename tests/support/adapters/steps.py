"""Steps that many scenarios share."""

import asyncio
from collections.abc import Awaitable, Callable

from .face import NO_PROPERTIES, TIMEOUT_S, ClientChannel, ClosedByBroker, Delivery, Properties


async def publish_all(
    channel: ClientChannel, queue: str, *bodies: bytes, properties: Properties = NO_PROPERTIES
) -> None:
    """Publish to the queue through the default exchange."""
    for body in bodies:
        await channel.publish(body, routing_key=queue, properties=properties)


async def drain(channel: ClientChannel, queue: str) -> list[bytes]:
    """Get and settle everything that is ready."""
    bodies = []
    while (delivery := await channel.get(queue, no_ack=True)) is not None:
        bodies.append(delivery.body)
    return bodies


async def get_some(channel: ClientChannel, queue: str, count: int) -> list[Delivery]:
    """Get `count` messages without acknowledging them."""
    deliveries = []
    for _ in range(count):
        delivery = await channel.get(queue)
        assert delivery is not None, f"{queue} has only {len(deliveries)} messages"
        deliveries.append(delivery)
    return deliveries


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is true: for what the broker does on its own, after an event that nobody answers."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await holds():  # noqa: ASYNC110 -- the state to wait for is in another process
            await asyncio.sleep(0.02)


async def message_count(channel: ClientChannel, queue: str) -> int:
    """Ready messages."""
    return (await channel.declare_queue(queue, passive=True)).message_count


async def failure(channel: ClientChannel, operation: Awaitable[object]) -> ClosedByBroker:
    """How the broker closed the channel or connection because of `operation`: as its answer, or later."""
    try:
        await operation
    except ClosedByBroker as closed:
        return closed
    return await asyncio.wait_for(channel.closed(), TIMEOUT_S)
