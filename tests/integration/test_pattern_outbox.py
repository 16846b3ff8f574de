"""The transactional outbox on real databases and a real broker."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from sql_house import KINDS, SqlHouse, database_url, make_engine
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import leveret
from leveret import Channel, ConnectionLost, IncomingMessage, Message, Queue
from leveret.patterns.outbox import OutboxTable
from leveret.patterns.outbox_relay import OutboxRelay
from leveret.patterns.retry import Backoff

PATIENCE_S = 30 * TIMEOUT_FACTOR
SOON = Backoff(first_s=0.01, cap_s=0.05)
one_of_each = pytest.mark.parametrize("house", ["sqlite", "postgresql-async"], indirect=True)
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"outbox_test_{next(_numbers)}"


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> AsyncIterator[SqlHouse]:
    url = database_url(request.param, tmp_path, lambda: request.getfixturevalue("postgresql"))
    house = SqlHouse(make_engine(url, is_async=request.param.endswith("async")), name)
    await house.build()
    yield house
    await house.close()


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[leveret.Connection]:
    async with leveret.connect(shared_daemon.leveret_url) as connection:
        yield connection


@pytest.fixture
async def channel(connection: leveret.Connection) -> Channel:
    return await connection.channel()


@pytest.fixture
async def queue(channel: Channel, name: str) -> AsyncIterator[Queue]:
    queue = await channel.declare_queue(name, durable=True)
    yield queue
    await channel.queue_delete(name)


@asynccontextmanager
async def running(*relays: OutboxRelay) -> AsyncIterator[None]:
    """The relays run in the block and are stopped in order at its end."""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        for relay in relays:
            tasks.create_task(relay.run())
        yield
        for relay in relays:
            relay.stop()


async def empty(house: SqlHouse) -> None:
    """Wait until nothing is left to publish."""
    await left(house, 0)


async def left(house: SqlHouse, rows: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (waiting := await house.waiting()) != rows:
        assert time.monotonic() < deadline, f"{waiting} rows wait to be published, not {rows}"
        await asyncio.sleep(0.01)


async def take_all(queue: Queue) -> list[IncomingMessage]:
    """Everything in the queue, acked."""
    messages = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        messages.append(message)
    return messages


async def put(house: SqlHouse, queue: str, *bodies: str) -> None:
    def work(connection: Connection) -> None:
        for body in bodies:
            house.outbox.put(connection, Message(body.encode()), queue)

    await house.run(work)


class TestPut:
    async def test_what_was_committed_is_published_and_what_was_rolled_back_is_not(
        self, house: SqlHouse, connection: leveret.Connection, queue: Queue
    ) -> None:
        message = Message(
            b"body",
            headers={"tenant": "t1", "numbers": [1, 2**40]},
            content_type="text/plain",
            delivery_mode=leveret.DeliveryMode.NOT_PERSISTENT,
            timestamp=datetime(2024, 5, 1, tzinfo=UTC),
        )

        async def undone(session: AsyncSession | Session) -> None:
            if isinstance(session, AsyncSession):
                await house.outbox.put_async(session, message, queue.name)
                await session.rollback()
            else:
                house.outbox.put(session, message, queue.name)
                session.rollback()

        if isinstance(house.engine, AsyncEngine):
            async with AsyncSession(house.engine) as session:
                await undone(session)
                message_id = await house.outbox.put_async(session, message, queue.name)
                await session.commit()
        else:
            with Session(house.engine) as session:
                await undone(session)
                message_id = house.outbox.put(session, message, queue.name)
                session.commit()
        relay = OutboxRelay(connection, house.engine, house.outbox)
        assert await relay.run_once() == 1
        assert await relay.run_once() == 0
        (arrived,) = await take_all(queue)
        assert arrived.body == b"body"
        assert arrived.message_id == message_id
        assert message.message_id is None, "the caller's message is left as it was"
        assert arrived.delivery_mode == leveret.DeliveryMode.PERSISTENT
        assert arrived.headers == message.headers
        assert (arrived.content_type, arrived.timestamp) == (message.content_type, message.timestamp)
        assert await house.waiting() == 0


class TestRelay:
    async def test_rows_leave_in_order(
        self, house: SqlHouse, connection: leveret.Connection, queue: Queue
    ) -> None:
        bodies = [f"{number}" for number in range(500)]
        await put(house, queue.name, *bodies)
        async with running(OutboxRelay(connection, house.engine, house.outbox, batch_size=64)):
            await empty(house)
        assert [message.body.decode() for message in await take_all(queue)] == bodies

    @one_of_each
    async def test_it_runs_for_a_block(
        self, house: SqlHouse, connection: leveret.Connection, queue: Queue
    ) -> None:
        relay = OutboxRelay(connection, house.engine, house.outbox)
        for body in ("1", "2"):
            async with relay:
                await put(house, queue.name, body)
                relay.wake()
                await empty(house)
        await put(house, queue.name, "after the blocks")
        assert [message.body for message in await take_all(queue)] == [b"1", b"2"]
        assert await house.waiting() == 1

    async def test_several_relays_publish_each_row_once(
        self, house: SqlHouse, connection: leveret.Connection, queue: Queue
    ) -> None:
        relays = [
            OutboxRelay(connection, house.engine, house.outbox, batch_size=7, poll_s=0.01, backoff=SOON)
            for _ in range(3)
        ]
        async with running(*relays):
            for start in range(0, 300, 30):
                await put(house, queue.name, *(f"{number}" for number in range(start, start + 30)))
                relays[0].wake()
            await empty(house)
        counts = Counter(message.body.decode() for message in await take_all(queue))
        assert counts == Counter(f"{number}" for number in range(300))

    @pytest.mark.parametrize("house", ["postgresql"], indirect=True)
    async def test_on_postgresql_no_relay_waits_for_another_ones_rows(self, house: SqlHouse) -> None:
        await put(house, "nowhere", "1", "2", "3", "4")
        with house.engine.begin() as one, house.engine.begin() as two:
            two.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
            leased = [
                [row.message.body for row in house.outbox.lease(connection, owner, 10, 2)]
                for owner, connection in (("one", one), ("two", two))
            ]
        assert leased == [[b"1", b"2"], [b"3", b"4"]]

    @one_of_each
    async def test_what_never_arrives_is_parked_and_blocks_nobody(
        self,
        house: SqlHouse,
        connection: leveret.Connection,
        channel: Channel,
        queue: Queue,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        later = f"{queue.name}_later"

        def work(connection: Connection) -> None:
            house.outbox.put(connection, Message(b"early"), later)
            house.outbox.put(connection, Message(b"lost"), "", exchange="no such exchange")
            house.outbox.put(connection, Message(b"fine"), queue.name)

        await house.run(work)
        async with running(OutboxRelay(connection, house.engine, house.outbox, poll_s=0.01)):
            await empty(house)
            assert [message.body for message in await take_all(queue)] == [b"fine"]
            parked = await house.run(house.outbox.parked)
            assert [row.message.body for row in parked] == [b"early", b"lost"]
            assert "no queue" in parked[0].error
            assert "NotFound" in parked[1].error
            assert [record.levelname for record in caplog.records].count("ERROR") == 2

            late = await channel.declare_queue(later, durable=True)
            assert await house.run(lambda c: house.outbox.unpark(c, [parked[0].id])) == 1
            await empty(house)
            assert [message.body for message in await take_all(late)] == [b"early"]
            await late.delete()
            assert len(await house.run(house.outbox.parked)) == 1

    @one_of_each
    async def test_a_full_queue_is_tried_again_while_the_rest_goes_on(
        self, house: SqlHouse, connection: leveret.Connection, channel: Channel, queue: Queue
    ) -> None:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        full = await channel.declare_queue(f"{queue.name}_full", durable=True, arguments=arguments)
        await put(house, full.name, "1", "2")
        await put(house, queue.name, "rest")
        async with running(OutboxRelay(connection, house.engine, house.outbox, poll_s=0.01, backoff=SOON)):
            await left(house, 1)
            assert [message.body for message in await take_all(queue)] == [b"rest"]
            taken = await take_all(full)
            await empty(house)
            taken += await take_all(full)
        assert [message.body for message in taken] == [b"1", b"2"]
        await full.delete()

    @one_of_each
    async def test_a_relay_that_dies_after_the_confirm_doubles_with_the_same_id(
        self, house: SqlHouse, connection: leveret.Connection, queue: Queue
    ) -> None:
        class DeadDatabase(OutboxTable):
            def delete(self, connection: Connection, row_ids: object) -> None:
                raise OperationalError("DELETE", {}, Exception("as if the process was killed here"))

        await put(house, queue.name, "1", "2")
        dying = DeadDatabase.__new__(DeadDatabase)
        dying.__dict__.update(house.outbox.__dict__)
        with pytest.raises(OperationalError):
            await OutboxRelay(connection, house.engine, dying, lease_s=0.2).run_once()
        assert await house.waiting() == 2
        async with running(OutboxRelay(connection, house.engine, house.outbox, poll_s=0.01)):
            await empty(house)
        ids = Counter((message.body, message.message_id) for message in await take_all(queue))
        assert len(ids) == 2
        assert set(ids.values()) == {2}


class TestOutages:
    @one_of_each
    async def test_a_closed_connection_ends_the_relay_and_loses_nothing(
        self, house: SqlHouse, shared_daemon: Daemon, connection: leveret.Connection, queue: Queue
    ) -> None:
        await put(house, queue.name, "1")
        async with leveret.connect(shared_daemon.leveret_url) as closed:
            pass
        with pytest.raises(ConnectionLost):
            await OutboxRelay(closed, house.engine, house.outbox).run()
        with pytest.raises(ConnectionLost):
            async with OutboxRelay(closed, house.engine, house.outbox):
                await asyncio.sleep(0)
        async with running(OutboxRelay(connection, house.engine, house.outbox)):
            await empty(house)
        assert len(await take_all(queue)) == 1
