"""A database for tests of the SQL patterns: SQLite or PostgreSQL, with a sync or an async engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from postgresql import PostgreSQL
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from leveret.patterns.inbox_sql import InboxTable
from leveret.patterns.outbox import OutboxTable

T = TypeVar("T")

KINDS = ("sqlite", "sqlite-async", "postgresql", "postgresql-async")


def database_url(kind: str, directory: Path, postgresql: Callable[[], PostgreSQL]) -> str:
    """`postgresql` is asked only when it is needed."""
    if kind.startswith("postgresql"):
        return postgresql().url()
    return f"sqlite{'+aiosqlite' if kind.endswith('async') else ''}:///{directory / 'house.db'}"


def make_engine(url: str, *, is_async: bool) -> Engine | AsyncEngine:
    options = {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}
    return create_async_engine(url, **options) if is_async else create_engine(url, **options)


@dataclass
class SqlHouse:
    """An outbox, an inbox and a table of effects, all with names of their own."""

    engine: Engine | AsyncEngine
    prefix: str
    metadata: MetaData = field(default_factory=MetaData)

    def __post_init__(self) -> None:
        self.outbox = OutboxTable(self.metadata, f"{self.prefix}_outbox")
        self.inbox = InboxTable(self.metadata, f"{self.prefix}_inbox")
        self.effects = Table(f"{self.prefix}_effects", self.metadata, Column("name", String(100)))

    async def build(self) -> None:
        await self.run(self.metadata.create_all)

    async def close(self) -> None:
        await self.run(self.metadata.drop_all)
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """In a transaction; in this thread, for the tests' own accesses are short."""
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.begin() as connection:
                return await connection.run_sync(work)
        with self.engine.begin() as connection:
            return work(connection)

    async def run_in_session(self, work: Callable[[Session], T]) -> T:
        """The same with an ORM session."""
        if isinstance(self.engine, AsyncEngine):
            async with AsyncSession(self.engine) as session, session.begin():
                return await session.run_sync(work)
        with Session(self.engine) as session, session.begin():
            return work(session)

    async def waiting(self) -> int:
        """Rows of the outbox that are not parked."""
        return await self.run(self.outbox.waiting_count)

    async def add_effect(self, name: str) -> None:
        await self.run(lambda connection: connection.execute(insert(self.effects).values(name=name)))

    async def count_effects(self) -> int:
        return await self.run(
            lambda connection: connection.execute(select(func.count()).select_from(self.effects)).scalar_one()
        )
