"""The workers of the crash load that speak AMQP 0-9-1."""

import asyncio
from abc import abstractmethod
from functools import partial
from typing import Any

from amqp_client import Channel, Connection, ConnectionLost, Delivery
from crash_worker import (
    BARRIER,
    DEAD,
    OUT,
    QUEUE_ARGUMENTS,
    SCRATCH,
    UNCONFIRMED_MAX,
    Journal,
    Worker,
    body_of,
)
from history import (
    Acked,
    Built,
    Closed,
    Closing,
    Confirmed,
    Consuming,
    Declared,
    Deleted,
    Deleting,
    Invoked,
    Refused,
    Rejected,
    Removed,
    Removing,
    Requeued,
)
from pamqp import commands


def declaration(queue: str) -> commands.Queue.Declare:
    """Of a durable queue."""
    arguments: dict[str, Any] = dict(QUEUE_ARGUMENTS.get(queue, {}))
    return commands.Queue.Declare(queue=queue, durable=True, arguments=arguments)


def delivered(journal: Journal, channel: str, queue: str, delivery: Delivery) -> tuple[str, str, int]:
    """Write down a delivery and return its copy."""
    message_id = delivery.properties.message_id
    return journal.delivered(channel, queue, message_id, delivery.body, redelivered=delivery.redelivered)


class AmqpWorker(Worker):
    """Has a connection of its own, which it works on until that ends."""

    async def work(self, port: int) -> None:
        try:
            connection = await Connection.open(port)
        except (ConnectionLost, OSError):
            return
        try:
            await self.run(connection)
        except ConnectionLost:
            connection.abort()  # if only the channel ended, `complaints` says why
        await connection.ended.wait()
        self.journal.complaints += connection.complaints

    @abstractmethod
    async def run(self, connection: Connection) -> None:
        """Work until ConnectionLost."""


class Outbox:
    """What one channel publishes, and the confirms that it waits for."""

    def __init__(self, journal: Journal, publisher: str, channel: Channel) -> None:
        self._journal = journal
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
        kept: bool = True,
        barrier: bool = False,
        transaction: int = 0,
    ) -> int:
        """Journal and send a message; returns its number."""
        number = self._journal.next_number(self._publisher)
        self._journal.add(
            Invoked(self._publisher, number, queues, kept, barrier=barrier, transaction=transaction)
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
            self._journal.add(kind(self._publisher, self._waiting.pop(one)))


class Publisher(AmqpWorker):
    """Publishes bursts everywhere, with confirms."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        outbox = Outbox(self.journal, self.name, channel)
        await channel.call(commands.Confirm.Select())
        while True:
            for to in self.some_destinations():
                persistent = self.is_persistent()
                outbox.publish(
                    to.queues,
                    self.some_size(),
                    to.exchange,
                    persistent=persistent,
                    kept=to.keeps(persistent=persistent),
                )
            await self.pause(0.01)
            while len(outbox) > UNCONFIRMED_MAX:
                await self.pause(0.001)
                await connection.drain()
            await connection.drain()


class Consumer(AmqpWorker):
    """Acks one by one or many at once, requeues, rejects, keeps some for long, or loses its channel."""

    def __init__(
        self, journal: Journal, name: str, seed: int, queues: tuple[str, ...], prefetch: int
    ) -> None:
        super().__init__(journal, name, seed)
        self._queues = queues
        self._prefetch = prefetch
        self._held: dict[int, tuple[str, str, int]] = {}  # delivery tag -> copy

    async def run(self, connection: Connection) -> None:
        while True:
            channel = await connection.channel()
            outbox = Outbox(self.journal, self.name, channel)
            self._held.clear()
            channel.on_delivery = partial(self._delivered, channel)
            await channel.call(commands.Confirm.Select())
            await channel.call(commands.Basic.Qos(prefetch_count=self._prefetch))
            for queue in self._queues:
                self.journal.add(Consuming(self.name, queue))
                await channel.call(commands.Basic.Consume(queue=queue, consumer_tag=queue))
            while self.random.random() < 0.97:
                await self.pause(0.02)
                await connection.drain()
                self._settle_held(channel)
                if not outbox:
                    outbox.publish((BARRIER,), size=8, barrier=True)
            self.journal.add(Closing(self.name))
            await channel.close()
            self.journal.add(Closed(self.name))

    def _delivered(self, channel: Channel, delivery: Delivery) -> None:
        queue = delivery.consumer_tag
        copy = delivered(self.journal, self.name, queue, delivery)
        self._held[delivery.tag] = copy
        decision = self.random.random()
        if self._prefetch >= 1000:
            if decision < 0.02:
                self._settle_held(channel)
        elif decision < 0.75:
            self.journal.add(Acked(self.name, *self._held.pop(delivery.tag)))
            channel.send(commands.Basic.Ack(delivery.tag))
        elif decision < 0.85:
            self._requeue(channel, delivery.tag, reject=decision < 0.8)
        elif decision < 0.9 and queue == "work":
            self.journal.add(Rejected(self.name, *self._held.pop(delivery.tag), DEAD))
            channel.send(commands.Basic.Reject(delivery.tag, requeue=False))

    def _requeue(self, channel: Channel, tag: int, *, reject: bool) -> None:
        self.journal.add(Requeued(self.name, *self._held.pop(tag)))
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
            self.journal.add(kind(self.name, *self._held.pop(tag)))
        if requeue:
            channel.send(commands.Basic.Nack(tags[-1], multiple=True, requeue=True))
        else:
            channel.send(commands.Basic.Ack(tags[-1], multiple=True))


class Transactor(AmqpWorker):
    """Moves orders: acks some and publishes to two queues, all in one transaction."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        outbox = Outbox(self.journal, self.name, channel)
        held: dict[int, tuple[str, str, int]] = {}

        def keep(delivery: Delivery) -> None:
            held[delivery.tag] = delivered(self.journal, self.name, "orders", delivery)

        channel.on_delivery = keep
        await channel.call(commands.Tx.Select())
        await channel.call(commands.Basic.Qos(prefetch_count=20))
        self.journal.add(Consuming(self.name, "orders"))
        await channel.call(commands.Basic.Consume(queue="orders", consumer_tag="orders"))
        while True:
            await self.pause(0.01)
            await connection.drain()
            if held:
                await self._move(channel, outbox, held)

    async def _move(self, channel: Channel, outbox: Outbox, held: dict[int, tuple[str, str, int]]) -> None:
        transaction = self.journal.next_number(f"transactions of {self.name}")
        tags = sorted(held)[: self.random.randint(1, 20)]
        for tag in tags:
            self.journal.add(Acked(self.name, *held.pop(tag), transaction))
        channel.send(commands.Basic.Ack(tags[-1], multiple=True))
        numbers = [outbox.publish((queue,), size=100, transaction=transaction) for queue in OUT]
        numbers.append(outbox.publish((OUT[0],), size=100, barrier=True, transaction=transaction))
        await channel.call(commands.Tx.Commit())
        self.journal.add(*[Confirmed(self.name, number) for number in numbers])


class Deleter(AmqpWorker):
    """Deletes and declares a queue that others publish to; purges it; gets from it before."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        while True:
            await self.pause(0.1)
            for _ in range(self.random.randint(0, 5)):
                await self._get(channel)
            self.journal.add(Deleting(SCRATCH))
            if self.random.random() < 0.3:
                await channel.call(commands.Queue.Purge(queue=SCRATCH))  # what is unacked stays
            else:
                await channel.call(commands.Queue.Delete(queue=SCRATCH))
                self.journal.add(Deleted(SCRATCH))
                await channel.call(declaration(SCRATCH))
            self.journal.add(Declared(SCRATCH))

    async def _get(self, channel: Channel) -> None:
        """Get a message; leave every second one unacked."""
        self.journal.add(Consuming(self.name, SCRATCH))
        delivery = await channel.call(commands.Basic.Get(queue=SCRATCH))
        if isinstance(delivery, Delivery):
            copy = delivered(self.journal, self.name, SCRATCH, delivery)
            if self.random.random() < 0.5:
                self.journal.add(Acked(self.name, *copy))
                channel.send(commands.Basic.Ack(delivery.tag))


class Builder(AmqpWorker):
    """Declares and binds durable queues and exchanges that nobody uses, and deletes most of them again."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        houses: list[str] = []
        while True:
            await self.pause(0.05)
            if len(houses) > 3:
                await self._remove(channel, houses.pop(self.random.randrange(len(houses))))
            houses.append(f"house-{self.journal.next_number(self.name)}")
            await self._build(channel, houses[-1])

    async def _build(self, channel: Channel, name: str) -> None:
        await channel.call(commands.Exchange.Declare(exchange=name, durable=True))
        self.journal.add(Built(f"exchange {name}"))
        await channel.call(commands.Queue.Declare(queue=name, durable=True))
        self.journal.add(Built(f"queue {name}"))
        await channel.call(commands.Queue.Bind(queue=name, exchange=name, routing_key=name))
        self.journal.add(Built(f"binding {name} {name}"))

    async def _remove(self, channel: Channel, name: str) -> None:
        self.journal.add(Removing(f"binding {name} {name}"))
        if self.random.random() < 0.5:
            await channel.call(commands.Queue.Unbind(queue=name, exchange=name, routing_key=name))
            self.journal.add(Removed(f"binding {name} {name}"))
        self.journal.add(Removing(f"queue {name}"))
        await channel.call(commands.Queue.Delete(queue=name))
        self.journal.add(Removed(f"queue {name}"), Removed(f"binding {name} {name}"))
        if self.random.random() < 0.5:
            self.journal.add(Removing(f"exchange {name}"))
            await channel.call(commands.Exchange.Delete(exchange=name))
            self.journal.add(Removed(f"exchange {name}"))


class Drain:
    """Empties one queue after the other."""

    def __init__(self, journal: Journal, channel: Channel) -> None:
        self._journal = journal
        self._channel = channel
        self._outbox = Outbox(journal, "drain", channel)
        channel.on_delivery = self._delivered

    async def empty(self, queue: str) -> None:
        """Nothing is ready, and what was unacked at the last look was acked before it: the queue is empty."""
        await self._channel.call(commands.Basic.Qos(prefetch_count=1000))
        self._journal.add(Consuming("drain", queue))
        await self._channel.call(commands.Basic.Consume(queue=queue, consumer_tag=queue))
        while True:
            before = len(self._journal.history)
            await asyncio.sleep(0.02)
            declared = await self._channel.call(commands.Queue.Declare(queue=queue, passive=True))
            if declared.message_count == 0 and len(self._journal.history) == before:
                break
        await self._channel.call(commands.Basic.Cancel(queue))

    async def prove(self) -> None:
        """From here on, nothing that was drained may come again."""
        await self._channel.call(commands.Confirm.Select())
        self._outbox.publish((BARRIER,), size=8, barrier=True)
        while self._outbox:
            await self._channel.call(commands.Queue.Declare(queue=BARRIER, passive=True))

    def _delivered(self, delivery: Delivery) -> None:
        copy = delivered(self._journal, "drain", delivery.consumer_tag, delivery)
        self._journal.add(Acked("drain", *copy))
        self._channel.send(commands.Basic.Ack(delivery.tag))
