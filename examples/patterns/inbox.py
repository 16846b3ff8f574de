"""Payments that come twice are charged once, in two ways of keeping their ids.

    python examples/patterns/inbox.py

A careless publisher sends each payment twice. The first handler mails a receipt and keeps the ids in an
SQLite file beside it. The second one books into a database, and writes the id in the booking's own
transaction, so that not even a crash between the two could book twice. Exits with 1 if somebody paid, or was
thanked, twice.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import leveret
from leveret.patterns.inbox import Inbox
from leveret.patterns.inbox_sql import InboxTable
from leveret.patterns.inbox_sqlite import SqliteInboxStore

PAYMENTS = {"ada": 30, "grace": 20, "alan": 10}

metadata = MetaData()
bookings = Table("bookings", metadata, Column("name", String(50)), Column("amount", Integer))
booked = InboxTable(metadata, "booked_messages")


async def mail_receipts(queue: leveret.Queue, file: Path) -> Counter[str]:
    """The ids are in a file: the next run would still know them."""
    mailed: Counter[str] = Counter()
    async with SqliteInboxStore(file) as store:
        inbox = Inbox(store, ttl_s=7 * 24 * 3600)

        @inbox.idempotent
        async def mail(message: leveret.IncomingMessage) -> None:
            name = message.body.decode()
            print(f"dear {name}, thank you")
            mailed[name] += 1

        for _ in range(2 * len(PAYMENTS)):
            async with (await queue.get()).process(requeue=True) as message:
                await mail(message)
    return mailed


async def book(queue: leveret.Queue, database_url: str) -> Counter[str]:
    """The id and the booking are committed together, or neither is."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    for _ in range(2 * len(PAYMENTS)):
        async with (await queue.get()).process(requeue=True) as message:
            name = message.body.decode()
            async with AsyncSession(engine) as session, session.begin():
                if await booked.record_async(session, message):
                    await session.execute(insert(bookings).values(name=name, amount=PAYMENTS[name]))
                else:
                    print(f"{name} has paid before")
    async with engine.connect() as connection:
        rows = await connection.execute(select(bookings.c.name, bookings.c.amount))
        paid: Counter[str] = Counter()
        for name, amount in rows:
            paid[name] += amount
    await engine.dispose()
    return paid


async def main() -> int:
    async with leveret.connect() as connection, connection.channel() as channel:
        payments = await channel.declare_exchange("example.payments", leveret.ExchangeType.FANOUT)
        queues = [await channel.declare_queue(exclusive=True) for _ in range(2)]
        for queue in queues:
            await queue.bind(payments)
        for name in (*PAYMENTS, *PAYMENTS):
            await payments.publish(leveret.Message(name.encode(), message_id=f"payment-{name}"), "")
        with tempfile.TemporaryDirectory() as directory:
            mailed = await mail_receipts(queues[0], Path(directory) / "inbox.db")
            paid = await book(queues[1], f"sqlite+aiosqlite:///{directory}/shop.db")
        await payments.delete()
    print(f"mailed {dict(mailed)}, paid {dict(paid)}")
    return 0 if mailed == dict.fromkeys(PAYMENTS, 1) and paid == PAYMENTS else 1


sys.exit(asyncio.run(main()))
