"""The relay of a transactional outbox: publishes what `outbox.OutboxTable` has, and then deletes it there.

    async with OutboxRelay(connection, engine, outbox) as relay:     # it runs for as long as the block
        ...

    await OutboxRelay(connection, engine, outbox).run()     # until `stop`; or `run_once()` from a cron job

It takes the first rows that are due under a lease, publishes them together as persistent messages, and
deletes each when the broker has confirmed it. Run as many relays as you like, in your application or beside
it: no row has two leases at a time.

When something fails:

- a queue refused the message (it is full): that row is tried again with backoff; the others go on;
- it can never arrive (no queue is bound, no such exchange, too large): the row is parked with its error, is
  logged, and blocks nobody. See `OutboxTable.parked` and `unpark`;
- the broker cannot be reached or has blocked publishers, or the database is away: the relay itself waits,
  with backoff, and nothing counts as tried;
- the relay dies: its rows are due again when the lease is over, and are published by whoever comes first.
  Some may have been published before: with the same `message_id`, by which the consumers' inboxes know them.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Self

# First, for it says what to install.
from .database import in_transaction

# isort: split
from sqlalchemy import Connection as Database
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from leveret.client import (
    AccessRefused,
    BrokerError,
    Channel,
    Connection,
    ConnectionLost,
    LeveretError,
    NotFound,
    PreconditionFailed,
    Unroutable,
)

from .outbox import OutboxRow, OutboxTable
from .retry import Backoff

log = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 200
DEFAULT_POLL_S = 0.5
DEFAULT_LEASE_S = 30.0
OUTAGE_POLL_S = 10.0  # however long the outage: its end is noticed soon

NEVER_ARRIVES = (Unroutable, NotFound, AccessRefused, PreconditionFailed, ValueError, TypeError)
BROKER_IS_AWAY = (LeveretError, TimeoutError, OSError)
DATABASE_IS_AWAY = (OperationalError, InterfaceError)


class OutboxRelay:
    """See the module's docstring.

    Args:
        connection: to the broker; the relay opens a channel of its own on it.
        engine: of the outbox's database, Engine or AsyncEngine.
        outbox: the table.
        batch_size: how many rows are published together.
        poll_s: how often it looks for new rows; `wake` makes it look at once.
        lease_s: how long after a relay's death its rows wait for another one. A publish may take half of it.
        backoff: for rows that a queue refused, and for a broker or database that is away.
    """

    def __init__(
        self,
        connection: Connection,
        engine: Engine | AsyncEngine,
        outbox: OutboxTable,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        poll_s: float = DEFAULT_POLL_S,
        lease_s: float = DEFAULT_LEASE_S,
        backoff: Backoff | None = None,
        random: Random | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if poll_s <= 0 or lease_s <= 0:
            raise ValueError(f"poll_s and lease_s must be above 0, not {poll_s} and {lease_s}")
        self._connection = connection
        self._engine = engine
        self._outbox = outbox
        self._batch_size = batch_size
        self._poll_s = poll_s
        self._lease_s = lease_s
        self._backoff = backoff or Backoff()
        self._random = random or Random()
        self._channel: Channel | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None  # of the block

    async def __aenter__(self) -> Self:
        self._stop.clear()
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """`stop`, and wait for it. Raises what `run` does."""
        assert self._running is not None
        self.stop()
        try:
            await self._running
        finally:
            if self._channel is not None:
                await self._channel.close()

    async def run(self) -> None:
        """Publish until `stop`. Raises ConnectionLost when the connection is closed for good."""
        failures = 0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                taken = await self.run_once()
            except (*BROKER_IS_AWAY, *DATABASE_IS_AWAY) as error:
                if self._connection.is_closed:
                    raise
                failures += 1
                wait_s = min(self._backoff.delay_s(failures, self._random.random()), OUTAGE_POLL_S)
                log.warning("the outbox waits %.1f s: %s", wait_s, error)
                await _set_within(self._stop, wait_s)
            else:
                failures = 0
                if taken < self._batch_size:
                    await _set_within(self._wake, self._poll_s)

    def stop(self) -> None:
        """Have `run` return when what it has taken is published."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """Something was committed just now: do not wait for the next poll."""
        self._wake.set()

    async def run_once(self) -> int:
        """Publish one batch; returns how many rows were taken.

        Raises the broker's or the database's error when one of them is away.
        """
        channel = await self._open_channel()
        owner = secrets.token_hex(16)
        rows = await in_transaction(
            self._engine,
            lambda database: self._outbox.lease(database, owner, self._lease_s, self._batch_size),
        )
        if not rows:
            return 0
        outcomes = await asyncio.gather(*(self._publish(channel, row) for row in rows))
        await in_transaction(self._engine, lambda database: self._note(database, owner, rows, outcomes))
        for outcome in outcomes:
            if outcome is not None and _is_the_brokers(outcome):
                raise outcome
        return len(rows)

    async def _open_channel(self) -> Channel:
        if self._connection.is_closed:
            raise ConnectionLost("the connection of the outbox relay is closed")
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel()
        return self._channel

    async def _publish(self, channel: Channel, row: OutboxRow) -> Exception | None:
        """What went wrong, if anything did."""
        try:
            await channel.publish(
                row.message, row.routing_key, exchange=row.exchange, timeout_s=self._lease_s / 2
            )
        except Exception as error:  # one row must not take the others along
            return error
        return None

    def _note(
        self, database: Database, owner: str, rows: Sequence[OutboxRow], outcomes: Sequence[Exception | None]
    ) -> None:
        """Write down what became of each row, all in one transaction."""
        published, untried = [], []
        for row, error in zip(rows, outcomes, strict=True):
            if error is None:
                published.append(row.id)
            elif _is_the_brokers(error):
                untried.append(row.id)
            else:
                self._fail(database, owner, row, error)
        if published:
            self._outbox.delete(database, published)
        if untried:
            self._outbox.give_back(database, owner, untried)

    def _fail(self, database: Database, owner: str, row: OutboxRow, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, NEVER_ARRIVES):
            log.error("outbox row %d is parked: %s", row.id, text)
            self._outbox.fail(database, owner, row.id, text, retry_s=None)
        else:
            retry_s = self._backoff.delay_s(row.attempts + 1, self._random.random())
            log.warning("outbox row %d is tried again in %.1f s: %s", row.id, retry_s, text)
            self._outbox.fail(database, owner, row.id, text, retry_s=retry_s)


def _is_the_brokers(error: Exception) -> bool:
    """Whether nothing is wrong with the row itself."""
    return isinstance(error, BROKER_IS_AWAY) and not isinstance(error, (*NEVER_ARRIVES, BrokerError))


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
