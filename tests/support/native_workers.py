"""The workers of the crash load that use the SDK, and with it the native framing."""

import asyncio
from abc import abstractmethod
from functools import partial

from crash_worker import BARRIER, DEAD, Destination, Journal, Worker, body_of
from history import Acked, Closed, Closing, Confirmed, Consuming, Invoked, Rejected, Requeued

from leveret.client import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionLost,
    DeliveryMode,
    IncomingMessage,
    Message,
    connect,
)

Copy = tuple[str, str, int]


class NativeWorker(Worker):
    """Has a connection of its own, which it works on until that ends."""

    async def work(self, port: int) -> None:
        try:
            url = f"leveret://guest:guest@127.0.0.1:{port}/"
            async with connect(url, reconnect=False) as connection:
                await self.run(connection)
        except (ConnectionLost, OSError):
            pass
        except ChannelClosed as error:
            self.journal.complaints.append(str(error))

    @abstractmethod
    async def run(self, connection: Connection) -> None:
        """Work until ConnectionLost."""

    def message(self, number: int, size: int, *, persistent: bool = True) -> Message:
        body = body_of(self.name, number, size)
        mode = DeliveryMode.PERSISTENT if persistent else DeliveryMode.NOT_PERSISTENT
        return Message(body, message_id=f"{self.name}/{number}/{size}", delivery_mode=mode)


class NativePublisher(NativeWorker):
    """Publishes bursts, and waits for all confirms of one before the next."""

    async def run(self, connection: Connection) -> None:
        channel = await connection.channel()
        while True:
            burst = [self._publish(channel, to) for to in self.some_destinations()]
            for outcome in await asyncio.gather(*burst, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
            await self.pause(0.01)

    async def _publish(self, channel: Channel, to: Destination) -> None:
        number = self.journal.next_number(self.name)
        persistent = self.is_persistent()
        message = self.message(number, self.some_size(), persistent=persistent)
        self.journal.add(Invoked(self.name, number, to.queues, to.keeps(persistent=persistent)))
        key = "" if to.exchange else to.queues[0]
        await channel.publish(message, key, exchange=to.exchange, mandatory=False)
        self.journal.add(Confirmed(self.name, number))


class NativeConsumer(NativeWorker):
    """Acks, requeues and rejects one by one, as applications do; keeps some, at times loses its channel."""

    def __init__(
        self, journal: Journal, name: str, seed: int, queues: tuple[str, ...], prefetch: int
    ) -> None:
        super().__init__(journal, name, seed)
        self._queues = queues
        self._prefetch = prefetch
        self._held: list[tuple[IncomingMessage, Copy]] = []
        self._holds_all = False

    async def run(self, connection: Connection) -> None:
        while True:
            channel = await connection.channel()
            await channel.set_qos(self._prefetch)
            self._held.clear()
            self._holds_all = False
            for name in self._queues:
                self.journal.add(Consuming(self.name, name))
                queue = await channel.get_queue(name, ensure=False)
                await queue.consume(partial(self._delivered, name), ack_on_return=False)
            while self.random.random() < 0.97:
                await self.pause(0.02)
                await self._ack_held()
                await self._prove(channel)
            self.journal.add(Closing(self.name))
            await channel.close()
            self.journal.add(Closed(self.name))

    async def _delivered(self, queue: str, message: IncomingMessage) -> None:
        copy = self.journal.delivered(
            self.name, queue, message.properties.message_id, message.body, redelivered=message.redelivered
        )
        decision = self.random.random()
        if self._holds_all or decision < 0.1:
            self._held.append((message, copy))
        elif decision < 0.15:
            self.journal.add(Requeued(self.name, *copy))
            await message.nack()
        elif decision < 0.2:
            self.journal.add(Requeued(self.name, *copy))
            await message.reject(requeue=True)
        elif decision < 0.25 and queue == "work":
            self.journal.add(Rejected(self.name, *copy, DEAD))
            await message.reject()
        else:
            self.journal.add(Acked(self.name, *copy))
            await message.ack()

    async def _ack_held(self) -> None:
        """Out of order."""
        self.random.shuffle(self._held)
        while self._held:
            message, copy = self._held.pop()
            self.journal.add(Acked(self.name, *copy))
            await message.ack()

    async def _prove(self, channel: Channel) -> None:
        """A barrier. Nothing is acked in the turn in which it is published: publishes would leave first."""
        self._holds_all = True
        await asyncio.sleep(0.002)
        number = self.journal.next_number(self.name)
        self.journal.add(Invoked(self.name, number, (BARRIER,), barrier=True))
        confirmed = asyncio.ensure_future(channel.publish(self.message(number, size=8), BARRIER))
        await asyncio.sleep(0)
        self._holds_all = False
        await confirmed
        self.journal.add(Confirmed(self.name, number))
