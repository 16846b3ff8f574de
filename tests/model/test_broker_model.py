"""The whole broker against a naive one, over crashes, clean stops, commits and checkpoints.

Nothing is left to chance but the steps: the test decides when a turn ends and when a batch is committed, so
the model knows exactly what a restart must bring back, in which order, and which of it is `redelivered`:
what was durable at the last commit. The engine is one in memory that can die in the middle of a commit.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stored_log import must_be_sound
from whole_broker import PERSISTENT, TRANSIENT, Client, Delivered, NotingWire, WholeBroker

from leveret.broker.queues.queue import HeadNotInMemory
from leveret.broker.queues.windows import Windows
from leveret.storage.engine import Append, EngineError, Position
from leveret.storage.memory import MemoryEngine

CONFIRMING, PLAIN, TRANSACTIONAL = range(3)  # clients
LIMIT = 3
QUEUES: dict[str, tuple[bool, dict[str, Any]]] = {  # name: durable, arguments
    "work": (True, {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}),
    "dead": (True, {}),
    "short": (True, {"x_max_length": LIMIT}),
    "full": (True, {"x_max_length": LIMIT, "x_overflow": "reject-publish"}),
    "transient": (False, {}),
}
queue_names = st.sampled_from(("work", "work", "work", "dead", "short", "full", "transient"))
MIN_AGE = 12  # steps between two starts: enough for something to happen


class Died(Exception):
    """The process ended here."""


class MortalEngine(MemoryEngine):
    """Dies before or after it did something."""

    def __init__(self) -> None:
        super().__init__()
        self.dies: tuple[str, bool] | None = None  # before (False) or after (True) which call

    def _pass(self, call: str, done: bool) -> None:
        if self.dies == (call, done):
            raise Died

    async def append(self, items: Sequence[Append]) -> list[Position | EngineError]:
        self._pass("append", False)
        positions = await super().append(items)
        self._pass("append", True)
        return positions

    async def checkpoint(self, group: int, epoch: int, position: Position, pieces: Sequence[bytes]) -> None:
        self._pass("checkpoint", False)
        await super().checkpoint(group, epoch, position, pieces)
        self._pass("checkpoint", True)

    async def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        self._pass("drop", False)
        await super().drop(group, epoch, positions)
        self._pass("drop", True)


def run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Nothing here ever really waits; some let others go first."""
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration:
        return
    raise AssertionError("the engine in memory made somebody wait")


@dataclass(eq=False)
class ModelMessage:
    """A copy in a queue."""

    body: bytes
    sequence: int
    persistent: bool
    redelivered: bool = False


@dataclass(eq=False)
class ModelQueue:
    name: str
    ready: list[ModelMessage] = field(default_factory=list)
    taken: set[ModelMessage] = field(default_factory=set)
    """With clients, settled in an open transaction included."""
    delivering: bool = False
    may_deliver: bool = True
    is_deleted: bool = False

    @property
    def durable(self) -> bool:
        return QUEUES[self.name][0]

    def put_back(self, messages: Sequence[ModelMessage]) -> None:
        for message in messages:
            self.taken.discard(message)
            message.redelivered = True
        if not self.is_deleted:
            self.ready = sorted([*self.ready, *messages], key=lambda message: message.sequence)
            self.drop_surplus()

    def drop_surplus(self) -> None:
        if self.name == "short":
            del self.ready[: -LIMIT or None]

    def open_for_delivery(self) -> None:
        if self.durable and not self.delivering:
            self.delivering = True
            self.may_deliver = False

    def live(self) -> list[ModelMessage]:
        """Its copies that the log must keep."""
        return [m for m in (*self.ready, *self.taken) if m.persistent] if self.durable else []


@dataclass(eq=False)
class ModelConsumer:
    queue: ModelQueue
    no_ack: bool
    prefetch: int
    unacked: int = 0

    def can_take(self) -> bool:
        return not self.prefetch or self.unacked < self.prefetch


class Held(NamedTuple):
    """A delivery that waits for its ack."""

    message: ModelMessage
    queue: ModelQueue
    consumer: ModelConsumer | None


@dataclass(eq=False)
class ModelClient:
    held: dict[int, Held] = field(default_factory=dict)
    consumers: dict[str, ModelConsumer] = field(default_factory=dict)
    kept_publishes: list[tuple[ModelQueue | None, bytes, bool]] = field(default_factory=list)
    kept_settlements: list[tuple[dict[int, Held], str]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """ack or nack for every publish, once it is durable."""


class Seen(NamedTuple):
    """A delivery, in the order in which the broker made them."""

    client: int
    consumer_tag: str
    delivery_tag: int
    body: bytes
    redelivered: bool


class SharedWire(NotingWire):
    """Writes deliveries into a list that all clients share."""

    def __init__(self, client: int, seen: list[Seen]) -> None:
        super().__init__()
        self._client = client
        self._seen = seen

    def note(self, delivered: Delivered, properties: bytes) -> None:
        self._seen.append(Seen(self._client, **vars(delivered)))


Snapshot = dict[str, tuple[bool, list[ModelMessage]]]


class BrokerMachine(RuleBasedStateMachine):
    """Each rule does a thing to the broker and to the model."""

    @initialize(checkpoint_every_bytes=st.sampled_from((1, 300, 1 << 20)), is_tight=st.booleans())
    def open(self, checkpoint_every_bytes: int, is_tight: bool) -> None:
        """`is_tight`: whenever it looks, the broker lets go of all that it need not have in memory."""
        self.checkpoint_every_bytes = checkpoint_every_bytes
        self.windows_bytes = 0 if is_tight else 1 << 20
        self.engine = MortalEngine()
        self.numbers = count(1)
        self.queues: dict[str, ModelQueue] = {}
        self.durable: Snapshot = {}
        run(self.engine.open())
        self.start()
        for name in QUEUES:
            self.declare(name)

    # The process's life

    def start(self) -> None:
        self.age = 0
        self.engine.dies = None
        self.house = WholeBroker(
            self.engine,
            checkpoint_every_bytes=self.checkpoint_every_bytes,
            windows=Windows(self.windows_bytes),
        )
        run(self.house.start(read_back=False))
        self.seen: list[Seen] = []
        self.clients: list[Client] = []
        self.models: list[ModelClient] = []
        for number in range(3):
            self.clients.append(self.connect(number))
            self.models.append(ModelClient())
        self.end_turn()

    def connect(self, number: int) -> Client:
        client = Client(self.house.broker)
        client.wire = client.channel.wire = SharedWire(number, self.seen)
        if number == CONFIRMING:
            client.channel.confirm_select()
            client.channel._confirms._wire = client.wire  # type: ignore[union-attr]  # made before the swap
        elif number == TRANSACTIONAL:
            client.channel.tx_select()
        return client

    def note_durable(self) -> None:
        """What a crash from now on leaves."""
        self.durable = {
            queue.name: (
                queue.delivering,
                [replace(message) for message in queue.live()],
            )
            for queue in self.queues.values()
            if queue.durable
        }

    def come_back(self) -> None:
        self.queues = {}
        for name, (delivering, messages) in self.durable.items():
            queue = self.queues[name] = ModelQueue(name, delivering=delivering)
            for message in sorted(messages, key=lambda message: message.sequence):
                redelivered = message.redelivered or queue.delivering
                queue.ready.append(ModelMessage(message.body, message.sequence, True, redelivered))
        run(must_be_sound(self.engine))
        self.start()

    def end_turn(self) -> None:
        self.turn_is_over = True
        run(self.house.read())
        for delivery in self.seen:
            self.check_delivery(delivery)
        self.seen.clear()
        for queue in self.queues.values():
            queue.drop_surplus()

    def check_delivery(self, delivery: Seen) -> None:
        model = self.models[delivery.client]
        consumer = model.consumers[delivery.consumer_tag]
        queue = consumer.queue
        assert queue.may_deliver, "delivered before the mark was durable"
        assert consumer.can_take(), "delivered beyond the prefetch limit"
        message = queue.ready.pop(0)
        assert (delivery.body, delivery.redelivered) == (message.body, message.redelivered)
        if not consumer.no_ack:
            queue.taken.add(message)
            consumer.unacked += 1
            model.held[delivery.delivery_tag] = Held(message, queue, consumer)

    @rule()
    def commit(self) -> None:
        self.end_turn()
        self.note_durable()
        run(self.house.commit_batch())
        for queue in self.queues.values():
            queue.may_deliver = True
        assert self.confirmed() == self.models[CONFIRMING].answers
        self.end_turn()

    def confirmed(self) -> list[str]:
        answers: list[str] = []
        for kind, tag, multiple in self.clients[CONFIRMING].wire.confirms:
            assert tag > len(answers)
            assert multiple or tag == len(answers) + 1
            answers += [kind] * (tag - len(answers))
        return answers

    @precondition(lambda self: self.age >= MIN_AGE)
    @rule(
        dies=st.sampled_from(
            (None, ("append", False), ("append", True), ("checkpoint", False), ("drop", False))
        )
    )
    def crash(self, dies: tuple[str, bool] | None) -> None:
        """Right now, or in the middle of a commit."""
        before = self.durable
        if dies is not None:
            self.end_turn()
            self.note_durable()
            self.engine.dies = dies
            try:
                run(self.house.commit_batch())
            except Died:
                if dies == ("append", False):
                    self.durable = before
        self.come_back()

    @precondition(lambda self: self.age >= MIN_AGE)
    @rule()
    def stop(self) -> None:
        self.end_turn()
        for connection in list(self.house.broker.connections):
            number = next(n for n, client in enumerate(self.clients) if client.connection is connection)
            self.model_close(number)
        run(self.house.stop())
        assert not self.seen
        for queue in self.queues.values():
            queue.drop_surplus()
            queue.delivering = False
        self.note_durable()
        self.come_back()

    # What clients do

    @rule(name=queue_names)
    def declare(self, name: str) -> None:
        durable, arguments = QUEUES[name]
        self.clients[PLAIN].declare(name, durable=durable, **arguments)
        self.queues.setdefault(name, ModelQueue(name))

    @rule(
        number=st.sampled_from((CONFIRMING, PLAIN)),
        name=queue_names,
        properties=st.sampled_from((PERSISTENT, PERSISTENT, TRANSIENT)),
        messages=st.integers(1, 4),
        end=st.booleans(),
    )
    def publish(self, number: int, name: str, properties: bytes, messages: int, end: bool) -> None:
        queue = self.queues.get(name)
        for _ in range(messages):
            if name == "full":
                self.end_turn()
            body = b"%d" % next(self.numbers)
            self.clients[number].publish(name, body, properties=properties)
            refused = name == "full" and queue is not None and len(queue.ready) >= LIMIT
            self.models[number].answers.append("nack" if refused else "ack")
            if not refused:
                self.model_publish(queue, body, properties == PERSISTENT)
        self.turn_is_over = False
        if end:
            self.end_turn()

    def model_publish(self, queue: ModelQueue | None, body: bytes, persistent: bool) -> None:
        if queue is not None and not queue.is_deleted:
            queue.ready.append(ModelMessage(body, next(self.numbers), persistent))

    @rule(
        number=st.sampled_from((CONFIRMING, PLAIN)),
        name=queue_names,
        prefetch=st.integers(0, 2),
        no_ack=st.booleans(),
    )
    def consume(self, number: int, name: str, prefetch: int, no_ack: bool) -> None:
        queue = self.queues.get(name)
        if queue is None:
            return
        tag = f"c{next(self.numbers)}"
        self.clients[number].channel.qos(0, prefetch, False)
        self.clients[number].consume(name, tag, no_ack=no_ack)
        self.models[number].consumers[tag] = ModelConsumer(queue, no_ack, 0 if no_ack else prefetch)
        queue.open_for_delivery()
        self.end_turn()

    @rule(number=st.sampled_from((CONFIRMING, PLAIN)))
    def cancel(self, number: int) -> None:
        self.end_turn()
        consumers = self.models[number].consumers
        if consumers:
            tag = next(iter(consumers))
            self.clients[number].channel.cancel(tag)
            del consumers[tag]

    @rule(number=st.integers(0, 2), name=queue_names, no_ack=st.booleans())
    def get(self, number: int, name: str, no_ack: bool) -> None:
        self.end_turn()
        queue = self.queues.get(name)
        if queue is None:
            return
        try:
            got = self.clients[number].channel.get(name, no_ack=no_ack)
        except HeadNotInMemory:
            run(self.house.read())
            got = self.clients[number].channel.get(name, no_ack=no_ack)
        if not queue.ready:
            assert got is None
            return
        assert got is not None
        message = queue.ready.pop(0)
        assert (got.copy.message.body, got.copy.redelivered) == (message.body, message.redelivered)
        queue.open_for_delivery()
        if not no_ack:
            queue.taken.add(message)
            self.models[number].held[got.delivery_tag] = Held(message, queue, None)

    @rule(
        number=st.integers(0, 2),
        how=st.sampled_from(("ack", "ack", "requeue", "reject")),
        multiple=st.booleans(),
        choice=st.integers(0, 5),
        end=st.booleans(),
    )
    def settle(self, number: int, how: str, multiple: bool, choice: int, end: bool) -> None:
        channel, model = self.clients[number].channel, self.models[number]
        if not model.held:
            return
        tag = sorted(model.held)[choice % len(model.held)]
        if how == "ack":
            channel.ack(tag, multiple)
        else:
            channel.nack(tag, multiple, how == "requeue")
        tags = [held for held in sorted(model.held) if (held <= tag if multiple else held == tag)]
        deliveries = {held: model.held.pop(held) for held in tags}
        if number == TRANSACTIONAL:
            model.kept_settlements.append((deliveries, how))
        else:
            self.model_settle(deliveries, how)
        self.turn_is_over = False
        if end:
            self.end_turn()

    def model_settle(self, deliveries: dict[int, Held], how: str) -> None:
        back: dict[ModelQueue, list[ModelMessage]] = {}
        for message, queue, consumer in deliveries.values():
            if consumer is not None:
                consumer.unacked -= 1
            if how == "requeue":
                back.setdefault(queue, []).append(message)
                continue
            queue.taken.discard(message)
            if how == "reject" and queue.name == "work" and not queue.is_deleted:
                self.model_publish(self.queues.get("dead"), message.body, message.persistent)
        for queue, messages in back.items():
            queue.put_back(messages)

    @rule(data=st.data(), meanwhile=st.sampled_from((None, "get", "settle", "publish", "purge", "delete")))
    def spill(self, data: st.DataObject, meanwhile: str | None) -> None:
        """What only the memory has is written beside the log, and something may happen to it meanwhile."""
        self.end_turn()
        asyncio.run(self.spill_while(data, meanwhile))

    async def spill_while(self, data: st.DataObject, meanwhile: str | None) -> None:
        spilling = asyncio.create_task(self.house.spill())
        await asyncio.sleep(0)  # it is packed now
        name, number = data.draw(queue_names), data.draw(st.integers(0, 2))
        match meanwhile:
            case "get":
                self.get(number, name, no_ack=data.draw(st.booleans()))
            case "settle":
                self.settle(number, "requeue", multiple=True, choice=5, end=True)
            case "publish":
                self.publish(PLAIN, name, TRANSIENT, messages=2, end=True)
            case "purge":
                self.purge(name)
            case "delete":
                self.delete(name, again=True)
        await spilling

    @rule(name=queue_names)
    def purge(self, name: str) -> None:
        self.end_turn()
        queue = self.queues.get(name)
        if queue is not None:
            assert self.clients[PLAIN].channel.queue_purge(name) == len(queue.ready)
            queue.ready.clear()

    @rule(name=queue_names, again=st.booleans())
    def delete(self, name: str, again: bool) -> None:
        self.end_turn()
        queue = self.queues.pop(name, None)
        if queue is None:
            return
        deleted = self.clients[PLAIN].channel.queue_delete(name, if_unused=False, if_empty=False)
        assert deleted == len(queue.ready)
        queue.ready.clear()
        queue.is_deleted = True
        for model in self.models:
            model.consumers = {
                tag: consumer for tag, consumer in model.consumers.items() if consumer.queue is not queue
            }
        if again:
            self.declare(name)

    @rule(name=queue_names.filter(lambda name: name != "full"), persistent=st.booleans())
    def tx_publish(self, name: str, persistent: bool) -> None:
        body = b"%d" % next(self.numbers)
        properties = PERSISTENT if persistent else TRANSIENT
        self.clients[TRANSACTIONAL].publish(name, body, properties=properties)
        self.models[TRANSACTIONAL].kept_publishes.append((self.queues.get(name), body, persistent))

    @rule(commit=st.booleans())
    def tx_end(self, commit: bool) -> None:
        self.end_turn()
        channel, model = self.clients[TRANSACTIONAL].channel, self.models[TRANSACTIONAL]
        if not commit:
            channel.tx_rollback()
            self.model_rollback(model)
            return
        channel.tx_commit()
        for queue, body, persistent in model.kept_publishes:
            self.model_publish(queue, body, persistent)
        for deliveries, how in model.kept_settlements:
            self.model_settle(deliveries, how)
        model.kept_publishes, model.kept_settlements = [], []
        self.end_turn()

    def model_rollback(self, model: ModelClient) -> None:
        for deliveries, _ in model.kept_settlements:
            model.held |= deliveries
        model.kept_publishes, model.kept_settlements = [], []

    @rule(number=st.integers(0, 2))
    def reconnect(self, number: int) -> None:
        self.end_turn()
        self.model_close(number)
        self.clients[number].connection.close()
        self.clients[number] = self.connect(number)
        self.end_turn()

    def model_close(self, number: int) -> None:
        model = self.models[number]
        self.models[number] = ModelClient()
        self.model_rollback(model)
        self.model_settle(dict(sorted(model.held.items())), "requeue")

    # What must always hold

    @invariant()
    def nothing_is_forgotten(self) -> None:
        self.age += 1
        if not self.turn_is_over:
            return
        run(self.house.read())
        found = self.house.broker.vhosts["/"].queues
        assert found.keys() == self.queues.keys()
        for name, queue in self.queues.items():
            assert found[name].message_count == len(queue.ready), name
            assert found[name].unacked_count == len(queue.taken), name
            waiting = [
                consumer
                for model in self.models
                for consumer in model.consumers.values()
                if consumer.queue is queue and consumer.can_take()
            ]
            assert not (queue.ready and waiting and queue.may_deliver), f"{name}: a consumer sleeps"

    @invariant()
    def nothing_is_spilled_for_nothing(self) -> None:
        tables = [
            lane.spilled
            for queue in self.house.broker.vhosts["/"].queues.values()
            for lane in queue.lanes
            if lane.spilled is not None
        ]
        assert self.house.spilled_copies == sum(table.copies for table in tables)
        assert self.house.spilled_bytes >= sum(table.body_bytes for table in tables)
        assert bool(self.house.spilled_bytes) == any(map(len, tables))
        returned = {sequence for table in tables for sequence in table.returned}
        assert all(any(r.first <= s <= r.last for table in tables for r in table) for s in returned)

    @invariant()
    def no_blob_is_kept_for_nothing(self) -> None:
        if self.house.broker.journal.has_pending:
            return
        assert self.house.live_copies == sum(len(queue.live()) for queue in self.queues.values())


def test_the_broker_does_what_the_model_says() -> None:
    run_state_machine_as_test(
        BrokerMachine, settings=settings(max_examples=300, stateful_step_count=100, deadline=None)
    )
