"""A house of queues for tests: a vhost that only finds names, channels that note what they get, short words.

Make a `QueueHouse()` per test. Its exchanges are a dict; the default exchange finds queues by name.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fake_services import FakeServices

from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.message import Message, QueuedMessage
from leveret.broker.queues.consumer import Consumer
from leveret.broker.queues.delivery import STORED, enqueue_to
from leveret.broker.queues.queue import Queue
from leveret.broker.queues.queue_arguments import QueueSettings
from leveret.broker.queues.runs import NEVER, RunTable
from leveret.protocol.amqp.field_table import FieldTable, decode_table
from leveret.protocol.amqp.properties import BasicProperties, PropertyFacts, encode_properties, read_facts


class FakeVhost:
    """Names and what they lead to: `exchanges` maps a name to {routing key: queue names}."""

    def __init__(self, services: FakeServices) -> None:
        self.name = "/"
        self.services = services.services
        self.exchanges: dict[str, dict[str, list[str]]] = {"": {}}
        self.queues: dict[str, Queue] = {}

    def route(self, exchange_name: str, routing_key: str, facts: PropertyFacts) -> Sequence[Queue]:
        keys = [routing_key]
        if facts.headers is not None:
            cc = decode_table(facts.headers).get("CC")
            keys += [key for key in cc if isinstance(key, str)] if isinstance(cc, list) else []
        if exchange_name == "":
            names = keys
        else:
            names = [name for key in keys for name in self.exchanges[exchange_name].get(key, [])]
        return [self.queues[name] for name in dict.fromkeys(names) if name in self.queues]

    def remove_queue(self, queue: Queue) -> None:
        del self.queues[queue.name]


@dataclass(eq=False)
class FakeChannel:
    """Counts credit as a channel does, and remembers what it was given."""

    is_writable: bool = True
    got: list[tuple[str, QueuedMessage]] = field(default_factory=list)
    """(consumer tag, copy), everything ever delivered."""
    unacked: dict[QueuedMessage, Consumer] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def credit(self) -> tuple[int, int]:
        return sys.maxsize, sys.maxsize if self.is_writable else 0

    def deliver(self, consumer: Consumer, copies: Sequence[QueuedMessage]) -> None:
        self.got += [(consumer.tag, copy) for copy in copies]
        if consumer.no_ack:
            consumer.queue.settle(copies)
        else:
            consumer.unacked_count += len(copies)
            self.unacked.update(dict.fromkeys(copies, consumer))

    def consumer_cancelled(self, consumer: Consumer) -> None:
        self.cancelled.append(consumer.tag)

    def release(self, copy: QueuedMessage) -> QueuedMessage:
        """The credit of a delivery comes back; the caller says what becomes of the copy."""
        consumer = self.unacked.pop(copy)
        consumer.unacked_count -= 1
        consumer.queue.consumer_ready(consumer)
        return copy

    @property
    def bodies(self) -> list[str]:
        """What was delivered, in order."""
        return [copy.message.body.decode() for _, copy in self.got]

    @property
    def tags(self) -> list[str]:
        """Who got it, in order."""
        return [tag for tag, _ in self.got]


class QueueHouse:
    """See the module's docstring. `end_turn` is the end of the loop's turn."""

    def __init__(self) -> None:
        self._stored: dict[int, Message] = {}  # by sequence
        self._blobs = Blobs()
        self.fakes = FakeServices()
        self.vhost = FakeVhost(self.fakes)
        self.journal = self.fakes.journal
        self.clock = self.fakes.clock

    def queue(
        self, name: str = "q", *, durable: bool = True, auto_delete: bool = False, **settings: Any
    ) -> Queue:
        """A queue with these `QueueSettings`."""
        queue = Queue(
            name,
            self.vhost,  # type: ignore[arg-type]  # stands in for a Vhost
            self.fakes.services.next_queue_id(),
            durable=durable,
            exclusive_owner=None,
            auto_delete=auto_delete,
            arguments={},
            settings=QueueSettings(**settings),
        )
        self.vhost.queues[name] = queue
        return queue

    def message(
        self, body: str = "m", *, exchange: str = "", routing_key: str = "q", **properties: Any
    ) -> Message:
        """A persistent message, published now."""
        encoded = encode_properties(BasicProperties(**({"delivery_mode": 2} | properties)))
        services = self.fakes.services
        return Message(
            services.next_sequences(1),
            services.clock.now_ms(),
            exchange,
            routing_key,
            encoded,
            read_facts(encoded),
            body.encode(),
        )

    def publish(self, queue: Queue, *bodies: str, **properties: Any) -> list[Message]:
        """Publish to the queue through the default exchange; returns what was accepted."""
        accepted = []
        for body in bodies:
            message = self.message(body, routing_key=queue.name, **properties)
            if STORED in enqueue_to([message], [queue], self.fakes.services):
                accepted.append(message)
        return accepted

    def consume(
        self,
        queue: Queue,
        tag: str = "c",
        *,
        channel: FakeChannel | None = None,
        prefetch: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> FakeChannel:
        """Start a consumer; returns its channel, a new one if none is given."""
        channel = FakeChannel() if channel is None else channel
        consumer = Consumer(
            tag,
            queue,
            channel,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments or {},
            prefetch_count=prefetch,
        )
        queue.add_consumer(consumer)
        return channel

    def recover(self, queue: Queue, *messages: Message) -> None:
        """The queue holds these, on the disk only, each in a blob of its own."""
        tables: defaultdict[int, RunTable] = defaultdict(RunTable)
        sizes: Counter[int] = Counter()
        for message in messages:
            priority = queue.priority_of(message.facts)
            expires_at = queue.expires_at(message.facts, message.published_at)
            sequence = message.sequence
            tables[priority].publish(sequence, sequence, NEVER if expires_at is None else expires_at)
            sizes[priority] += len(message.body)
            self._stored[sequence] = message
        for priority, table in tables.items():
            queue.lane(priority).begin_cold(table, sizes[priority])
        queue.recovered()

    def read_back(self, queue: Queue) -> None:
        """All that is on the disk only comes into memory, the last one first."""
        for lane in queue.lanes:
            for row in reversed(list(lane.cold or ())):
                copy = queue.revive(self._stored[row.first])
                lane.admit(row, StoredBlob(self._blobs, row.position), [copy], row.last)
        queue.was_read()

    def end_turn(self) -> None:
        self.fakes.turn.end()

    def advance(self, ms: int) -> None:
        """Let time pass, with its timers, to the end of a turn."""
        self.fakes.timers.advance(ms)
        self.end_turn()


def consumer_of(queue: Queue, tag: str = "c") -> Consumer:
    """The queue's consumer with this tag."""
    return next(consumer for consumer in queue.consumers if consumer.tag == tag)


def copies_ready(queue: Queue) -> list[QueuedMessage]:
    """What is ready in memory, in order: the highest priority first."""
    lanes = sorted(queue.lanes, key=lambda lane: lane.priority, reverse=True)
    return [copy for lane in lanes for copy in lane]


def bodies_ready(queue: Queue) -> list[str]:
    """What is ready, in order, looked at without touching it."""
    return [copy.message.body.decode() for copy in copies_ready(queue)]


def drain(queue: Queue) -> list[str]:
    """Get and ack everything."""
    bodies = []
    while (copy := queue.take()) is not None:
        bodies.append(copy.message.body.decode())
        queue.settle([copy])
    return bodies


def headers_of(message: Message) -> FieldTable:
    return {} if message.facts.headers is None else decode_table(message.facts.headers)
