"""Everything at once, in an order that a seed decides: clients, commits, reads, checkpoints, cleaning,
spilling, and the end of the process at any moment. A `Ledger` knows what must be where.

What others only do one after the other runs as it does in the daemon, as tasks of one loop, on a disk whose
writes take some turns and whose blobs hold a few messages each. Make a `Storm(seed)`, await `rage`.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from fake_services import FakeClock, FakeTimers
from ledger import EXPIRING, FULL, FULL_AT, QUEUES, QUORUM, TRANSIENT, Ledger
from storm_producer import StormProducer
from whole_broker import GROUP, USER, Delivered, NotingWire

from leveret.broker.broker import DEFAULT_VHOST, Broker
from leveret.broker.channels.channel import Channel
from leveret.broker.channels.producers import TagSet
from leveret.broker.durability.committer import Committer
from leveret.broker.durability.journal import Journal
from leveret.broker.durability.recovery import recover
from leveret.broker.message import QueuedMessage
from leveret.broker.queues.queue import HeadNotInMemory, Queue
from leveret.broker.queues.windows import Windows
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.storage.engine import Append, Caps, Durability, EngineError, Full, Position
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.simulated import Faults, Keep, SimulatedDisk, SimulatedEngine
from leveret.storage.spill import SpillHandle
from leveret.storage.tables import Tables

EPOCHS = 6  # lives of the process
SIZES = (0, 0, 1, 5, 20, 50, 120, 700, 2500)
QUIET_TURNS = 30  # longer than anything takes
TTLS = ("0", "5", "50", "1000")
TTL_MAX_MS = 1000


class SlowEngine(SimulatedEngine):
    """Small blobs, appended all or none, that take some turns to be read."""

    def __init__(self, disk: SimulatedDisk, blob_max_bytes: int) -> None:
        super().__init__(disk, Faults(sync_turns_max=disk.random.choice((0, 3, 12))))
        self._blob_max_bytes = blob_max_bytes

    @property
    def caps(self) -> Caps:
        return Caps(Durability.FSYNC, self._blob_max_bytes, inflight_max=8, multi_group_atomic=True)

    async def _append_all(self, items: Sequence[Append]) -> list[Position | EngineError]:
        number, answers = self._disk.write(
            GROUP, lambda tables: [Tables.append(tables, item) for item in items]
        )
        await self._sync(number)
        return answers

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        found = await super().read_many(group, positions)
        await turns(self._disk.random.randint(0, 4))
        return found


class SlowSpill(MemorySpill):
    """Takes some turns, and is sometimes full."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self.is_reliable = random.random() < 0.7

    async def write(self, blob: bytes) -> SpillHandle:
        await turns(self._random.randint(0, 5))
        if not self.is_reliable and self._random.random() < 0.1:
            raise Full("no room just now")
        return await super().write(blob)

    async def read(self, handles: Sequence[SpillHandle]) -> list[bytes]:
        found = await super().read(handles)
        await turns(self._random.randint(0, 5))
        return found


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class CheckingWire(NotingWire):
    """Of a channel that consumes: the ledger must agree with every delivery."""

    def __init__(self, storm: "Storm") -> None:
        super().__init__()
        self._storm = storm

    def note(self, delivered: Delivered, properties: bytes) -> None:
        storm = self._storm
        queue, no_ack = storm.consumers[delivered.consumer_tag]
        number = storm.ledger.take(
            queue.name, delivered.body, redelivered=delivered.redelivered, is_sent=True
        )
        if no_ack:
            storm.ledger.settle(queue.name, number)
        else:
            storm.held[delivered.delivery_tag] = (queue, number)

    def cancel_consumer(self, consumer_tag: str, *, queue_is_gone: bool) -> bool:
        self._storm.consumers.pop(consumer_tag, None)
        return True


class Storm:
    """See the module's docstring."""

    def __init__(self, seed: int) -> None:
        self.ledger = Ledger()
        self._random = random = Random(seed)
        self._producers = [StormProducer(name, self.ledger, random) for name in ("one", "two")]
        self._clock = FakeClock()
        self._disk = SimulatedDisk(seed)
        self._blob_max_bytes = random.choice((300, 1000, 4000, 20_000))
        self._checkpoint_every_bytes = random.choice((1, 500, 3000))
        self._windows_bytes = random.choice((0, 0, 3000, 20_000))
        self._persistence = random.choice((0.9, 0.5, 0.1))

    async def rage(self) -> None:
        await self._start()
        for _ in range(EPOCHS):
            await self._live()
            is_clean = self._random.random() < 0.25
            await (self._stop() if is_clean else self._crash())
            await self._start()
            self.ledger.come_back(await self._read_everything(), is_clean=is_clean)
        await self._crash()

    # The process's life

    async def _start(self) -> None:
        """Recover, and start every task that the daemon has."""
        self._engine = SlowEngine(self._disk, self._blob_max_bytes)
        self._spill = SlowSpill(self._random)
        await self._engine.open()
        await self._spill.open()
        self._committer: Committer | None = None
        self._timers = FakeTimers(self._clock)
        self._broker = broker = Broker(
            clock=self._clock,
            timers=self._timers,
            journal=Journal(self._blob_max_bytes),
            spill=self._spill,
            schedule=asyncio.get_running_loop().call_soon,
            kick_committer=self._kick,
            windows=Windows(self._windows_bytes),
            producer_ttl_s=0,
        )
        lease = await self._engine.acquire(GROUP, "test")
        tail = await recover(self._engine, GROUP, lease, broker)
        self._committer = Committer(self._engine, broker, tail, self._checkpoint_every_bytes)
        works = (self._committer.run(), broker.reader.run(self._engine, GROUP), broker.spiller.run())
        self._tasks = [asyncio.create_task(work) for work in works]
        self._connection = broker.open_connection(broker.vhosts[DEFAULT_VHOST], USER, "test")
        self._publisher = self._connection.open_channel(PUBLISHER, NotingWire())
        self.held: dict[int, tuple[Queue, int]] = {}
        self._open_consumer()

    def _open_consumer(self) -> None:
        self.consumers: dict[str, tuple[Queue, bool]] = {}
        self._consumer = self._connection.open_channel(CONSUMER, CheckingWire(self))

    def _kick(self) -> None:
        if self._committer is not None:
            self._committer.kick()

    async def _live(self) -> None:
        for name in (*QUEUES, *EXPIRING):
            self._declare(name)
        self._reconnect_all()
        for _ in range(self._random.randint(20, 300)):
            self._random.choice(OPERATIONS)(self)
            self._broker.turn.wake()  # as sessions do
            if self._random.random() < 0.6:
                await turns(self._random.randint(1, 6))
            self._check_tasks()
        if self._random.random() < 0.5:
            return  # it ends in the middle of everything
        await self._settle_down()
        if self._random.random() < 0.5:
            self._reconnect_all()
            await self._settle_down()
        self._check_accounts()
        if self._random.random() < 0.5:
            self._timers.advance(TTL_MAX_MS)
            await self._settle_down()
            assert self._queues["expiring"].message_count == 0

    def _reconnect_all(self) -> None:
        for producer in self._producers:
            producer.connect(self._broker)
        self._broker.turn.wake()

    def _check_tasks(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError("a task of the broker has ended")

    async def _settle_down(self) -> None:
        """Until nobody has had anything to do for a while."""
        broker = self._broker
        quiet = 0
        for _ in range(10_000):
            await asyncio.sleep(0)
            self._check_tasks()
            is_spilling = broker.spiller.is_wanted and self._spill.is_reliable
            is_busy = broker.reader.is_wanted or broker.journal.has_pending or is_spilling
            quiet = 0 if is_busy else quiet + 1
            if quiet == QUIET_TURNS:
                return
        raise AssertionError("it never comes to rest")

    async def _crash(self) -> None:
        assert self._committer is not None
        upkeep = self._committer._upkeep
        tasks = self._tasks if upkeep is None else [*self._tasks, upkeep]
        for task in tasks:
            task.cancel()
        for producer in self._producers:
            producer.broker_is_gone()
        self._disk.crash(self._random.choice(list(Keep)))
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        assert self._committer is not None
        for _, number in self.held.values():
            self.ledger.failures[number] += 1
        self._connection.close()
        for producer in self._producers:
            producer.lose_connection()
        await self._settle_down()
        self._committer.stop()
        committing, *others = self._tasks
        await committing
        self._broker.rest()
        await self._committer.finish()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._engine.close()

    # What there is

    @property
    def _queues(self) -> dict[str, Queue]:
        return self._broker.vhosts[DEFAULT_VHOST].queues

    async def _read_everything(self) -> dict[str, list[int]]:
        """Right after a recovery: the messages of every queue, and a look at its accounts."""
        found: dict[str, list[int]] = {}
        for name, queue in list(self._queues.items()):
            copies: list[QueuedMessage] = []
            for lane in list(queue.lanes):
                while any(len(table) for table in lane.cold_tables):
                    lane.want_more()
                    await asyncio.sleep(0)
                    self._check_tasks()
                copies += lane
                assert lane.count == len(list(lane))
                assert lane.body_bytes == sum(len(copy.message.body) for copy in lane)
            copies.sort(key=lambda copy: copy.message.sequence)
            found[name] = [self.ledger.read(copy.message.body) for copy in copies]
            assert found[name] == sorted(found[name]) or name in EXPIRING, "out of order"
            if name == QUORUM:
                self._check_failures(copies)
        found |= {producer.name: [] for producer in self._producers}
        for image in self._broker.producers.images():
            tags = TagSet(*image.stored)
            found[image.key.id.decode()] = [tag for tag in range(1, tags.last + 1) if tag in tags]
        await self._settle_down()
        assert sum(blob.live_copies for blob in self._broker.journal.blobs) == sum(
            queue.message_count for queue in self._queues.values()
        )
        for queue in self._queues.values():
            for lane in queue.lanes:
                assert lane.live_bytes == lane.body_bytes
        return found

    def _check_failures(self, copies: list[QueuedMessage]) -> None:
        """Those of which the log never heard did not happen."""
        failures = self.ledger.failures
        for copy in copies:
            number = self.ledger.read(copy.message.body)
            assert copy.delivery_count <= failures[number]
            failures[number] = copy.delivery_count

    def _check_accounts(self) -> None:
        spilled = 0
        for name, queue in self._queues.items():
            spilled += sum(lane.spilled.copies for lane in queue.lanes if lane.spilled is not None)
            if name in QUEUES:
                assert queue.message_count == len(self.ledger.books[name].ready)
        assert spilled == sum(blob.live_copies for blob in self._broker.spiller.blobs)

    # What clients do

    def _some_queue(self) -> Queue | None:
        names = [name for name in QUEUES if name in self._queues]
        return self._queues[self._random.choice(names)] if names else None

    def _declare(self, name: str) -> None:
        is_new = name not in self._queues
        self._publisher.queue_declare(
            name,
            passive=False,
            durable=name != TRANSIENT,
            exclusive=False,
            auto_delete=False,
            arguments=dict(QUEUES.get(name) or EXPIRING.get(name, {})),
        )
        if is_new and name in QUEUES:
            self.ledger.declare(name)

    def _declare_some(self) -> None:
        self._declare(self._random.choice(list(QUEUES)))

    def _write(self, queue: Queue, channel: Channel) -> tuple[str, int]:
        """Publish a message; the ledger is told by the caller."""
        random = self._random
        is_persistent = random.random() < self._persistence
        priority = random.randint(0, 3) if queue.settings.max_priority else 0
        number, body = self.ledger.write(random.choice(SIZES), persistent=is_persistent, priority=priority)
        properties = BasicProperties(delivery_mode=2 if is_persistent else 1, priority=priority)
        channel.publish("", queue.name, False, False, encode_properties(properties), [body])
        return queue.name, number

    def _publish(self) -> None:
        for _ in range(self._random.choice((1, 1, 5, 30))):
            queue = self._some_queue()
            if queue is not None:
                self.ledger.commit([self._write(queue, self._publisher)])

    def _publish_expiring(self) -> None:
        number, body = self.ledger.write(self._random.choice(SIZES), persistent=True)
        properties = BasicProperties(delivery_mode=2, expiration=self._random.choice(TTLS))
        self._publisher.publish("", "expiring", False, False, encode_properties(properties), [body])
        self._broker.journal.when_durable(self.ledger.publish_expiring(number))

    def _take(self, channel: Channel) -> tuple[int, Queue, int] | None:
        """Delivery tag, queue and number of the head of some queue, if it is in memory."""
        queue = self._some_queue()
        if queue is None:
            return None
        try:
            got = channel.get(queue.name, no_ack=False)
        except HeadNotInMemory:
            return None
        if got is None:
            assert not self.ledger.books[queue.name].ready
            return None
        copy = got.copy
        body, redelivered = copy.message.body, copy.redelivered
        number = self.ledger.take(queue.name, body, redelivered=redelivered, is_sent=queue.may_deliver)
        if queue.name == QUORUM:
            assert copy.delivery_count == self.ledger.failures[number]
        return got.delivery_tag, queue, number

    def _get(self) -> None:
        for _ in range(self._random.choice((1, 15))):
            taken = self._take(self._consumer)
            if taken is not None:
                tag, *of_what = taken
                self.held[tag] = tuple(of_what)

    def _consume(self) -> None:
        queue = self._some_queue()
        if queue is None or len(self.consumers) > 3:
            return
        tag, no_ack = f"{self._random.random()}", self._random.random() < 0.2
        self.consumers[tag] = (queue, no_ack)
        self._consumer.qos(0, self._random.choice((1, 2, 7, 30)), False)
        self._consumer.consume(queue.name, tag, no_ack=no_ack, exclusive=False, arguments={})

    def _cancel(self) -> None:
        if self.consumers:
            tag = self._random.choice(list(self.consumers))
            self._consumer.cancel(tag)
            del self.consumers[tag]

    def _settle(self) -> None:
        for _ in range(self._random.choice((1, 3, 30))):
            if not self.held:
                return
            tag = self._random.choice(list(self.held)[:8])
            queue, number = self.held.pop(tag)
            is_acked = self._random.random() < 0.7
            if is_acked:
                self._consumer.ack(tag, False)
            else:
                self._consumer.nack(tag, False, True)
            if queue.is_deleted:
                continue
            if is_acked:
                self.ledger.settle(queue.name, number)
            else:
                self.ledger.give_back(queue.name, number, failed=False)

    def _lose_consumer(self) -> None:
        held, self.held = self.held, {}
        for queue, number in held.values():
            if not queue.is_deleted:
                self.ledger.give_back(queue.name, number, failed=True)
        self._connection.close_channel(CONSUMER)
        self._open_consumer()

    def _transaction(self) -> None:
        """Of some publishes, and acks of what it gets itself; all or nothing."""
        channel = self._connection.open_channel(TRANSACTION, NotingWire())
        channel.tx_select()
        queues = [queue for queue in map(self._queues.get, QUEUES) if queue]
        published = [
            self._write(self._random.choice(queues), channel)
            for _ in range(self._random.randint(1, 4))
            if queues
        ]
        taken = [got for _ in range(2) if (got := self._take(channel)) is not None]
        for tag, _, _ in taken:
            channel.ack(tag, False)
        if self._random.random() < 0.7 and not self._would_fail(channel, published):
            assert channel.tx_commit() == []
            self.ledger.commit(published, [(queue.name, number) for _, queue, number in taken])
            self._connection.close_channel(TRANSACTION)
            return
        channel.tx_rollback()
        self._connection.close_channel(TRANSACTION)
        for _, queue, number in taken:
            self.ledger.give_back(queue.name, number, failed=True)

    def _would_fail(self, channel: Channel, published: Sequence[tuple[str, int]]) -> bool:
        """Whether `full` has no room for all of a transaction; the ledger must agree how much it lacks."""
        failures = channel.tx_failures()
        count = sum(queue == FULL for queue, _ in published)
        if count:
            lacking = len(self.ledger.books[FULL].ready) + count - FULL_AT
            assert len(failures) == max(0, min(lacking, count))
        return bool(failures)

    def _purge(self) -> None:
        queue = self._some_queue()
        if queue is not None:
            count = self._publisher.queue_purge(queue.name)
            assert count == len(self.ledger.books[queue.name].ready)
            self.ledger.purge(queue.name)

    def _delete(self) -> None:
        queue = self._some_queue()
        if queue is not None:
            count = self._publisher.queue_delete(queue.name, if_unused=False, if_empty=False)
            assert count == len(self.ledger.books[queue.name].ready)
            self.ledger.delete(queue.name)

    def _produce(self) -> None:
        self._random.choice(self._producers).publish()

    def _hear(self) -> None:
        self._random.choice(self._producers).hear()

    def _reconnect(self) -> None:
        self._random.choice(self._producers).connect(self._broker)

    def _forget_producer(self) -> None:
        self._random.choice(self._producers).begin_anew(self._broker)

    def _wait_until_durable(self) -> None:
        self._broker.journal.when_durable(self.ledger.barrier())

    def _let_time_pass(self) -> None:
        self._timers.advance(self._random.choice((1, 10, 100)))

    def _look_at_windows(self) -> None:
        self._broker.windows.weigh_some()


PUBLISHER, CONSUMER, TRANSACTION = 1, 2, 3

OPERATIONS: Sequence[Callable[[Storm], None]] = (
    *([Storm._publish] * 8),
    *([Storm._get] * 8),
    *([Storm._settle] * 8),
    *([Storm._produce] * 4),
    *([Storm._hear, Storm._reconnect] * 2),
    Storm._forget_producer,
    *([Storm._transaction, Storm._wait_until_durable, Storm._publish_expiring] * 2),
    *(Storm._consume, Storm._cancel, Storm._lose_consumer, Storm._purge, Storm._delete),
    *(Storm._declare_some, Storm._declare_some, Storm._let_time_pass, Storm._look_at_windows),
)
"""As often as they are in here."""
