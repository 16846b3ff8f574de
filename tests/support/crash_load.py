"""The mixed load of the crash tests: publishers, consumers and odder clients, all journaling what they do.

A `Load` outlives its brokers: `run` puts all workers on a broker until that dies, `drain` empties every queue
at the end. Every worker has a connection of its own and one name over all incarnations of the broker. What a
body must be follows from the name of its message, publisher/number/size, which travels as the message-id.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random
from zlib import crc32

from amqp_client import Channel, Connection, ConnectionLost, Delivery
from history import (
    Acked,
    Closed,
    Closing,
    Confirmed,
    Consuming,
    Declared,
    Deleted,
    Deleting,
    Delivered,
    Event,
    Invoked,
    Refused,
    Rejected,
    Requeued,
)
from pamqp import commands

SIZE_MAX = 1 << 20
POOL = Random(1).randbytes(SIZE_MAX + (1 << 16))
"""Bodies are slices of it: cheap to make and to compare, and a shifted or mixed-up one differs."""
UNCONFIRMED_MAX = 200
DEAD, BARRIER, SCRATCH = "dead", "barrier", "scratch"
DEAD_LETTERING = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
COPIES = ("copy-a", "copy-b")
OUT = ("out-a", "out-b")
DURABLE_QUEUES = ("work", "single", *COPIES, "backlog", SCRATCH, DEAD, "orders", *OUT, BARRIER)
TRANSIENT_QUEUE = "volatile"


@dataclass(frozen=True)
class Destination:
    """Where a publisher sends, and how often."""

    weight: float
    queues: tuple[str, ...]
    exchange: str = ""
    durable: bool = True


DESTINATIONS = (
    Destination(4, ("work",)),
    Destination(1, ("single",)),
    Destination(3, COPIES, exchange="copies"),
    Destination(1, ("backlog",)),
    Destination(1, (SCRATCH,)),
    Destination(1, ("orders",)),
    Destination(1, (TRANSIENT_QUEUE,), durable=False),
)
SIZES = ((0, 10), (100, 45), (1024, 39), (1 << 16, 5), (1 << 18, 0.8), (SIZE_MAX, 0.2))  # (at most, weight)


def body_of(publisher: str, number: int, size: int) -> bytes:
    start = crc32(f"{publisher}/{number}".encode()) & 0xFFFF
    return POOL[start : start + size]


class Load:
    """All workers, their history, and the numbers they gave out."""

    def __init__(self, seed: int) -> None:
        self.history: list[Event] = []
        self.complaints: list[str] = []  # what the broker said that it should not have
        self.scratch_in_doubt = False  # a deletion was asked for and not answered
        self._numbers: Counter[str] = Counter()
        self._workers: list[Worker] = [
            *[Publisher(self, f"p{number}", seed) for number in range(4)],
            Consumer(self, "c0", seed, ("single", DEAD), prefetch=1),
            Consumer(self, "c1", seed, ("work",), prefetch=10),
            Consumer(self, "c2", seed, ("work", "copy-a"), prefetch=1000),
            Consumer(self, "c3", seed, ("copy-b", TRANSIENT_QUEUE), prefetch=50),
            Transactor(self, "t0", seed),
            Deleter(self, "d0", seed),
        ]

    async def run(self, port: int) -> None:
        """Work until the broker is gone and the last byte of it was read."""
        connections: list[Connection] = []
        try:
            for _ in self._workers:
                connections.append(await Connection.open(port))
            await self._declare(await connections[0].channel())
        except (ConnectionLost, OSError):
            pass  # it died that early
        else:
            async with asyncio.TaskGroup() as workers:
                for worker, connection in zip(self._workers, connections, strict=True):
                    workers.create_task(_until_lost(worker, connection))
        for connection in connections:
            await connection.ended.wait()
            self.complaints += connection.complaints

    async def drain(self, port: int, *, prove: bool) -> None:
        """Consume and ack until every queue is empty; `prove` leaves a barrier for the next drain to find."""
        connection = await Connection.open(port)
        channel = await connection.channel()
        await self._declare(channel)
        drain = Drain(self, channel)
        for queue in (*DURABLE_QUEUES, TRANSIENT_QUEUE):
            await drain.empty(queue)
        if prove:
            await drain.prove()
        connection.abort()
        await connection.ended.wait()
        self.complaints += connection.complaints

    def next_number(self, publisher: str) -> int:
        self._numbers[publisher] += 1
        return self._numbers[publisher]

    def delivered(self, channel: str, queue: str, delivery: Delivery) -> tuple[str, int]:
        """Journal a delivery and return its publisher and number."""
        publisher, number, size = (delivery.properties.message_id or "?/0/0").split("/")
        intact = delivery.body == body_of(publisher, int(number), int(size))
        self.history.append(Delivered(channel, queue, publisher, int(number), delivery.redelivered, intact))
        return publisher, int(number)

    async def _declare(self, channel: Channel) -> None:
        """Declare everything; on a broker that remembers, this changes only what is not durable."""
        await channel.call(commands.Exchange.Declare(exchange="copies", exchange_type="fanout", durable=True))
        for queue in DURABLE_QUEUES:
            await channel.call(declaration(queue))
        for queue in COPIES:
            await channel.call(commands.Queue.Bind(queue=queue, exchange="copies", routing_key=""))
        await channel.call(commands.Queue.Declare(queue=TRANSIENT_QUEUE))
        if self.scratch_in_doubt:
            self.history.append(Declared(SCRATCH))
            self.scratch_in_doubt = False


def declaration(queue: str) -> commands.Queue.Declare:
    arguments = DEAD_LETTERING if queue == "work" else {}
    return commands.Queue.Declare(queue=queue, durable=True, arguments=dict(arguments))


async def _until_lost(worker: "Worker", connection: Connection) -> None:
    try:
        await worker.run(connection)
    except ConnectionLost:
        if not connection.ended.is_set():  # the broker closed the channel: `complaints` says why
            connection.abort()


class Outbox:
    """What one channel publishes, and the confirms that it waits for."""

    def __init__(self, load: Load, publisher: str, channel: Channel) -> None:
        self._load = load
        self._publisher = publisher
        self._channel = channel
        self._tag = 0
        self._waiting: dict[int, int] = {}  # publish tag -> number
        channel.on_confirm = self._confirmed

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(
        self,
        queues: tuple[str, ...],
        size: int,
        exchange: str = "",
        *,
        persistent: bool = True,
        durable: bool = True,
        barrier: bool = False,
        transaction: int = 0,
    ) -> int:
        """Journal and send a message; returns its number."""
        number = self._load.next_number(self._publisher)
        stored = persistent and durable
        self._load.history.append(
            Invoked(self._publisher, number, queues, stored, barrier=barrier, transaction=transaction)
        )
        self._tag += 1
        if not transaction:
            self._waiting[self._tag] = number
        properties = commands.Basic.Properties(
            message_id=f"{self._publisher}/{number}/{size}", delivery_mode=2 if persistent else 1
        )
        content = body_of(self._publisher, number, size)
        self._channel.publish(exchange, "" if exchange else queues[0], properties, content)
        return number

    def _confirmed(self, tag: int, multiple: bool, is_ack: bool) -> None:
        kind = Confirmed if is_ack else Refused
        tags = [waiting for waiting in self._waiting if waiting <= tag] if multiple else [tag]
        for one in tags:
            self._load.history.append(kind(self._publisher, self._waiting.pop(one)))


class Worker:
    """One named channel of the load."""

    def __init__(self, load: Load, name: str, seed: int) -> None:
        self.load = load
        self.name = name
        self.random = Random(f"{seed} {name}")

    async def run(self, connection: Connection) -> None:
        """Work until ConnectionLost."""
        raise NotImplementedError

    async def pause(self, mean_s: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / mean_s))


class Publisher(Worker):
    """Publishes bursts everywhere, with confirms."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        outbox = Outbox(self.load, self.name, channel)
        await channel.call(commands.Confirm.Select())
        weights = [destination.weight for destination in DESTINATIONS]
        while True:
            for to in self.random.choices(DESTINATIONS, weights, k=self.random.randint(1, 20)):
                outbox.publish(
                    to.queues,
                    self._size(),
                    to.exchange,
                    persistent=self.random.random() < 0.8,
                    durable=to.durable,
                )
            await self.pause(0.01)
            while len(outbox) > UNCONFIRMED_MAX:
                await self.pause(0.001)
                await connection.drain()
            await connection.drain()

    def _size(self) -> int:
        at_most = self.random.choices([size for size, _ in SIZES], [weight for _, weight in SIZES])[0]
        return self.random.randint(at_most // 2, at_most)


class Consumer(Worker):
    """Acks one by one or many at once, requeues, rejects, keeps some for long, at times loses its channel."""

    def __init__(self, load: Load, name: str, seed: int, queues: tuple[str, ...], prefetch: int) -> None:
        super().__init__(load, name, seed)
        self._queues = queues
        self._prefetch = prefetch
        self._held: dict[int, tuple[str, str, int]] = {}  # delivery tag -> copy

    async def run(self, connection: Connection) -> None:
        while True:
            channel = await connection.channel()
            outbox = Outbox(self.load, self.name, channel)
            self._held.clear()
            channel.on_delivery = partial(self._delivered, channel)
            await channel.call(commands.Confirm.Select())
            await channel.call(commands.Basic.Qos(prefetch_count=self._prefetch))
            for queue in self._queues:
                self.load.history.append(Consuming(self.name, queue))
                await channel.call(commands.Basic.Consume(queue=queue, consumer_tag=queue))
            while self.random.random() < 0.97:
                await self.pause(0.02)
                self._settle_held(channel)
                if not outbox:
                    outbox.publish((BARRIER,), size=8, barrier=True)
            self.load.history.append(Closing(self.name))
            await channel.close()
            self.load.history.append(Closed(self.name))

    def _delivered(self, channel: Channel, delivery: Delivery) -> None:
        queue = delivery.consumer_tag
        copy = (queue, *self.load.delivered(self.name, queue, delivery))
        self._held[delivery.tag] = copy
        decision = self.random.random()
        if self._prefetch >= 1000:
            if decision < 0.02:
                self._settle_held(channel)
        elif decision < 0.75:
            self.load.history.append(Acked(self.name, *self._held.pop(delivery.tag)))
            channel.send(commands.Basic.Ack(delivery.tag))
        elif decision < 0.85:
            self._requeue(channel, delivery.tag, reject=decision < 0.8)
        elif decision < 0.9 and queue == "work":
            self.load.history.append(Rejected(self.name, *self._held.pop(delivery.tag), DEAD))
            channel.send(commands.Basic.Reject(delivery.tag, requeue=False))

    def _requeue(self, channel: Channel, tag: int, *, reject: bool) -> None:
        self.load.history.append(Requeued(self.name, *self._held.pop(tag)))
        method = commands.Basic.Reject(tag) if reject else commands.Basic.Nack(tag)
        method.requeue = True
        channel.send(method)

    def _settle_held(self, channel: Channel) -> None:
        """Settle everything up to some tag with one method."""
        if not self._held:
            return
        tags = sorted(self._held)
        tags = tags[: self.random.randint(1, len(tags))] if self.random.random() < 0.3 else tags
        requeue = self.random.random() < 0.1
        kind = Requeued if requeue else Acked
        for tag in tags:
            self.load.history.append(kind(self.name, *self._held.pop(tag)))
        if requeue:
            channel.send(commands.Basic.Nack(tags[-1], multiple=True, requeue=True))
        else:
            channel.send(commands.Basic.Ack(tags[-1], multiple=True))


class Transactor(Worker):
    """Moves orders: acks some and publishes to two queues, all in one transaction."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        outbox = Outbox(self.load, self.name, channel)
        held: dict[int, tuple[str, str, int]] = {}

        def delivered(delivery: Delivery) -> None:
            held[delivery.tag] = ("orders", *self.load.delivered(self.name, "orders", delivery))

        channel.on_delivery = delivered
        await channel.call(commands.Tx.Select())
        await channel.call(commands.Basic.Qos(prefetch_count=20))
        self.load.history.append(Consuming(self.name, "orders"))
        await channel.call(commands.Basic.Consume(queue="orders", consumer_tag="orders"))
        while True:
            await self.pause(0.01)
            if held:
                await self._move(channel, outbox, held)

    async def _move(self, channel: Channel, outbox: Outbox, held: dict[int, tuple[str, str, int]]) -> None:
        transaction = self.load.next_number(f"transactions of {self.name}")
        tags = sorted(held)[: self.random.randint(1, 20)]
        for tag in tags:
            self.load.history.append(Acked(self.name, *held.pop(tag), transaction))
        channel.send(commands.Basic.Ack(tags[-1], multiple=True))
        numbers = [outbox.publish((queue,), size=100, transaction=transaction) for queue in OUT]
        numbers.append(outbox.publish((OUT[0],), size=100, barrier=True, transaction=transaction))
        await channel.call(commands.Tx.Commit())
        self.load.history += [Confirmed(self.name, number) for number in numbers]


class Deleter(Worker):
    """Deletes and declares a queue that others publish to; purges it; gets from it before."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        while True:
            await self.pause(0.1)
            for _ in range(self.random.randint(0, 5)):
                await self._get(channel)
            self.load.scratch_in_doubt = True
            self.load.history.append(Deleting(SCRATCH))
            if self.random.random() < 0.3:
                await channel.call(commands.Queue.Purge(queue=SCRATCH))  # what is unacked stays
            else:
                await channel.call(commands.Queue.Delete(queue=SCRATCH))
                self.load.history.append(Deleted(SCRATCH))
                await channel.call(declaration(SCRATCH))
            self.load.history.append(Declared(SCRATCH))
            self.load.scratch_in_doubt = False

    async def _get(self, channel: Channel) -> None:
        """Get a message; leave every second one unacked."""
        self.load.history.append(Consuming(self.name, SCRATCH))
        delivery = await channel.call(commands.Basic.Get(queue=SCRATCH))
        if isinstance(delivery, Delivery):
            copy = self.load.delivered(self.name, SCRATCH, delivery)
            if self.random.random() < 0.5:
                self.load.history.append(Acked(self.name, SCRATCH, *copy))
                channel.send(commands.Basic.Ack(delivery.tag))


class Drain:
    """Empties one queue after the other."""

    def __init__(self, load: Load, channel: Channel) -> None:
        self._load = load
        self._channel = channel
        self._outbox = Outbox(load, "drain", channel)
        channel.on_delivery = self._delivered

    async def empty(self, queue: str) -> None:
        """Nothing is ready, and what was unacked at the last look was acked before it: the queue is empty."""
        await self._channel.call(commands.Basic.Qos(prefetch_count=1000))
        self._load.history.append(Consuming("drain", queue))
        await self._channel.call(commands.Basic.Consume(queue=queue, consumer_tag=queue))
        while True:
            before = len(self._load.history)
            await asyncio.sleep(0.02)
            declared = await self._channel.call(commands.Queue.Declare(queue=queue, passive=True))
            if declared.message_count == 0 and len(self._load.history) == before:
                break
        await self._channel.call(commands.Basic.Cancel(queue))

    async def prove(self) -> None:
        """From here on, nothing that was drained may come again."""
        await self._channel.call(commands.Confirm.Select())
        self._outbox.publish((BARRIER,), size=8, barrier=True)
        while self._outbox:
            await self._channel.call(commands.Queue.Declare(queue=BARRIER, passive=True))

    def _delivered(self, delivery: Delivery) -> None:
        copy = self._load.delivered("drain", delivery.consumer_tag, delivery)
        self._load.history.append(Acked("drain", delivery.consumer_tag, *copy))
        self._channel.send(commands.Basic.Ack(delivery.tag))
