"""Idempotent consumers on a real broker: in the transaction of the effect, and beside it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from sql_house import KINDS, SqlHouse, database_url, make_engine
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import leveret
from leveret import Channel, IncomingMessage, Message, Queue
from leveret.patterns.database import insert_new_in_savepoint
from leveret.patterns.inbox import Inbox, MessageIdMissing
from leveret.patterns.inbox_memory import MemoryInboxStore
from leveret.patterns.inbox_sql import InboxBusy, SqlInboxStore

PATIENCE_S = 30 * TIMEOUT_FACTOR
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"inbox_test_{next(_numbers)}"


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> AsyncIterator[SqlHouse]:
    url = database_url(request.param, tmp_path, lambda: request.getfixturevalue("postgresql"))
    house = SqlHouse(make_engine(url, is_async=request.param.endswith("async")), name)
    await house.build()
    yield house
    await house.close()


@pytest.fixture
async def channel(shared_daemon: Daemon) -> AsyncIterator[Channel]:
    async with leveret.connect(shared_daemon.leveret_url) as connection, connection.channel() as channel:
        yield channel


@pytest.fixture
async def queue(channel: Channel, name: str) -> AsyncIterator[Queue]:
    queue = await channel.declare_queue(name, durable=True)
    yield queue
    await channel.queue_delete(name)


async def arrived(queue: Queue, message_id: str | None = "m1") -> IncomingMessage:
    await queue.channel.publish(Message(b"effect", message_id=message_id), queue.name)
    return await queue.get(no_ack=True)


class TestRecord:
    async def test_the_effect_and_the_id_are_committed_together(self, house: SqlHouse, queue: Queue) -> None:
        async def process(message: IncomingMessage, *, fail: bool = False) -> None:
            if isinstance(house.engine, AsyncEngine):
                async with AsyncSession(house.engine) as session, session.begin():
                    if await house.inbox.record_async(session, message):
                        await session.execute(insert(house.effects).values(name="effect"))
                    if fail:
                        raise RuntimeError("after the effect")
            else:
                with Session(house.engine) as session, session.begin():
                    if house.inbox.record(session, message):
                        session.execute(insert(house.effects).values(name="effect"))
                    if fail:
                        raise RuntimeError("after the effect")

        with pytest.raises(RuntimeError, match="after the effect"):
            await process(await arrived(queue), fail=True)
        assert await house.count_effects() == 0
        for _ in range(3):
            await process(await arrived(queue))
        assert await house.count_effects() == 1
        await process(await arrived(queue, "m2"))
        assert await house.count_effects() == 2
        with pytest.raises(MessageIdMissing):
            await process(await arrived(queue, None))

    @pytest.mark.parametrize("house", ["postgresql"], indirect=True)
    @pytest.mark.parametrize("first_commits", [True, False])
    async def test_a_second_worker_waits_for_the_first_ones_transaction(
        self, house: SqlHouse, queue: Queue, first_commits: bool
    ) -> None:
        """On PostgreSQL, which says who waits for a lock."""
        message = await arrived(queue)
        outcome: list[bool] = []

        def second() -> None:
            with house.engine.begin() as connection:
                outcome.append(house.inbox.record(connection, message))

        with house.engine.connect() as first:
            assert house.inbox.record(first, message)
            worker = threading.Thread(target=second)
            worker.start()
            deadline = time.monotonic() + PATIENCE_S
            while not await house.run(waits_for_a_lock):
                assert time.monotonic() < deadline, outcome
                await asyncio.sleep(0.01)
            assert outcome == []
            first.commit() if first_commits else first.rollback()
        worker.join(PATIENCE_S)
        assert outcome == [not first_commits]

    async def test_a_table_with_a_claim_of_an_inbox_is_busy(self, house: SqlHouse, queue: Queue) -> None:
        message = await arrived(queue)
        async with Inbox(SqlInboxStore(house.engine, house.inbox)).once(message):
            with pytest.raises(InboxBusy, match=f"uses the table {house.inbox.table.name}"):
                await house.run(lambda connection: house.inbox.record(connection, message))
        assert not await house.run(lambda connection: house.inbox.record(connection, message))

    @pytest.mark.parametrize("house", ["postgresql"], indirect=True)
    async def test_as_on_databases_that_only_have_savepoints(self, house: SqlHouse) -> None:
        values = {"message_id": "m1", "owner": None, "until": 1.0}

        def work(connection: Connection) -> list[bool]:
            return [insert_new_in_savepoint(connection, house.inbox.table, values) for _ in range(3)]

        assert await house.run(work) == [True, False, False]
        assert await house.run(work) == [False, False, False]


def waits_for_a_lock(connection: Connection) -> bool:
    found = connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return found.scalar_one() > 0


class TestInbox:
    async def test_doubled_messages_have_one_effect_each(self, house: SqlHouse, queue: Queue) -> None:
        inbox = Inbox(SqlInboxStore(house.engine, house.inbox))
        await self.process_doubles(inbox, queue)

    async def test_in_memory(self, queue: Queue) -> None:
        await self.process_doubles(Inbox(MemoryInboxStore()), queue)

    async def process_doubles(self, inbox: Inbox, queue: Queue) -> None:
        effects: Counter[str | None] = Counter()

        @inbox.idempotent
        async def handle(message: IncomingMessage) -> None:
            if message.message_id == "fails" and not message.redelivered:
                raise OSError("not now")
            effects[message.message_id] += 1

        ids = [f"{number}" for number in range(10)] * 3 + ["fails"]
        for message_id in ids:
            await queue.channel.publish(Message(b"", message_id=message_id), queue.name)
        consumer = await queue.consume(handle, concurrency=8, on_error="requeue")
        deadline = time.monotonic() + PATIENCE_S
        while len(effects) < 11:
            assert time.monotonic() < deadline, effects
            await asyncio.sleep(0.01)
        await consumer.stop()
        assert await queue.get(fail=False) is None
        assert effects == Counter(set(ids))
