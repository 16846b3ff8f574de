"""The outbox's table on SQLite, and its relay with a broker that does what the test wants."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from leveret import (
    AccessRefused,
    Blocked,
    BrokerError,
    ConnectionLost,
    DeliveryMode,
    Message,
    Nacked,
    NotFound,
    Unroutable,
)
from leveret.patterns.outbox import OutboxRow, OutboxTable
from leveret.patterns.outbox_relay import OutboxRelay
from leveret.patterns.retry import Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeBroker:
    """A connection and its only channel. A body that is in `failures` fails, once for each error there."""

    def __init__(self) -> None:
        self.is_closed = False
        self.published: list[tuple[str, str, str]] = []
        self.failures: dict[str, list[Exception]] = {}

    async def channel(self) -> "FakeBroker":
        return self

    async def publish(self, message: Message, routing_key: str, *, exchange: str, timeout_s: float) -> None:
        body = message.body.decode()
        if self.failures.get(body):
            raise self.failures[body].pop(0)
        self.published.append((body, routing_key, exchange))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> OutboxTable:
    return OutboxTable(MetaData(), clock=clock)


@pytest.fixture
def engine(outbox: OutboxTable, tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    outbox.table.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def relay(broker: FakeBroker, engine: Engine, outbox: OutboxTable) -> OutboxRelay:
    backoff = Backoff(first_s=1, cap_s=4, jitter=0)
    return OutboxRelay(broker, engine, outbox, poll_s=0.001, lease_s=10, backoff=backoff, random=Random(1))


def put(engine: Engine, outbox: OutboxTable, *bodies: str) -> None:
    with Session(engine) as session, session.begin():
        for body in bodies:
            outbox.put(session, Message(body.encode()), "key", exchange="exchange")


def lease(engine: Engine, outbox: OutboxTable, owner: str, limit: int = 100) -> list[str]:
    with engine.begin() as connection:
        return [row.message.body.decode() for row in outbox.lease(connection, owner, 10, limit)]


def parked(engine: Engine, outbox: OutboxTable) -> dict[str, OutboxRow]:
    with engine.connect() as connection:
        return {row.message.body.decode(): row for row in outbox.parked(connection)}


class TestTable:
    def test_a_row_is_the_message_with_an_id_and_persistent(
        self, engine: Engine, outbox: OutboxTable
    ) -> None:
        sent = Message(b"b", expiration=timedelta(seconds=5), delivery_mode=DeliveryMode.NOT_PERSISTENT)
        with engine.begin() as connection:
            made = outbox.put(connection, sent, "key")
            given = outbox.put(connection, Message(b"", message_id="mine"), "key")
            first, second = (row.message for row in outbox.lease(connection, "me", 1, 10))
        assert given == "mine" == second.message_id
        assert made == first.message_id != given
        assert (first.delivery_mode, first.expiration) == (DeliveryMode.PERSISTENT, sent.expiration)

    def test_names_are_checked_before_they_are_written(self, engine: Engine, outbox: OutboxTable) -> None:
        with engine.connect() as connection:
            with pytest.raises(ValueError, match="routing_key has 256 octets"):
                outbox.put(connection, Message(b""), "\u00e9" * 128)
            with pytest.raises(ValueError, match="exchange has 300 octets"):
                outbox.put(connection, Message(b""), "", exchange="x" * 300)
            assert outbox.waiting_count(connection) == 0

    def test_rows_are_leased_in_order_once_until_the_lease_is_over(
        self, engine: Engine, outbox: OutboxTable, clock: Clock
    ) -> None:
        put(engine, outbox, "1", "2", "3")
        assert lease(engine, outbox, "a", limit=2) == ["1", "2"]
        assert lease(engine, outbox, "b") == ["3"]
        assert lease(engine, outbox, "c") == []
        clock.now += 10
        assert lease(engine, outbox, "d") == ["1", "2", "3"]

    def test_who_has_lost_a_lease_changes_nothing_but_what_is_published(
        self, engine: Engine, outbox: OutboxTable, clock: Clock
    ) -> None:
        put(engine, outbox, "1", "2")
        lease(engine, outbox, "slow")
        clock.now += 10
        lease(engine, outbox, "quick")
        with engine.begin() as connection:
            outbox.give_back(connection, "slow", [1, 2])
            outbox.fail(connection, "slow", 2, "error", retry_s=None)
            outbox.delete(connection, [1])
            assert outbox.parked(connection) == []
            assert outbox.waiting_count(connection) == 1
        assert lease(engine, outbox, "other") == []

    def test_unpark_some_or_all(self, engine: Engine, outbox: OutboxTable) -> None:
        put(engine, outbox, "1", "2", "3")
        lease(engine, outbox, "me")
        with engine.begin() as connection:
            for row_id in (1, 2, 3):
                outbox.fail(connection, "me", row_id, "x" * 5000, retry_s=None)
            assert outbox.waiting_count(connection) == 0
            assert outbox.unpark(connection, [2]) == 1
        assert [len(row.error or "") for row in parked(engine, outbox).values()] == [1000, 1000]
        assert lease(engine, outbox, "b") == ["2"]
        with engine.begin() as connection:
            assert outbox.unpark(connection) == 2
        assert lease(engine, outbox, "c") == ["1", "3"]


class TestRelay:
    async def test_it_publishes_in_order_and_deletes(
        self, relay: OutboxRelay, broker: FakeBroker, engine: Engine, outbox: OutboxTable
    ) -> None:
        put(engine, outbox, "1", "2")
        assert await relay.run_once() == 2
        assert broker.published == [("1", "key", "exchange"), ("2", "key", "exchange")]
        assert await relay.run_once() == 0

    @pytest.mark.parametrize(
        "error",
        [
            Unroutable(Message(b""), "exchange", "key"),
            NotFound(404, "no exchange", "publish"),
            AccessRefused(403, "internal", "publish"),
            ValueError("the body is too large"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_what_never_arrives_is_parked_at_once(
        self, relay: OutboxRelay, broker: FakeBroker, engine: Engine, outbox: OutboxTable, error: Exception
    ) -> None:
        broker.failures["bad"] = [error]
        put(engine, outbox, "bad", "good")
        assert await relay.run_once() == 2
        assert [body for body, _, _ in broker.published] == ["good"]
        row = parked(engine, outbox)["bad"]
        assert (row.error, row.attempts) == (f"{type(error).__name__}: {error}", 1)

    @pytest.mark.parametrize(
        "error",
        [Nacked(506, "full", "publish"), BrokerError(541, "internal", "publish"), RuntimeError("who knows")],
        ids=lambda error: type(error).__name__,
    )
    async def test_what_was_refused_is_tried_again_later_and_later(
        self,
        relay: OutboxRelay,
        broker: FakeBroker,
        engine: Engine,
        outbox: OutboxTable,
        clock: Clock,
        error: Exception,
    ) -> None:
        broker.failures["1"] = [error] * 4
        put(engine, outbox, "1", "2")
        assert await relay.run_once() == 2
        for wait_s in (1, 2, 4):
            clock.now += wait_s - 0.5
            assert await relay.run_once() == 0
            clock.now += 0.5
            assert await relay.run_once() == 1
        clock.now += 4
        await relay.run_once()
        assert [body for body, _, _ in broker.published] == ["2", "1"]

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionLost("gone"),
            Blocked(Message(b""), "low on disk", 1.0),
            TimeoutError("slow"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_when_the_broker_is_away_nothing_counts_as_tried(
        self, relay: OutboxRelay, broker: FakeBroker, engine: Engine, outbox: OutboxTable, error: Exception
    ) -> None:
        broker.failures["2"] = [error]
        put(engine, outbox, "1", "2", "3")
        with pytest.raises(type(error)):
            await relay.run_once()
        with engine.begin() as connection:
            (row,) = outbox.lease(connection, "me", 10, 10)
        assert (row.message.body, row.attempts, row.error) == (b"2", 0, None)

    async def test_run_goes_on_when_the_broker_is_back(
        self, broker: FakeBroker, engine: Engine, outbox: OutboxTable, caplog: pytest.LogCaptureFixture
    ) -> None:
        relay = OutboxRelay(broker, engine, outbox, poll_s=60, backoff=Backoff(first_s=0.001, cap_s=0.002))
        broker.failures["1"] = [ConnectionLost("gone")] * 3
        put(engine, outbox, "1")
        running = asyncio.create_task(relay.run())
        async with asyncio.timeout(20):
            while not broker.published:
                relay.wake()
                await asyncio.sleep(0)
        relay.stop()
        await running
        assert caplog.text.count("the outbox waits") == 3

    async def test_run_ends_with_a_connection_that_is_closed_for_good(
        self, relay: OutboxRelay, broker: FakeBroker
    ) -> None:
        broker.is_closed = True
        with pytest.raises(ConnectionLost):
            await relay.run()

    async def test_wake_and_stop_interrupt_a_long_poll(
        self, broker: FakeBroker, engine: Engine, outbox: OutboxTable
    ) -> None:
        relay = OutboxRelay(broker, engine, outbox, poll_s=3600)
        running = asyncio.create_task(relay.run())
        put(engine, outbox, "1")
        async with asyncio.timeout(20):
            while not broker.published:
                relay.wake()
                await asyncio.sleep(0)
            relay.stop()
            await running

    async def test_on_an_async_engine(self, broker: FakeBroker, outbox: OutboxTable, tmp_path: Path) -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(outbox.table.metadata.create_all)
            await outbox.put_async(connection, Message(b"1"), "key")
        assert await OutboxRelay(broker, engine, outbox).run_once() == 1
        assert [body for body, _, _ in broker.published] == ["1"]
        await engine.dispose()

    @pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"poll_s": 0}, {"lease_s": -1}])
    def test_wrong_settings(self, engine: Engine, outbox: OutboxTable, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be"):
            OutboxRelay(FakeBroker(), engine, outbox, **wrong)
