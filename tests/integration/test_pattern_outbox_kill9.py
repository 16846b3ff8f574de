"""The outbox and its relays while somebody kills relays, the broker and the database."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from pattern_worker import Workers
from postgresql import PostgreSQL
from sql_house import SqlHouse, database_url, make_engine
from sqlalchemy import Connection

import leveret
from leveret import Channel, Message
from leveret.patterns.outbox_relay import OutboxRelay
from leveret.patterns.retry import Backoff

pytestmark = pytest.mark.crash

PATIENCE_S = 30 * TIMEOUT_FACTOR
SEED = 7
ROWS = 200
KILLS = 3  # of relays, and of brokers every second time
QUEUE = "outbox-kill9"


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlHouse]:
    url = database_url(request.param, tmp_path, lambda: request.getfixturevalue("postgresql"))
    house = SqlHouse(make_engine(url, is_async=False), "kill9")
    await house.build()
    yield house
    await house.close()


async def put(house: SqlHouse, numbers: range) -> None:
    def work(connection: Connection) -> None:
        for number in numbers:
            house.outbox.put(connection, Message(b"%d" % number), QUEUE)

    await house.run(work)


async def ready(channel: Channel, wanted: int) -> None:
    """Wait until so many messages, or more, are in the queue."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := (await channel.get_queue(QUEUE)).message_count) < wanted:
        assert time.monotonic() < deadline, f"{found} messages, not {wanted}"
        await asyncio.sleep(0.002)


async def left(house: SqlHouse, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (waiting := await house.waiting()) != wanted:
        assert time.monotonic() < deadline, f"{waiting} rows wait to be published, not {wanted}"
        await asyncio.sleep(0.005)


async def published(channel: Channel) -> dict[int, Counter[str | None]]:
    """Body -> how often it is there under each message id."""
    found: dict[int, Counter[str | None]] = {}
    while (message := await channel.get(QUEUE, no_ack=True)) is not None:
        found.setdefault(int(message.body), Counter())[message.message_id] += 1
    return found


async def test_killed_relays_and_brokers_lose_nothing_and_double_under_one_id(
    house: SqlHouse, daemon: Daemon
) -> None:
    random = Random(SEED)
    moments = sorted(random.sample(range(ROWS), KILLS))  # how many rows are published
    async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
        await channel.declare_queue(QUEUE, durable=True)
    url = house.engine.url.render_as_string(hide_password=False)
    await put(house, range(ROWS))
    with Workers("relay", daemon.leveret_url, url, "kill9") as workers:
        while moments:
            async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
                for moment in moments[:2]:
                    await ready(channel, moment)
                    workers.kill_one()
                moments = moments[2:]
            daemon.kill()
            daemon.start()
        await left(house, 0)
    async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
        found = await published(channel)
    assert found.keys() == set(range(ROWS))
    assert [ids for ids in found.values() if len(ids) > 1] == [], "a row came under different ids"


async def test_a_database_that_is_away_for_a_while(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    reason = PostgreSQL.why_not()
    if reason is not None:
        pytest.skip(reason)
    with PostgreSQL() as postgresql:
        house = SqlHouse(make_engine(postgresql.url(), is_async=True), "away")
        await house.build()
        async with leveret.connect(daemon.leveret_url) as connection, connection.channel() as channel:
            await channel.declare_queue(QUEUE, durable=True)
            soon = Backoff(first_s=0.02, cap_s=0.05)
            relay = OutboxRelay(connection, house.engine, house.outbox, poll_s=0.01, backoff=soon)
            running = asyncio.create_task(relay.run())
            await put(house, range(10))
            await ready(channel, 10)
            await left(house, 0)
            postgresql.crash()
            deadline = time.monotonic() + PATIENCE_S
            while "the outbox waits" not in caplog.text:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            postgresql.start()
            await house.engine.dispose()
            await put(house, range(10, 20))
            await ready(channel, 20)
            relay.stop()
            await running
            assert (await published(channel)).keys() == set(range(20))
        await house.close()
