"""The broker is killed again and again under publishers and consumers: nothing is lost or doubled."""

import asyncio
import random
from collections import Counter, defaultdict

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


class Lives:
    """Of the broker: which one it is."""

    def __init__(self) -> None:
        self.now = 0

    async def end(self, daemon: Daemon, *connections: Connection) -> None:
        """Kill it; returns when all that it sent was taken, and the next one runs."""
        await asyncio.to_thread(daemon.kill)
        while any(connection.is_connected for connection in connections):  # noqa: ASYNC110 # it will be soon
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # what was read is handled
        self.now += 1
        await asyncio.to_thread(daemon.start)


class Publishers:
    """Several channels of one connection, on which numbers are published until `stop`."""

    def __init__(self, connection: Connection, lives: Lives) -> None:
        self.connection = connection
        self.lives = lives
        self.confirmed_in: dict[bytes, int] = {}
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
                bodies = [b"%d %d" % (publisher, number)]
                await channel.publish(Message(bodies[0]), "", exchange="all")
                self.confirmed[publisher].append(number)
            else:
                many = [next(numbers) for _ in range(5)]
                bodies = [b"%d %d" % (publisher, one) for one in (number, *many)]
                await channel.publish_many([Message(body) for body in bodies], "", exchange="all")
                self.confirmed[publisher] += [number, *many]
            self.confirmed_in |= dict.fromkeys(bodies, self.lives.now)
            self._progress.set()
            if self._stopping:
                return


class Consumed:
    """What a consumer has seen, and acked as soon as it did."""

    def __init__(self, lives: Lives) -> None:
        self.lives = lives
        self.first_deliveries: defaultdict[bytes, list[int]] = defaultdict(list)
        """The lives in which it came and was not redelivered."""
        self.seen: set[bytes] = set()
        self.news = asyncio.Event()

    async def take(self, message: IncomingMessage) -> None:
        async with message.process():
            self.seen.add(message.body)
            if not message.redelivered:
                self.first_deliveries[message.body].append(self.lives.now)
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
        lives = Lives()
        consumed = Consumed(lives)
        await work.consume(consumed.take, concurrency=8)
        publishers = Publishers(publishing, lives)
        for _ in range(KILLS):
            async with asyncio.timeout(PATIENCE_S):
                await publishers.reach(publishers.count + chance.randrange(CONFIRMS_BETWEEN_KILLS))
            await lives.end(daemon, publishing, consuming)
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
    # The first time comes twice only if the kill undid a publish that nobody had been told of yet.
    for body, its_lives in consumed.first_deliveries.items():
        assert all(life < publishers.confirmed_in[body] for life in its_lives[:-1]), body
