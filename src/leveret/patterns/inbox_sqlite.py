"""An inbox's ids in an SQLite file: for the workers of one machine, and over their restarts.

Stands on the standard library alone. All access is in one thread of the store's own, so the event loop never
waits for the disk.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from types import TracebackType
from typing import Self, TypeVar

from .inbox import Standing

BUSY_TIMEOUT_S = 30.0  # for other processes' writes, which take milliseconds
T = TypeVar("T")


class SqliteInboxStore:
    """`async with SqliteInboxStore("inbox.db") as store:`, or `close` it in the end.

    The file and the table are made when they are first used. Several handlers may share a file, with a table
    each.
    """

    def __init__(self, path: str | PathLike[str], *, table: str = "inbox") -> None:
        if not (table.isidentifier() and table.isascii()):
            raise ValueError(f"the table's name is letters, digits and underscores, not {table!r}")
        self._path = fspath(path)
        self._table = table
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inbox")
        self._connection: sqlite3.Connection | None = None  # of that thread

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish what was begun and close the file. Idempotent."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # As the inbox sees it: each statement is a transaction

    async def claim(self, key: str, owner: str, now: float, until: float) -> Standing:
        def work(connection: sqlite3.Connection) -> Standing:
            claimed = connection.execute(
                f"INSERT INTO {self._table} (message_id, owner, until) VALUES (?, ?, ?) "
                "ON CONFLICT (message_id) DO UPDATE SET owner = excluded.owner, until = excluded.until "
                "WHERE until <= ?",
                (key, owner, until, now),
            )
            if claimed.rowcount == 1:
                return Standing.CLAIMED
            found = connection.execute(f"SELECT owner FROM {self._table} WHERE message_id = ?", (key,))
            # No row at all: the other worker has just released it, and the inbox asks again.
            return Standing.DONE if found.fetchone() == (None,) else Standing.BUSY

        return await self._run(work)

    async def renew(self, key: str, owner: str, until: float) -> bool:
        statement = f"UPDATE {self._table} SET until = ? WHERE message_id = ? AND owner = ?"
        return await self._run(
            lambda connection: connection.execute(statement, (until, key, owner)).rowcount == 1
        )

    async def finish(self, key: str, until: float) -> None:
        statement = f"INSERT OR REPLACE INTO {self._table} (message_id, owner, until) VALUES (?, NULL, ?)"
        await self._run(lambda connection: connection.execute(statement, (key, until)))

    async def release(self, key: str, owner: str) -> None:
        statement = f"DELETE FROM {self._table} WHERE message_id = ? AND owner = ?"
        await self._run(lambda connection: connection.execute(statement, (key, owner)))

    async def purge(self, now: float) -> None:
        statement = f"DELETE FROM {self._table} WHERE until <= ?"
        await self._run(lambda connection: connection.execute(statement, (now,)))

    # In the thread

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._opened()))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            # Closed by `_close` when this thread is over, hence check_same_thread.
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} "
                "(message_id TEXT PRIMARY KEY, owner TEXT, until REAL NOT NULL) WITHOUT ROWID"
            )
            connection.execute(f"CREATE INDEX IF NOT EXISTS {self._table}_until ON {self._table} (until)")
            self._connection = connection
        return self._connection
