"""An order and the message that tells of it: both or neither, although the shop crashes now and then.

    python examples/patterns/outbox.py

The shop writes orders and messages in one transaction, and some of those fail; a relay publishes the
messages. One of them goes where no queue is: it is parked, and goes out once the queue is there. Exits with 1
if what was told is not what was ordered.
"""

import asyncio
import sys
import tempfile

from sqlalchemy import Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import leveret
from leveret.patterns.outbox import OutboxTable
from leveret.patterns.outbox_relay import OutboxRelay

QUEUE, LATE_QUEUE = "example.orders", "example.gifts"


class Base(DeclarativeBase):
    """The shop's tables; the outbox is one of them."""


class Order(Base):
    """What somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(String(50))


outbox = OutboxTable(Base.metadata)


def order(session: Session, what: str) -> None:
    """Fails for some, after everything was written."""
    session.add(Order(what=what))
    queue = LATE_QUEUE if what == "gift" else QUEUE
    outbox.put(session, leveret.Message(what.encode()), queue)
    if what == "moon":
        raise ValueError("out of stock")


async def take(queue: leveret.Queue, count: int) -> list[str]:
    bodies: list[str] = []
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            print(f"told of {message.body.decode()}, message {message.message_id}")
            bodies.append(message.body.decode())
            if len(bodies) == count:
                break
    return bodies


async def unpark(engine: Engine) -> None:
    """Have what is parked tried again. The relay parks a message a moment after the others have arrived."""
    is_unparked = False
    while not is_unparked:
        await asyncio.sleep(0.01)
        with Session(engine) as session, session.begin():
            for row in outbox.parked(session):
                print(f"parked: {row.error}")
            is_unparked = outbox.unpark(session) > 0


async def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{directory}/shop.db")
        Base.metadata.create_all(engine)
        async with (
            leveret.connect() as connection,
            connection.channel() as channel,
            OutboxRelay(connection, engine, outbox, poll_s=0.05) as relay,
        ):
            queue = await channel.declare_queue(QUEUE, durable=True)
            for what in ("tea", "gift", "moon", "cake"):
                try:
                    with Session(engine) as session, session.begin():
                        order(session, what)
                except ValueError as error:
                    print(f"no {what}: {error}")
            relay.wake()
            told = await take(queue, 2)

            late_queue = await channel.declare_queue(LATE_QUEUE, durable=True)
            await unpark(engine)
            told += await take(late_queue, 1)

            for one in (queue, late_queue):
                await one.delete()
        with Session(engine) as session:
            ordered = list(session.scalars(select(Order.what)))
        engine.dispose()
    print(f"ordered {ordered}, told of {told}")
    return 0 if sorted(ordered) == sorted(told) == ["cake", "gift", "tea"] else 1


sys.exit(asyncio.run(main()))
