"""Idempotent consumers of which somebody kills one after the other."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from pattern_worker import Workers
from sql_house import SqlHouse, database_url, make_engine
from sqlalchemy import select

import leveret
from leveret import Channel, Message

pytestmark = pytest.mark.crash

PATIENCE_S = 30 * TIMEOUT_FACTOR
SEED = 11
MESSAGES = 150
KILLS = 3
IN_HAND = 5  # messages that a worker processes at the same time
QUEUE, RESULTS = "inbox-kill9", "inbox-kill9-results"


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlHouse]:
    url = database_url(request.param, tmp_path, lambda: request.getfixturevalue("postgresql"))
    house = SqlHouse(make_engine(url, is_async=False), "inbox_kill9")
    await house.build()
    yield house
    await house.close()


@pytest.fixture
async def channel(shared_daemon: Daemon) -> AsyncIterator[Channel]:
    async with leveret.connect(shared_daemon.leveret_url) as connection, connection.channel() as channel:
        for queue in (QUEUE, RESULTS):
            await channel.declare_queue(queue, durable=True)
        yield channel
        for queue in (QUEUE, RESULTS):
            await channel.queue_delete(queue)


def some_doubled(random: Random) -> list[str]:
    """All bodies, some of them twice, in any order."""
    bodies = [f"{number}" for number in range(MESSAGES)]
    bodies += random.sample(bodies, MESSAGES // 4)
    random.shuffle(bodies)
    return bodies


async def publish(channel: Channel, bodies: list[str]) -> None:
    await asyncio.gather(
        *(channel.publish(Message(body.encode(), message_id=body), QUEUE) for body in bodies)
    )


async def test_effects_in_the_ids_transaction_happen_exactly_once(
    house: SqlHouse, shared_daemon: Daemon, channel: Channel
) -> None:
    async def reach(effects: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (found := await house.count_effects()) < effects:
            assert time.monotonic() < deadline, f"{found} effects, not {effects}"
            await asyncio.sleep(0.005)

    random = Random(SEED)
    bodies = some_doubled(random)
    await publish(channel, bodies)
    url = house.engine.url.render_as_string(hide_password=False)
    with Workers("record", shared_daemon.leveret_url, url, house.prefix, QUEUE) as workers:
        for moment in sorted(random.sample(range(MESSAGES), KILLS)):
            await reach(moment)
            workers.kill_one()
        await reach(MESSAGES)
    names = await house.run(
        lambda connection: connection.execute(select(house.effects.c.name)).scalars().all()
    )
    assert Counter(names) == Counter(set(bodies))


async def test_effects_beside_the_inbox_are_not_lost_and_hardly_doubled(
    shared_daemon: Daemon, channel: Channel, tmp_path: Path
) -> None:
    found: Counter[str] = Counter()

    async def reach(effects: int) -> None:
        """Take results until there are those of so many messages."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < effects:
            assert time.monotonic() < deadline, f"{len(found)} effects, not {effects}"
            if (message := await channel.get(RESULTS, no_ack=True)) is not None:
                found[message.body.decode()] += 1
            else:
                await asyncio.sleep(0.005)

    random = Random(SEED)
    bodies = some_doubled(random)
    await publish(channel, bodies)
    with Workers("inbox", shared_daemon.leveret_url, tmp_path / "inbox.db", QUEUE, RESULTS) as workers:
        for moment in sorted(random.sample(range(MESSAGES), KILLS)):
            await reach(moment)
            workers.kill_one()
        await reach(MESSAGES)
    while (message := await channel.get(RESULTS, no_ack=True)) is not None:
        found[message.body.decode()] += 1
    assert found.keys() == set(bodies)
    doubled = found.total() - MESSAGES
    assert doubled <= (KILLS + 2) * IN_HAND, "only what a killed worker had in its hands has two effects"
