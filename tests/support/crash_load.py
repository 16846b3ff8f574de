"""The mixed load of the crash tests: publishers, consumers and odder clients on both wires.

A `Load` outlives its brokers: `run` puts all workers on a broker until that dies, `drain` empties every queue
at the end. Each worker has one name over all incarnations of the broker, and writes down everything it does.
"""

import asyncio

from amqp_client import Channel, Connection, ConnectionLost
from amqp_workers import Builder, Consumer, Deleter, Drain, Publisher, Transactor, declaration
from crash_worker import COPIES, DEAD, DURABLE_QUEUES, SCRATCH, TRANSIENT_QUEUE, Journal, Worker
from history import Built, Declared
from native_workers import NativeConsumer, NativePublisher
from pamqp import commands
from producer_worker import ProducerWorker


class Load:
    """All workers and their journal."""

    def __init__(self, seed: int) -> None:
        self.journal = journal = Journal()
        self._workers: list[Worker] = [
            Publisher(journal, "p0", seed),
            Publisher(journal, "p1", seed),
            NativePublisher(journal, "p2", seed),
            NativePublisher(journal, "p3", seed),
            ProducerWorker(journal, "p4", seed),
            Consumer(journal, "c0", seed, ("single", DEAD), prefetch=1),
            NativeConsumer(journal, "c1", seed, ("work",), prefetch=10),
            Consumer(journal, "c2", seed, ("work", "copy-a"), prefetch=1000),
            NativeConsumer(journal, "c3", seed, ("copy-a", "copy-b"), prefetch=100),
            Consumer(journal, "c4", seed, ("copy-b", "quorum", TRANSIENT_QUEUE), prefetch=50),
            Transactor(journal, "t0", seed),
            Deleter(journal, "d0", seed),
            Builder(journal, "b0", seed),
        ]

    async def run(self, port: int) -> None:
        """Work until the broker is gone and the last byte of it was read."""
        try:
            connection = await Connection.open(port)
            await self._declare(await connection.channel())
        except (ConnectionLost, OSError):
            return  # it died that early
        async with asyncio.TaskGroup() as workers:
            for worker in self._workers:
                workers.create_task(worker.work(port))

    async def drain(self, port: int, *, prove: bool) -> None:
        """Consume and ack until every queue is empty; `prove` leaves a barrier for the next drain to find."""
        connection = await Connection.open(port)
        channel = await connection.channel()
        await self._declare(channel)
        drain = Drain(self.journal, channel)
        for queue in (*DURABLE_QUEUES, TRANSIENT_QUEUE):
            await drain.empty(queue)
        if prove:
            await drain.prove()
        connection.abort()
        await connection.ended.wait()
        self.journal.complaints += connection.complaints

    async def _declare(self, channel: Channel) -> None:
        """Declare everything; on a broker that remembers, this changes only what is not durable."""
        await channel.call(commands.Exchange.Declare(exchange="copies", exchange_type="fanout", durable=True))
        self.journal.add(Built("exchange copies"))
        for queue in DURABLE_QUEUES:
            await channel.call(declaration(queue))
            if queue != SCRATCH:
                self.journal.add(Built(f"queue {queue}"))
        for queue in COPIES:
            await channel.call(commands.Queue.Bind(queue=queue, exchange="copies", routing_key=""))
            self.journal.add(Built(f"binding copies {queue}"))
        await channel.call(commands.Queue.Declare(queue=TRANSIENT_QUEUE))
        if self.journal.scratch_in_doubt:
            self.journal.add(Declared(SCRATCH))
