"""A process that runs one pattern until it is killed; tests start many of them and kill -9 each.

    python pattern_worker.py relay BROKER_URL DATABASE_URL PREFIX
    python pattern_worker.py record BROKER_URL DATABASE_URL PREFIX QUEUE
    python pattern_worker.py inbox BROKER_URL FILE QUEUE RESULTS
    python pattern_worker.py pipeline BROKER_URL QUEUE BATCH_SIZE TARGET...

When the broker dies, it waits for the next one. `Workers` in a test starts and kills them.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import leveret
from leveret.patterns.inbox import Inbox
from leveret.patterns.inbox_sqlite import SqliteInboxStore
from leveret.patterns.pipeline import Output, Pipeline

OUTPUT_BYTES = 20_000  # so that the outputs of a batch take many packets, and a crash can come in between
LEASE_S = 0.4  # of whoever is killed; the others wait for that long


async def relay(connection: leveret.Connection, database_url: str, prefix: str) -> None:
    """Publish what the outbox has."""
    # Here, for SQLAlchemy takes long to import, and the others need none.
    from sql_house import SqlHouse, make_engine  # noqa: PLC0415

    from leveret.patterns.outbox_relay import OutboxRelay  # noqa: PLC0415

    house = SqlHouse(make_engine(database_url, is_async=False), prefix)
    await OutboxRelay(
        connection, house.engine, house.outbox, batch_size=5, poll_s=0.01, lease_s=LEASE_S
    ).run()


async def record(connection: leveret.Connection, database_url: str, prefix: str, queue_name: str) -> None:
    """Have the effect of each message, with its id in the same transaction."""
    from sql_house import SqlHouse, make_engine  # noqa: PLC0415
    from sqlalchemy import Connection, insert  # noqa: PLC0415

    house = SqlHouse(make_engine(database_url, is_async=False), prefix)

    async def handle(message: leveret.IncomingMessage) -> None:
        def process(database: Connection) -> None:
            if house.inbox.record(database, message):
                database.execute(insert(house.effects).values(name=message.body.decode()))

        await house.run(process)

    queue = await (await connection.channel()).get_queue(queue_name)
    consumer = await queue.consume(handle, prefetch_count=10, on_error="requeue")
    await consumer.wait()


async def inbox(connection: leveret.Connection, file: str, queue_name: str, results: str) -> None:
    """Publish a result for each message that is new."""
    async with connection.channel() as channel, SqliteInboxStore(file) as store:
        once = Inbox(store, lease_s=LEASE_S)

        @once.idempotent
        async def handle(message: leveret.IncomingMessage) -> None:
            await channel.publish(leveret.Message(message.body), results)

        queue = await channel.get_queue(queue_name)
        consumer = await queue.consume(handle, concurrency=5, on_error="requeue")
        await consumer.wait()


async def pipeline(connection: leveret.Connection, queue: str, batch_size: str, *targets: str) -> None:
    """A copy of each input to each target."""

    async def handle(message: leveret.IncomingMessage) -> list[Output]:
        await asyncio.sleep(random.uniform(0, 0.002))
        return [Output(leveret.Message(message.body.ljust(OUTPUT_BYTES)), target) for target in targets]

    await Pipeline(connection, queue, handle, batch_size=int(batch_size)).run()


PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    "relay": relay,
    "record": record,
    "inbox": inbox,
    "pipeline": pipeline,
}


async def main(name: str, broker_url: str, *arguments: str) -> None:
    while True:
        with suppress(leveret.ConnectionLost):
            async with leveret.connect(broker_url) as connection:
                await PROGRAMS[name](connection, *arguments)
        await asyncio.sleep(0.05)


class Workers:
    """Two workers of one kind, killed in turn by a test; a context manager."""

    def __init__(self, *arguments: object) -> None:
        self._command = [sys.executable, __file__, *map(str, arguments)]
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._start()
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._running:
            self._kill_oldest()

    def kill_one(self) -> None:
        """kill -9 the older one and start another; the younger one goes on."""
        self._kill_oldest()
        self._start()

    def _start(self) -> None:
        self._running.append(subprocess.Popen(self._command, stdin=subprocess.DEVNULL))

    def _kill_oldest(self) -> None:
        process = self._running.pop(0)
        ended = process.poll()
        process.kill()
        process.wait()
        assert ended is None, f"a worker ended by itself, with exit code {ended}"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
