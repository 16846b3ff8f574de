"""The transactional outbox: a change in the database and the message that tells of it, both or neither.

Whoever commits and then publishes loses the message when it dies in between; the other way round it tells of
something that never happened. So the message is written into a table, in the transaction that makes the
change; after the commit a relay (`outbox_relay.OutboxRelay`) publishes it:

    metadata = MetaData()  # or your declarative Base.metadata
    outbox = OutboxTable(metadata)

    with Session(engine) as session, session.begin():
        session.add(order)
        outbox.put(session, leveret.Message(b"..."), "orders.created", exchange="events")

Asynchronous sessions `await outbox.put_async(session, ...)`. Needs `leveret[sqlalchemy]`.

What it guarantees: a message that was committed is published, at least once, and one that was rolled back is
not. A relay that dies between the broker's confirm and its note of it publishes again, with the same
`message_id`: consumers with an inbox (`inbox`) process it once.

Rows leave in the order of their ids, which is the order in which they were written, not committed; after a
failure, or with several relays, they may overtake each other.
"""

import copy
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# First, for it says what to install.
from .database import AsyncCaller, Caller, connection_of

# isort: split
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from leveret.client import DeliveryMode, Message

NAME_MAX_BYTES = 255  # of exchanges, routing keys and message ids
ERROR_MAX_CHARS = 1000


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that waits in the table."""

    id: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    attempts: int
    error: str | None  # of the last attempt

    @property
    def message(self) -> Message:
        """As it was put in."""
        return Message.from_properties(self.body, self.properties)


class OutboxTable:
    """A table of messages to publish.

    The table is made like all others of its metadata: by `metadata.create_all`, or by your migrations.

    Args:
        metadata: where the table is added.
        name: of the table.
        clock: seconds since the epoch.
    """

    def __init__(
        self, metadata: MetaData, name: str = "outbox", *, clock: Callable[[], float] = time.time
    ) -> None:
        self.table = Table(
            name,
            metadata,
            Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
            Column("message_id", String(NAME_MAX_BYTES), nullable=False),
            Column("exchange", String(NAME_MAX_BYTES), nullable=False),
            Column("routing_key", String(NAME_MAX_BYTES), nullable=False),
            Column("properties", LargeBinary, nullable=False),  # as they travel; message_id is among them
            Column("body", LargeBinary, nullable=False),
            Column("created_at", Double, nullable=False),  # seconds since the epoch, as all times here
            Column("due_at", Double, nullable=False),  # not to be taken earlier: leased to a relay, or failed
            Column("owner", String(32), nullable=True),  # the lease
            Column("attempts", Integer, nullable=False),  # that failed because of this message
            Column("error", Text, nullable=True),  # of the last of them
            Column("is_parked", Boolean, nullable=False),  # it cannot be published until somebody mends that
            Index(f"{name}_ready", "is_parked", "id"),
        )
        self._clock = clock

    # For the application

    def put(self, session: Caller, message: Message, routing_key: str, *, exchange: str = "") -> str:
        """Have the message published after the session's transaction is committed; returns its message_id.

        A message without an id gets one. It is published as persistent; its expiration counts from then on.
        """
        stored = copy.copy(message)
        stored.delivery_mode = DeliveryMode.PERSISTENT
        stored.message_id = message.message_id or str(uuid.uuid4())
        for what, text in (("exchange", exchange), ("routing_key", routing_key)):
            if len(text.encode()) > NAME_MAX_BYTES:
                raise ValueError(f"{what} has {len(text.encode())} octets, more than {NAME_MAX_BYTES}")
        values = {
            "message_id": stored.message_id,
            "exchange": exchange,
            "routing_key": routing_key,
            "properties": stored.encode_properties(),
            "body": stored.body,
            "created_at": self._clock(),
            "due_at": 0.0,
            "attempts": 0,
            "is_parked": False,
        }
        connection_of(session).execute(insert(self.table).values(values))
        return stored.message_id

    async def put_async(
        self, session: AsyncCaller, message: Message, routing_key: str, *, exchange: str = ""
    ) -> str:
        """`put` for an AsyncSession or AsyncConnection."""
        return await session.run_sync(self.put, message, routing_key, exchange=exchange)

    def parked(self, session: Caller, limit: int = 100) -> Sequence[OutboxRow]:
        """The first of those that could not be published, with the error of each."""
        return self._rows(connection_of(session), self.table.c.is_parked, limit)

    def unpark(self, session: Caller, row_ids: Iterable[int] | None = None) -> int:
        """Have parked rows (all, or these) tried again; returns how many there were."""
        rows = update(self.table).where(self.table.c.is_parked)
        if row_ids is not None:
            rows = rows.where(self.table.c.id.in_(list(row_ids)))
        return connection_of(session).execute(rows.values(is_parked=False, due_at=0.0)).rowcount

    def waiting_count(self, session: Caller) -> int:
        """How many rows are to be published; without those that are parked."""
        waiting = select(func.count()).select_from(self.table).where(~self.table.c.is_parked)
        return connection_of(session).execute(waiting).scalar_one()

    # For the relay; each call is a transaction

    def lease(self, connection: Connection, owner: str, lease_s: float, limit: int) -> Sequence[OutboxRow]:
        """Take the first rows that are due; nobody else gets them until the lease is over.

        `owner` is a name that was never used before.
        """
        now = self._clock()
        row = self.table.c
        due = ~row.is_parked & (row.due_at <= now)
        # PostgreSQL (and MySQL) let several relays take different rows at once. SQLite has no row locks and
        # ignores the clause: there a row that another relay was faster with is not due any more below.
        found = select(row.id).where(due).order_by(row.id).limit(limit).with_for_update(skip_locked=True)
        row_ids = connection.execute(found).scalars().all()
        if not row_ids:
            return []
        lease = update(self.table).where(row.id.in_(row_ids), due)
        connection.execute(lease.values(owner=owner, due_at=now + lease_s))
        return self._rows(connection, row.owner == owner, limit)

    def delete(self, connection: Connection, row_ids: Sequence[int]) -> None:
        """They are published: whoever may have the lease now."""
        connection.execute(delete(self.table).where(self.table.c.id.in_(row_ids)))

    def give_back(self, connection: Connection, owner: str, row_ids: Sequence[int]) -> None:
        """They were not tried: due at once."""
        mine = update(self.table).where(self.table.c.id.in_(row_ids), self.table.c.owner == owner)
        connection.execute(mine.values(owner=None, due_at=0.0))

    def fail(
        self, connection: Connection, owner: str, row_id: int, error: str, *, retry_s: float | None
    ) -> None:
        """One was refused: try it again after a while, or (None) park it."""
        mine = update(self.table).where(self.table.c.id == row_id, self.table.c.owner == owner)
        connection.execute(
            mine.values(
                owner=None,
                due_at=self._clock() + (retry_s or 0.0),
                attempts=self.table.c.attempts + 1,
                error=error[:ERROR_MAX_CHARS],
                is_parked=retry_s is None,
            )
        )

    def _rows(self, connection: Connection, which: ColumnElement[bool], limit: int) -> list[OutboxRow]:
        row = self.table.c
        columns = (row.id, row.exchange, row.routing_key, row.properties, row.body, row.attempts, row.error)
        found = connection.execute(select(*columns).where(which).order_by(row.id).limit(limit))
        return [OutboxRow(*values) for values in found]
