"""The inbox over every store that needs no server: memory, SQLite, SQLAlchemy on SQLite, sync and async."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, MetaData, create_engine, func, select
from sqlalchemy.ext.asyncio import create_async_engine

from leveret.patterns.inbox import Inbox, InboxStore, MessageIdMissing, Standing, by_body
from leveret.patterns.inbox_memory import MemoryInboxStore
from leveret.patterns.inbox_sql import InboxTable, SqlInboxStore
from leveret.patterns.inbox_sqlite import SqliteInboxStore

STORES = ["memory", "sqlite", "sqlalchemy", "sqlalchemy-async"]


@dataclass
class FakeMessage:
    message_id: str | None = "m1"
    body: bytes = b"body"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def open_store(kind: str, file: Path) -> AsyncIterator[InboxStore]:
    if kind == "memory":
        yield MemoryInboxStore()
    elif kind == "sqlite":
        async with SqliteInboxStore(file) as store:
            yield store
    elif kind == "sqlalchemy":
        metadata = MetaData()
        engine, table = create_engine(f"sqlite:///{file}"), InboxTable(metadata)
        metadata.create_all(engine)
        yield SqlInboxStore(engine, table)
        engine.dispose()
    else:
        metadata = MetaData()
        async_engine, table = create_async_engine(f"sqlite+aiosqlite:///{file}"), InboxTable(metadata)
        async with async_engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield SqlInboxStore(async_engine, table)
        await async_engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[InboxStore]:
    async with open_store(request.param, tmp_path / "inbox.db") as store:
        yield store


@pytest.fixture
def inbox(store: InboxStore, clock: Clock) -> Inbox:
    return Inbox(store, ttl_s=100, lease_s=10, clock=clock)


class TestStore:
    async def test_a_claim_is_exclusive_until_it_lapses(self, store: InboxStore) -> None:
        assert await store.claim("k", "a", 0, 10) is Standing.CLAIMED
        assert await store.claim("k", "b", 9, 19) is Standing.BUSY
        assert await store.claim("other", "b", 9, 19) is Standing.CLAIMED
        assert await store.claim("k", "b", 10, 20) is Standing.CLAIMED

    async def test_a_claim_is_renewed_by_its_owner_only(self, store: InboxStore) -> None:
        await store.claim("k", "a", 0, 10)
        assert await store.renew("k", "a", 20)
        assert not await store.renew("k", "b", 99)
        assert not await store.renew("missing", "a", 99)
        assert await store.claim("k", "b", 19, 29) is Standing.BUSY
        assert await store.claim("k", "b", 20, 30) is Standing.CLAIMED
        assert not await store.renew("k", "a", 99)

    async def test_what_is_done_stays_done_until_its_time_is_over(self, store: InboxStore) -> None:
        await store.claim("k", "a", 0, 10)
        await store.finish("k", 100)
        assert await store.claim("k", "b", 99, 109) is Standing.DONE
        assert await store.claim("k", "b", 100, 110) is Standing.CLAIMED

    async def test_done_is_done_whoever_has_the_claim(self, store: InboxStore) -> None:
        await store.claim("k", "slow", 0, 10)
        await store.claim("k", "other", 10, 20)
        await store.finish("k", 100)
        await store.release("k", "other")
        assert not await store.renew("k", "other", 99)
        assert await store.claim("k", "c", 30, 40) is Standing.DONE

    async def test_done_without_a_claim(self, store: InboxStore) -> None:
        await store.finish("k", 100)
        assert await store.claim("k", "a", 50, 60) is Standing.DONE

    async def test_a_released_claim_can_be_had_at_once(self, store: InboxStore) -> None:
        await store.claim("k", "a", 0, 10)
        await store.release("k", "b")
        assert await store.claim("k", "b", 1, 11) is Standing.BUSY
        await store.release("k", "a")
        assert await store.claim("k", "b", 1, 11) is Standing.CLAIMED

    async def test_purge_keeps_what_still_counts(self, store: InboxStore) -> None:
        for key, until in (("old", 50), ("new", 60)):
            await store.finish(key, until)
            await store.claim(f"{key} claim", "a", 0, until)
        await store.purge(50)
        assert await store.claim("old", "b", 0, 9) is Standing.CLAIMED
        assert await store.claim("old claim", "b", 0, 9) is Standing.CLAIMED
        assert await store.claim("new", "b", 0, 9) is Standing.DONE
        assert await store.claim("new claim", "b", 0, 9) is Standing.BUSY


class TestInbox:
    async def test_a_repeat_passes_by_until_the_ttl_is_over(self, inbox: Inbox, clock: Clock) -> None:
        news = []
        for now in (0, 50, 99, 100):
            clock.now = 1000.0 + now
            async with inbox.once(FakeMessage()) as is_new:
                news.append(is_new)
        assert news == [True, False, False, True]

    async def test_what_failed_is_tried_again(self, inbox: Inbox) -> None:
        with pytest.raises(RuntimeError, match="no luck"):
            async with inbox.once(FakeMessage()):
                raise RuntimeError("no luck")
        async with inbox.once(FakeMessage()) as is_new:
            assert is_new

    @pytest.mark.parametrize("first_fails", [False, True])
    async def test_the_second_of_two_at_once_waits_for_the_first(
        self, inbox: Inbox, first_fails: bool
    ) -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            async with inbox.once(FakeMessage()) as is_new:
                assert is_new
                entered.set()
                await leave.wait()
                if first_fails:
                    raise RuntimeError("no luck")

        async def second() -> bool:
            async with inbox.once(FakeMessage()) as is_new:
                assert leave.is_set()
                return is_new

        running = asyncio.create_task(first())
        await entered.wait()
        waiting = asyncio.create_task(second())
        async with inbox.once(FakeMessage("other")):
            await asyncio.sleep(0)
        assert not waiting.done()
        leave.set()
        assert await waiting is first_fails
        await asyncio.gather(running, return_exceptions=True)

    async def test_a_worker_that_died_is_taken_over_from(
        self, inbox: Inbox, store: InboxStore, clock: Clock
    ) -> None:
        await store.claim("m1", "a worker that was killed", clock.now, clock.now + 10)

        async def process() -> bool:
            async with inbox.once(FakeMessage()) as is_new:
                return is_new

        waiting = asyncio.create_task(process())
        async with inbox.once(FakeMessage("other")):
            pass
        assert not waiting.done()
        clock.now += 10
        assert await waiting

    async def test_a_cancelled_worker_gives_its_claim_back(self, inbox: Inbox) -> None:
        entered = asyncio.Event()

        async def process() -> None:
            async with inbox.once(FakeMessage()):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(process())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with inbox.once(FakeMessage()) as is_new:
            assert is_new

    async def test_what_is_done_is_on_record_even_if_the_worker_is_cancelled_then(self) -> None:
        class Slow(MemoryInboxStore):
            async def finish(self, key: str, until: float) -> None:
                finishing.set()
                await may_finish.wait()
                await super().finish(key, until)
                finished.set()

        async def process() -> None:
            async with inbox.once(FakeMessage()):
                pass

        finishing, may_finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()
        inbox = Inbox(Slow())
        task = asyncio.create_task(process())
        await finishing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_finish.set()
        await finished.wait()
        async with inbox.once(FakeMessage()) as is_new:
            assert not is_new

    async def test_a_hundred_workers_and_one_effect(self, inbox: Inbox) -> None:
        effects = 0

        async def handler(_: object) -> None:
            nonlocal effects
            await asyncio.sleep(0)
            effects += 1

        handle = inbox.idempotent(handler)
        await asyncio.gather(*(handle(FakeMessage()) for _ in range(100)))
        assert effects == 1

    async def test_old_ids_are_purged(self, inbox: Inbox, store: InboxStore, clock: Clock) -> None:
        async with inbox.once(FakeMessage("old")):
            pass
        clock.now += 100
        async with inbox.once(FakeMessage("new")):
            pass
        # As if it was yesterday: only a record that is gone does not count then.
        assert await store.claim("old", "a", 1000.0, 1001.0) is Standing.CLAIMED


class TestClaimsOfLongWork:
    """In real time, for the renewals are."""

    async def test_the_claim_is_renewed_while_the_block_runs(self) -> None:
        class Renewals(MemoryInboxStore):
            async def renew(self, key: str, owner: str, until: float) -> bool:
                if len(renewed) == 1:
                    renewed.append("failed")
                    raise OSError("the store is away")
                kept = await super().renew(key, owner, until)
                renewed.append("kept" if kept else "lost")
                if len(renewed) == 3:
                    thrice.set()
                return kept

        renewed: list[str] = []
        thrice = asyncio.Event()
        async with Inbox(Renewals(), lease_s=0.03).once(FakeMessage()):
            await thrice.wait()
        assert renewed == ["kept", "failed", "kept"]
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody renews what is done"

    async def test_a_lost_claim_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        class Lost(MemoryInboxStore):
            async def renew(self, key: str, owner: str, until: float) -> bool:
                asked.set()
                return False

        asked = asyncio.Event()
        async with Inbox(Lost(), lease_s=0.01).once(FakeMessage()):
            await asked.wait()
        assert "message m1 may be processed twice" in caplog.text


class TestKeys:
    async def test_without_an_id_it_says_what_to_do(self) -> None:
        inbox = Inbox(MemoryInboxStore())
        for message_id in (None, ""):
            with pytest.raises(MessageIdMissing, match=r"let its publisher set one.*key=by_body"):
                async with inbox.once(FakeMessage(message_id)):
                    pytest.fail("the block was entered")

    async def test_by_body(self) -> None:
        inbox = Inbox(MemoryInboxStore(), key=by_body)
        news = []
        for body in (b"1", b"2", b"1"):
            async with inbox.once(FakeMessage(None, body)) as is_new:
                news.append(is_new)
        assert news == [True, True, False]

    async def test_none_is_always_new(self) -> None:
        store = MemoryInboxStore()
        inbox = Inbox(store, key=lambda message: message.message_id)
        for _ in range(2):
            async with inbox.once(FakeMessage(None)) as is_new:
                assert is_new
        assert len(store) == 0

    @pytest.mark.parametrize("key", ["", "x" * 256])
    async def test_a_key_that_no_store_takes(self, key: str) -> None:
        with pytest.raises(ValueError, match="1 to 255 characters"):
            async with Inbox(MemoryInboxStore(), key=lambda _: key).once(FakeMessage()):
                pass

    @pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"lease_s": -1}])
    def test_wrong_times(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be above 0"):
            Inbox(MemoryInboxStore(), **wrong)


class TestMemory:
    async def test_it_is_bounded(self, caplog: pytest.LogCaptureFixture) -> None:
        store = MemoryInboxStore(limit=3)
        for number in range(10):
            await store.finish(str(number), 100)
        assert len(store) == 3
        assert await store.claim("6", "a", 0, 10) is Standing.CLAIMED
        assert await store.claim("7", "a", 0, 10) is Standing.DONE
        assert caplog.text.count("forgotten early") == 1
        with pytest.raises(ValueError, match="at least 1"):
            MemoryInboxStore(limit=0)


class TestSqlite:
    async def test_two_processes_worth_of_stores_on_one_file(self, tmp_path: Path) -> None:
        async with SqliteInboxStore(tmp_path / "i.db") as one, SqliteInboxStore(tmp_path / "i.db") as two:
            standings = await asyncio.gather(
                *(
                    store.claim(str(key), name, 0, 10)
                    for key in range(50)
                    for name, store in (("1", one), ("2", two))
                )
            )
        assert standings.count(Standing.CLAIMED) == 50
        assert standings.count(Standing.BUSY) == 50

    async def test_it_remembers_over_a_restart_and_per_table(self, tmp_path: Path) -> None:
        async with SqliteInboxStore(tmp_path / "i.db") as store:
            await store.finish("k", 100)
        async with SqliteInboxStore(tmp_path / "i.db") as store:
            assert await store.claim("k", "a", 0, 10) is Standing.DONE
        async with SqliteInboxStore(tmp_path / "i.db", table="other") as store:
            assert await store.claim("k", "a", 0, 10) is Standing.CLAIMED

    async def test_an_error_of_the_database_comes_out(self, tmp_path: Path) -> None:
        async with SqliteInboxStore(tmp_path / "missing" / "i.db") as store:
            with pytest.raises(sqlite3.OperationalError, match="unable to open"):
                await store.claim("k", "a", 0, 10)

    def test_a_table_name_is_no_place_for_sql(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="letters, digits"):
            SqliteInboxStore(tmp_path / "i.db", table="x; DROP TABLE y")


class TestRecord:
    """In the caller's own transaction; `tests/integration` does the same on PostgreSQL."""

    def test_rolled_back_with_the_effect(self, tmp_path: Path, clock: Clock) -> None:
        metadata = MetaData()
        inbox = InboxTable(metadata, ttl_s=100, clock=clock)
        engine = create_engine(f"sqlite:///{tmp_path / 'i.db'}")
        metadata.create_all(engine)
        with engine.connect() as connection:
            assert inbox.record(connection, FakeMessage())
            connection.rollback()
            assert inbox.record(connection, FakeMessage())
            connection.commit()
            assert not inbox.record(connection, FakeMessage())
            connection.commit()
            clock.now += 100
            assert inbox.record(connection, FakeMessage())
            connection.commit()
            inbox.purge(connection)
            assert rows(connection, inbox) == 1
            clock.now += 100
            inbox.purge(connection)
            assert rows(connection, inbox) == 0
        engine.dispose()


def rows(connection: Connection, inbox: InboxTable) -> int:
    return connection.execute(select(func.count()).select_from(inbox.table)).scalar_one()
