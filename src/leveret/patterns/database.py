"""A SQLAlchemy 2 database as the patterns use it: in the caller's transaction, or in one of their own.

Needs `leveret[sqlalchemy]`, and says so: whoever imports from SQLAlchemy, too, imports this first.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

try:
    from sqlalchemy import Connection, Engine, Table, insert
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session, scoped_session
except ImportError as error:
    raise ImportError("this needs SQLAlchemy with asyncio: pip install 'leveret[sqlalchemy]'") from error

T = TypeVar("T")

Caller = Session | scoped_session[Session] | Connection
"""Whose transaction a row is written in. Of a session with several databases, give the connection."""

AsyncCaller = AsyncSession | AsyncConnection


def connection_of(caller: Caller) -> Connection:
    """The connection that the caller's transaction is on; one is begun if there is none."""
    return caller if isinstance(caller, Connection) else caller.connection()


async def in_transaction(engine: Engine | AsyncEngine, work: Callable[[Connection], T]) -> T:
    """Do the work in a transaction of its own, off the event loop."""
    if isinstance(engine, AsyncEngine):
        async with engine.begin() as connection:
            return await connection.run_sync(work)

    def in_thread() -> T:
        with engine.begin() as connection:
            return work(connection)

    return await asyncio.to_thread(in_thread)


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row; False when there is one with this key, as soon as the transaction that wrote it is
    committed. Either way the transaction can go on.
    """
    name = connection.dialect.name
    statement: postgresql.Insert | sqlite.Insert
    if name == "postgresql":
        statement = postgresql.insert(table)
    elif name == "sqlite":  # whose driver has no savepoints in every version
        statement = sqlite.insert(table)
    else:
        return insert_new_in_savepoint(connection, table, values)
    new = statement.values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(new).first() is not None


def insert_new_in_savepoint(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """`insert_new` in the SQL that all databases have."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table).values(values))
    except IntegrityError:
        return False
    return True
