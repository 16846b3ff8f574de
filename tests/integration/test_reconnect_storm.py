"""The broker is killed again and again under publishers and consumers: nothing is lost or doubled."""

import asyncio
import random
from collections import Counter

import pytest
from daemon import TIMEOUT_FACTOR, Daemon

import leveret
from leveret import Channel, Connection, IncomingMessage, Message, Queue, Reconnect

KILLS = 50
PUBLISHERS = 3
WINDOW = 40  # publishes of one publisher under way
CONFIRMS_BETWEEN_KILLS = 150
PATIENCE_S = 60 * TIMEOUT_FACTOR
QUICK = Reconnect(first_delay_s=0.02, max_delay_s=0.1)


class Publishers:
    """Several channels of one connection, on which numbers are published until `stop`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.confirmed: list[list[int]] = [[] for _ in range(PUBLISHERS)]
        self._stopping = False
        self._progress = asyncio.Event()
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(PUBLISHERS)]

    @property
    def count(self) -> int:
        return sum(map(len, self.confirmed))

    async def reach(self, count: int) -> None:
        """Wait until so many are confirmed."""
        while self.count < count:
            self._progress.clear()
            for task in self._tasks:
                if task.done():
                    task.result()
            await self._progress.wait()

    async def stop(self) -> None:
        """Publish no more, and wait for the last confirms."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _publish(self, publisher: int) -> None:
        channel = await self.connection.channel()
        numbers = iter(range(1 << 31))
        async with asyncio.TaskGroup() as group:
            for _ in range(WINDOW):
                group.create_task(self._work(publisher, channel, numbers))

    async def _work(self, publisher: int, channel: Channel, numbers) -> None:  # type: ignore[no-untyped-def]
        for number in numbers:
            if number % 7:
                await channel.publish(Message(b"%d %d" % (publisher, number)), "", exchange="all")
                self.confirmed[publisher].append(number)
            else:
                many = [next(numbers) for _ in range(5)]
                bodies = [b"%d %d" % (publisher, one) for one in (number, *many)]
                await channel.publish_many([Message(body) for body in bodies], "", exchange="all")
                self.confirmed[publisher] += [number, *many]
            self._progress.set()
            if self._stopping:
                return


class Consumed:
    """What a consumer has seen, and acked as soon as it did."""

    def __init__(self) -> None:
        self.first_deliveries: Counter[bytes] = Counter()
        self.seen: set[bytes] = set()
        self.news = asyncio.Event()

    async def take(self, message: IncomingMessage) -> None:
        async with message.process():
            self.seen.add(message.body)
            if not message.redelivered:
                self.first_deliveries[message.body] += 1
            self.news.set()


async def drained(queue: Queue, count: int) -> list[bytes]:
    bodies = []
    async with asyncio.timeout(PATIENCE_S), queue.iterator(no_ack=True) as messages:
        while len(bodies) < count:
            bodies.append((await anext(messages)).body)
    assert (await queue.channel.get_queue(queue.name)).message_count == 0
    return bodies


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMEOUT_FACTOR)
async def test_50_kills_lose_nothing_and_double_nothing(daemon: Daemon) -> None:
    chance = random.Random(50)
    url = daemon.leveret_url
    async with (
        leveret.connect(url, reconnect=QUICK) as publishing,
        leveret.connect(url, reconnect=QUICK) as consuming,
    ):
        channel = await consuming.channel()
        exchange = await channel.declare_exchange("all", "fanout", durable=True)
        ledger = await channel.declare_queue("ledger", durable=True)  # read at the end only
        work = await channel.declare_queue("work", durable=True)
        for queue in (ledger, work):
            await queue.bind(exchange)
        consumed = Consumed()
        await work.consume(consumed.take, concurrency=8)
        publishers = Publishers(publishing)
        for _ in range(KILLS):
            async with asyncio.timeout(PATIENCE_S):
                await publishers.reach(publishers.count + chance.randrange(CONFIRMS_BETWEEN_KILLS))
            await asyncio.to_thread(daemon.restart, kill=True)
        async with asyncio.timeout(PATIENCE_S):
            await publishers.stop()
            confirmed = {
                b"%d %d" % (publisher, number)
                for publisher, numbers in enumerate(publishers.confirmed)
                for number in numbers
            }
            while consumed.seen < confirmed:
                consumed.news.clear()
                await consumed.news.wait()
        found = await drained(ledger, len(confirmed))
    assert Counter(found) == Counter(confirmed)  # none lost, none doubled
    for publisher in range(PUBLISHERS):
        numbers = [int(body.split()[1]) for body in found if body.startswith(b"%d " % publisher)]
        assert numbers == sorted(numbers)
    assert consumed.seen == confirmed
    assert max(consumed.first_deliveries.values()) == 1
