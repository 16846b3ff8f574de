"""Dead lettering: why a message died, where it goes, and what its headers say."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from adapters.face import ClientChannel, Delivery, Headers, Properties
from adapters.steps import drain, eventually, get_some, message_count, publish_all

Name = Callable[[str], str]


class DeadLetters:
    """A queue behind a fanout exchange, and the arguments that make another queue dead-letter to it."""

    def __init__(self, channel: ClientChannel, exchange: str, queue: str) -> None:
        self.channel, self.exchange, self.queue = channel, exchange, queue

    def arguments(self, **more: object) -> Headers:
        named = {f"x-{key.replace('_', '-')}": value for key, value in more.items()}
        return {"x-dead-letter-exchange": self.exchange, **named}  # type: ignore[dict-item]

    async def next(self) -> Delivery:
        async def arrived() -> bool:
            return await message_count(self.channel, self.queue) > 0

        await eventually(arrived)
        return (await get_some(self.channel, self.queue, 1))[0]


@pytest.fixture
async def dead(channel: ClientChannel, name: Name) -> DeadLetters:
    exchange, queue = name("dlx"), name("dead")
    await channel.declare_exchange(exchange, "fanout")
    await channel.declare_queue(queue)
    await channel.bind_queue(queue, exchange)
    return DeadLetters(channel, exchange, queue)


def deaths(delivery: Delivery) -> list[dict[str, Any]]:
    """The x-death tables without their times, which are checked here."""
    tables: list[dict[str, Any]] = [dict(table) for table in delivery.headers["x-death"]]  # type: ignore[union-attr, arg-type]
    for table in tables:
        died_at = table.pop("time")
        assert isinstance(died_at, datetime)
        assert abs(died_at.timestamp() - time.time()) < 60
    return tables


async def test_rejected(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    exchange, queue = name("direct"), name("q")
    await channel.declare_exchange(exchange, "direct")
    await channel.declare_queue(queue, arguments=dead.arguments())
    await channel.bind_queue(queue, exchange, "key")
    properties = Properties(headers={"mine": "stays"}, content_type="text/plain", delivery_mode=2, priority=3)
    await channel.publish(b"bad", exchange=exchange, routing_key="key", properties=properties)
    (delivery,) = await get_some(channel, queue, 1)

    await channel.reject(delivery.delivery_tag, requeue=False)

    died = await dead.next()
    assert (died.body, died.exchange, died.routing_key, died.redelivered) == (
        b"bad",
        dead.exchange,
        "key",
        False,
    )
    assert died.properties.content_type == "text/plain"
    assert (died.properties.delivery_mode, died.properties.priority) == (2, 3)
    assert deaths(died) == [
        {"count": 1, "reason": "rejected", "queue": queue, "exchange": exchange, "routing-keys": ["key"]}
    ]
    assert died.headers["mine"] == "stays"
    assert died.headers["x-first-death-reason"] == "rejected"
    assert died.headers["x-first-death-queue"] == queue
    assert died.headers["x-first-death-exchange"] == exchange


async def test_expired_by_the_queue(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments=dead.arguments(message_ttl=30))
    await publish_all(channel, queue, b"1", b"2", b"3")

    died = [await dead.next() for _ in range(3)]

    assert [delivery.body for delivery in died] == [b"1", b"2", b"3"]
    for delivery in died:
        assert deaths(delivery) == [
            {"count": 1, "reason": "expired", "queue": queue, "exchange": "", "routing-keys": [queue]}
        ]
    assert await message_count(channel, queue) == 0


async def test_expired_by_its_own_expiration(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments=dead.arguments(message_ttl=60_000))
    await publish_all(channel, queue, b"short-lived", properties=Properties(expiration="25"))

    died = await dead.next()

    assert died.properties.expiration is None  # it cannot expire a second time
    (table,) = deaths(died)
    assert (table["reason"], table["original-expiration"]) == ("expired", "25")


async def test_expiration_waits_behind_a_longer_lived_head(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)
    await publish_all(channel, queue, b"lives")
    await publish_all(channel, queue, b"dies", properties=Properties(expiration="1"))
    await publish_all(channel, queue, b"lives, too")
    await asyncio.sleep(0.02)

    assert await drain(channel, queue) == [b"lives", b"lives, too"]  # but never delivered after its time


async def test_over_the_maximum_length(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments=dead.arguments(max_length=2))

    await publish_all(channel, queue, b"1", b"2", b"3")

    died = await dead.next()
    assert died.body == b"1"
    assert deaths(died)[0]["reason"] == "maxlen"
    assert await drain(channel, queue) == [b"2", b"3"]


async def test_over_the_maximum_bytes(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments=dead.arguments(max_length_bytes=10))

    await publish_all(channel, queue, b"four", b"more", b"over")

    assert (await dead.next()).body == b"four"
    assert await drain(channel, queue) == [b"more", b"over"]


async def test_routing_key_of_the_dead(channel: ClientChannel, dead: DeadLetters, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments=dead.arguments(dead_letter_routing_key="buried"))
    await publish_all(channel, queue, b"x")
    (delivery,) = await get_some(channel, queue, 1)

    await channel.nack(delivery.delivery_tag, requeue=False)

    died = await dead.next()
    assert died.routing_key == "buried"
    assert deaths(died)[0]["routing-keys"] == [queue]


async def test_the_same_death_again_counts_up(channel: ClientChannel, name: Name) -> None:
    """A retry loop: rejected messages wait in a second queue and expire back into the first."""
    work, wait = name("work"), name("wait")
    default = {"x-dead-letter-exchange": ""}
    await channel.declare_queue(work, arguments={**default, "x-dead-letter-routing-key": wait})
    await channel.declare_queue(
        wait, arguments={**default, "x-dead-letter-routing-key": work, "x-message-ttl": 10}
    )
    consumer = await channel.consume(work)
    await channel.publish(b"retry", routing_key=work)

    for attempt in range(3):
        delivery = await consumer.next()
        if attempt:
            counted = [(table["queue"], table["reason"], table["count"]) for table in deaths(delivery)]
            assert counted == [(wait, "expired", attempt), (work, "rejected", attempt)]
            assert delivery.headers["x-first-death-queue"] == work
        await channel.reject(delivery.delivery_tag, requeue=False)


async def test_a_cycle_without_a_rejection_ends(channel: ClientChannel, name: Name) -> None:
    queue = name("self")
    await channel.declare_queue(
        queue,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 10},
    )
    await channel.publish(b"expires for good", routing_key=queue)

    async def empty() -> bool:
        return await message_count(channel, queue) == 0

    await eventually(empty)


async def test_a_missing_exchange_drops_the_dead(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue, arguments={"x-dead-letter-exchange": name("missing")})
    await publish_all(channel, queue, b"x")
    (delivery,) = await get_some(channel, queue, 1)

    await channel.reject(delivery.delivery_tag, requeue=False)

    assert await message_count(channel, queue) == 0
