"""Sums of invoices: read a line, publish its total and a note for the archive, and ack, all as one.

    python examples/patterns/pipeline.py

A pipeline takes invoices from one queue and puts a total and a copy into two others; invoices that make no
sense become dead letters. A second pipeline does the same at the same time, and is stopped early. Exits with
1 if an invoice is missing anywhere, or was counted twice.
"""

import asyncio
import sys
from collections import Counter

import leveret
from leveret.patterns.pipeline import Output, Pipeline

INVOICES, TOTALS, ARCHIVE, DEAD = (f"example.{name}" for name in ("invoices", "totals", "archive", "dead"))
COUNT = 1000


async def add_up(message: leveret.IncomingMessage) -> list[Output]:
    """The outputs of one invoice; an error makes it a dead letter."""
    prices = [int(price) for price in message.body.decode().split("+")]
    return [
        Output(leveret.Message(f"{sum(prices)}".encode()), TOTALS),
        Output(leveret.Message(message.body), ARCHIVE),
    ]


async def take(queue: leveret.Queue, count: int) -> Counter[str]:
    bodies: Counter[str] = Counter()
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            bodies[message.body.decode()] += 1
            if bodies.total() == count:
                break
    return bodies


async def main() -> int:
    async with leveret.connect() as connection, connection.channel() as channel:
        dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
        await channel.declare_queue(INVOICES, durable=True, arguments=dead_letters)
        totals, archive, dead = [
            await channel.declare_queue(name, durable=True) for name in (TOTALS, ARCHIVE, DEAD)
        ]
        invoices = [f"{number}+{number}" for number in range(COUNT)]
        for invoice in (*invoices, "nonsense"):
            await channel.publish(leveret.Message(invoice.encode()), INVOICES)

        pipelines = [Pipeline(connection, INVOICES, add_up, batch_size=20) for _ in range(2)]
        running = [asyncio.create_task(pipeline.run()) for pipeline in pipelines]
        early = await take(totals, COUNT // 10)
        await pipelines[0].stop()
        summed = early + await take(totals, COUNT - early.total())
        archived = await take(archive, COUNT)
        letters = await take(dead, 1)
        await pipelines[1].stop()
        await asyncio.gather(*running)
        left = [await channel.queue_delete(name) for name in (INVOICES, TOTALS, ARCHIVE, DEAD)]
    print(f"{summed.total()} totals, {archived.total()} archived, dead: {dict(letters)}, left: {left}")
    is_right = (
        summed == Counter(f"{2 * number}" for number in range(COUNT))
        and archived == Counter(invoices)
        and letters == {"nonsense": 1}
        and not any(left)
    )
    return 0 if is_right else 1


sys.exit(asyncio.run(main()))
