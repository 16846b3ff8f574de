"""An inbox's ids in any database that SQLAlchemy 2 knows. Needs `leveret[sqlalchemy]`.

The strong form: the id is written in the transaction that has the message's effect. Both are committed or
neither is, so the effect happens exactly once, whatever crashes when:

    metadata = MetaData()  # or your declarative Base.metadata
    inbox = InboxTable(metadata)

    async for message in queue:
        async with message.process(requeue=True):
            async with AsyncSession(engine) as session, session.begin():
                if await inbox.record_async(session, message):
                    session.add(Payment(...))

A second worker with the same id waits in `record` until the first one's transaction has ended.

When the effect is elsewhere, `Inbox(SqlInboxStore(engine, inbox))` is as `inbox.Inbox` describes it.
"""

import time
from collections.abc import Callable

# First, for it says what to install.
from .database import AsyncCaller, Caller, connection_of, in_transaction, insert_new

# isort: split
from sqlalchemy import Column, Connection, Double, Engine, MetaData, String, Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from leveret.client import IncomingMessage, LeveretError

from .inbox import DEFAULT_TTL_S, KEY_CHARS_MAX, Key, Standing, by_message_id, check_key


class InboxBusy(LeveretError):
    """The id has a claim of an `Inbox`, which uses the same table. Give each handler a table of its own."""


class InboxTable:
    """A table of processed ids, and how an id gets into it within the caller's transaction.

    The table is made like all others of its metadata: by `metadata.create_all`, or by your migrations.

    Args:
        metadata: where the table is added.
        name: one table per handler; two handlers that get copies of a message must not share one.
        ttl_s, key, clock: as for `Inbox`.
    """

    def __init__(
        self,
        metadata: MetaData,
        name: str = "inbox",
        *,
        ttl_s: float = DEFAULT_TTL_S,
        key: Key = by_message_id,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be above 0, not {ttl_s}")
        self.table = Table(
            name,
            metadata,
            Column("message_id", String(KEY_CHARS_MAX), primary_key=True),
            Column("owner", String(32), nullable=True),  # who has a claim; NULL: it is processed
            Column("until", Double, nullable=False, index=True),  # seconds since the epoch
        )
        self._ttl_s = ttl_s
        self._key = key
        self._clock = clock

    def record(self, session: Caller, message: IncomingMessage) -> bool:
        """Whether the message is new: then its id is now written in the session's transaction.

        Call it first in the transaction. False: it was processed before; commit, and ack it. When it raises,
        roll back, and hand the message back to its queue.
        """
        key = self._key(message)
        if key is None:
            return True
        check_key(key)
        connection = connection_of(session)
        now = self._clock()
        if self.take(connection, key, None, now, now + self._ttl_s):
            return True
        if self.owner(connection, key) is not None:
            raise InboxBusy(
                f"message {key} is being processed by an Inbox that uses the table {self.table.name}"
            )
        return False

    async def record_async(self, session: AsyncCaller, message: IncomingMessage) -> bool:
        """`record` for an AsyncSession or AsyncConnection."""
        return await session.run_sync(self.record, message)

    def purge(self, session: Caller) -> None:
        """Forget what is older than its time. `record` leaves that to you: do it now and then, in a
        transaction of its own.
        """
        self.drop_ended(connection_of(session), self._clock())

    # What `SqlInboxStore` is made of

    def take(self, connection: Connection, key: str, owner: str | None, now: float, until: float) -> bool:
        """Make the row ours, if there is none or its time is over."""
        row = self.table.c
        ended = update(self.table).where(row.message_id == key, row.until <= now)
        if connection.execute(ended.values(owner=owner, until=until)).rowcount == 1:
            return True
        return insert_new(connection, self.table, {"message_id": key, "owner": owner, "until": until})

    def owner(self, connection: Connection, key: str) -> str | None:
        """Who has a claim; empty: the row is gone in this moment."""
        found = connection.execute(
            select(self.table.c.owner).where(self.table.c.message_id == key)
        ).one_or_none()
        return "" if found is None else found.owner

    def prolong(self, connection: Connection, key: str, owner: str, until: float) -> bool:
        row = self.table.c
        mine = update(self.table).where(row.message_id == key, row.owner == owner)
        return connection.execute(mine.values(until=until)).rowcount == 1

    def finish(self, connection: Connection, key: str, until: float) -> None:
        there = update(self.table).where(self.table.c.message_id == key).values(owner=None, until=until)
        if connection.execute(there).rowcount == 0:
            insert_new(connection, self.table, {"message_id": key, "owner": None, "until": until})

    def release(self, connection: Connection, key: str, owner: str) -> None:
        row = self.table.c
        connection.execute(delete(self.table).where(row.message_id == key, row.owner == owner))

    def drop_ended(self, connection: Connection, now: float) -> None:
        connection.execute(delete(self.table).where(self.table.c.until <= now))


class SqlInboxStore:
    """An `InboxStore` on such a table, in transactions of its own. Takes an Engine or an AsyncEngine."""

    def __init__(self, engine: Engine | AsyncEngine, table: InboxTable) -> None:
        self._engine = engine
        self._table = table

    async def claim(self, key: str, owner: str, now: float, until: float) -> Standing:
        def work(connection: Connection) -> Standing:
            if self._table.take(connection, key, owner, now, until):
                return Standing.CLAIMED
            return Standing.DONE if self._table.owner(connection, key) is None else Standing.BUSY

        return await in_transaction(self._engine, work)

    async def renew(self, key: str, owner: str, until: float) -> bool:
        return await in_transaction(
            self._engine, lambda connection: self._table.prolong(connection, key, owner, until)
        )

    async def finish(self, key: str, until: float) -> None:
        await in_transaction(self._engine, lambda connection: self._table.finish(connection, key, until))

    async def release(self, key: str, owner: str) -> None:
        await in_transaction(self._engine, lambda connection: self._table.release(connection, key, owner))

    async def purge(self, now: float) -> None:
        await in_transaction(self._engine, lambda connection: self._table.drop_ended(connection, now))
