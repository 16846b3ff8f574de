"""A queue against a naive model of one, over random lives: publish, consume, get, settle, expire, limit.

The model keeps plain lists and scans them; it has no heaps, no lazy cleaning and no marks. After every step
both must hold the same messages in the same order and must have sent the same deliveries.
"""

from dataclasses import dataclass, field
from typing import Any

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
from queue_house import FakeChannel, QueueHouse, consumer_of

from leveret.broker.message import CopyState, QueuedMessage
from leveret.broker.queues.dead_letter import DeathReason

NEVER = 2**63
TAGS = ("a", "b", "c")


@dataclass(eq=False)
class ModelMessage:
    number: int
    size: int
    priority: int
    expires_at: int
    redelivered: bool = False
    failures: int = 0


@dataclass
class ModelConsumer:
    tag: str
    prefetch: int
    priority: int
    held: list[ModelMessage] = field(default_factory=list)
    is_writable: bool = True

    def can_take(self) -> bool:
        return self.is_writable and (self.prefetch == 0 or len(self.held) < self.prefetch)


class ModelQueue:
    """What a queue must do, in the fewest words."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.max_length = options.get("max_length")
        self.max_bytes = options.get("max_length_bytes")
        self.refuses = options.get("overflow") == "reject-publish"
        self.max_priority = options.get("max_priority")
        self.ttl = options.get("message_ttl_ms")
        self.limit = options.get("delivery_limit")
        self.ready: list[ModelMessage] = []
        self.gone: list[int] = []
        self.rotation: list[ModelConsumer] = []  # those not known to be blocked
        self.consumers: dict[str, ModelConsumer] = {}
        self.got: list[ModelMessage] = []

    def sort(self) -> None:
        self.ready.sort(key=lambda message: (-message.priority, message.number))

    def is_over(self) -> bool:
        over_length = self.max_length is not None and len(self.ready) > self.max_length
        over_bytes = self.max_bytes is not None and sum(m.size for m in self.ready) > self.max_bytes
        return over_length or over_bytes

    def end(self, message: ModelMessage) -> None:
        self.gone.append(message.number)

    def publish(self, number: int, size: int, priority: int | None, ttl: int | None, now: int) -> bool:
        ttls = [each for each in (ttl, self.ttl) if each is not None]
        message = ModelMessage(
            number,
            size,
            0 if self.max_priority is None else min(priority or 0, self.max_priority),
            now + min(ttls) if ttls else NEVER,
        )
        self.ready.append(message)
        if self.refuses and self.is_over():
            self.ready.remove(message)
            return False
        self.sort()
        self.hand_out()
        self.drop_surplus()  # first: RabbitMQ makes room for a message with a TTL of 0, too
        if message in self.ready and message.expires_at == now:
            self.ready.remove(message)
            self.end(message)
        return True

    def drop_surplus(self) -> None:
        while not self.refuses and self.ready and self.is_over():
            self.end(self.ready.pop(0))

    def expire(self, now: int) -> None:
        for message in [message for message in self.ready if message.expires_at <= now]:
            self.ready.remove(message)
            self.end(message)

    def next_consumer(self) -> ModelConsumer | None:
        for priority in sorted({consumer.priority for consumer in self.rotation}, reverse=True):
            for consumer in [each for each in self.rotation if each.priority == priority]:
                self.rotation.remove(consumer)
                if consumer.can_take():
                    self.rotation.append(consumer)
                    return consumer
        return None

    def hand_out(self) -> None:
        while self.ready and (consumer := self.next_consumer()):
            consumer.held.append(self.ready.pop(0))

    def wake(self, consumer: ModelConsumer) -> None:
        if consumer not in self.rotation:
            self.rotation.append(consumer)

    def give_back(self, messages: list[ModelMessage], failed: bool, now: int) -> None:
        for message in messages:
            message.redelivered = True
            message.failures += failed
            if message.expires_at <= now or (self.limit is not None and message.failures > self.limit):
                self.end(message)
            else:
                self.ready.append(message)
        self.sort()
        self.drop_surplus()
        self.hand_out()


OPTIONS = st.fixed_dictionaries(
    {"overflow": st.sampled_from(["drop-head", "reject-publish"])},
    optional={
        "max_length": st.integers(0, 3),
        "max_length_bytes": st.integers(0, 20),
        "max_priority": st.integers(0, 3),
        "message_ttl_ms": st.integers(0, 30),
        "delivery_limit": st.integers(0, 2),
    },
)


class QueueMachine(RuleBasedStateMachine):
    @initialize(options=OPTIONS)
    def start(self, options: dict[str, Any]) -> None:
        self.house = QueueHouse()
        self.queue = self.house.queue(**options)
        self.model = ModelQueue(options)
        self.channels: dict[str, FakeChannel] = {}
        self.got: dict[int, QueuedMessage] = {}  # by basic.get, unacked

    @property
    def now(self) -> int:
        return self.house.clock.now_ms()

    def end_turn(self) -> None:
        self.house.end_turn()

    @rule(
        size=st.integers(0, 9),
        priority=st.none() | st.integers(0, 5),
        ttl=st.none() | st.integers(0, 30),
        ends_turn=st.booleans(),
    )
    def publish(self, size: int, priority: int | None, ttl: int | None, ends_turn: bool) -> None:
        properties = {"priority": priority, "expiration": None if ttl is None else str(ttl)}
        accepted = self.house.publish(self.queue, "x" * size, **properties)
        number = self.house.fakes.last_sequence
        assert bool(accepted) == self.model.publish(number, size, priority, ttl, self.now)
        # Without priorities it makes no difference how many publishes a turn has.
        if ends_turn or self.model.max_priority is not None:
            self.end_turn()

    @rule(tag=st.sampled_from(TAGS), prefetch=st.integers(0, 3), priority=st.integers(-1, 1))
    def consume(self, tag: str, prefetch: int, priority: int) -> None:
        if tag in self.channels:
            return
        self.end_turn()
        channel = self.house.consume(self.queue, tag, prefetch=prefetch, arguments={"x-priority": priority})
        self.channels[tag] = channel
        consumer = self.model.consumers[tag] = ModelConsumer(tag, prefetch, priority)
        self.model.rotation.append(consumer)
        self.model.hand_out()
        self.end_turn()

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), failed=st.booleans())
    def close_channel(self, data: st.DataObject, failed: bool) -> None:
        """What it holds goes back, then its consumer goes."""
        self.end_turn()
        tag = data.draw(st.sampled_from(sorted(self.channels)))
        channel, consumer = self.channels.pop(tag), self.model.consumers.pop(tag)
        real = consumer_of(self.queue, tag)
        self.queue.requeue(list(channel.unacked), failed=failed)
        self.queue.remove_consumer(real)
        if consumer in self.model.rotation:
            self.model.rotation.remove(consumer)
        self.model.give_back(consumer.held, failed, self.now)
        self.end_turn()

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), is_writable=st.booleans())
    def socket(self, data: st.DataObject, is_writable: bool) -> None:
        self.end_turn()
        tag = data.draw(st.sampled_from(sorted(self.channels)))
        self.channels[tag].is_writable = self.model.consumers[tag].is_writable = is_writable
        if is_writable:
            self.queue.consumer_ready(consumer_of(self.queue, tag))
            self.model.wake(self.model.consumers[tag])
            self.model.hand_out()
        self.end_turn()

    @precondition(lambda self: any(channel.unacked for channel in self.channels.values()))
    @rule(data=st.data(), how=st.sampled_from(["ack", "reject", "requeue", "fail"]))
    def settle_delivery(self, data: st.DataObject, how: str) -> None:
        self.end_turn()
        tags = sorted(tag for tag, channel in self.channels.items() if channel.unacked)
        tag = data.draw(st.sampled_from(tags))
        channel, consumer = self.channels[tag], self.model.consumers[tag]
        index = data.draw(st.integers(0, len(channel.unacked) - 1))
        copy = channel.release(list(channel.unacked)[index])
        message = next(each for each in consumer.held if each.number == copy.message.sequence)
        consumer.held.remove(message)
        self.model.wake(consumer)
        self.settle(copy, message, how)

    @precondition(lambda self: self.got)
    @rule(data=st.data(), how=st.sampled_from(["ack", "reject", "requeue", "fail"]))
    def settle_got(self, data: st.DataObject, how: str) -> None:
        self.end_turn()
        number = data.draw(st.sampled_from(sorted(self.got)))
        message = next(each for each in self.model.got if each.number == number)
        self.model.got.remove(message)
        self.settle(self.got.pop(number), message, how)

    def settle(self, copy: QueuedMessage, message: ModelMessage, how: str) -> None:
        if how in ("requeue", "fail"):
            self.queue.requeue([copy], failed=how == "fail")
            self.model.give_back([message], how == "fail", self.now)
        else:
            if how == "ack":
                self.queue.settle([copy])
            else:
                self.queue.discard(copy, DeathReason.REJECTED)
            self.model.end(message)
            self.model.hand_out()
        self.end_turn()

    @precondition(lambda self: len(self.got) > 1)
    @rule()
    def give_back_everything_got(self) -> None:
        self.end_turn()
        self.queue.requeue(list(self.got.values()), failed=False)
        self.got.clear()
        messages, self.model.got = self.model.got, []
        self.model.give_back(messages, False, self.now)
        self.end_turn()

    @rule()
    def get(self) -> None:
        copy = self.queue.take()
        if copy is None:
            assert self.model.ready == []
        else:
            message = self.model.ready.pop(0)
            assert copy.message.sequence == message.number
            self.model.got.append(message)
            self.got[message.number] = copy

    @rule()
    def purge(self) -> None:
        assert self.queue.purge() == len(self.model.ready)
        for message in self.model.ready:
            self.model.end(message)
        self.model.ready.clear()

    @rule(ms=st.integers(1, 25), timers_work=st.booleans())
    def wait(self, ms: int, timers_work: bool) -> None:
        self.end_turn()
        if timers_work:
            self.house.advance(ms)
        else:
            self.house.clock.advance(ms)
            self.queue.dispatch()
        self.model.expire(self.now)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.message_count == len(self.model.ready)
        lanes = sorted(self.queue.lanes, key=lambda lane: -lane.priority)
        ready = [copy for lane in lanes for copy in lane]
        assert [copy.message.sequence for copy in ready] == [message.number for message in self.model.ready]
        assert [copy.redelivered for copy in ready] == [message.redelivered for message in self.model.ready]
        assert self.queue.ready_bytes == sum(message.size for message in self.model.ready)
        for tag, channel in self.channels.items():
            held = [copy.message.sequence for copy in channel.unacked]
            assert held == [message.number for message in self.model.consumers[tag].held]
        unacked = sum(len(channel.unacked) for channel in self.channels.values()) + len(self.got)
        assert self.queue.unacked_count == unacked

    @invariant()
    def every_end_is_journaled_once(self) -> None:
        if not hasattr(self, "queue"):
            return
        self.end_turn()
        settled = [copy.message.sequence for copy in self.house.journal.settled]
        assert sorted(settled) == sorted(self.model.gone)
        assert all(copy.state is CopyState.GONE for copy in self.house.journal.settled)


def test_a_queue_does_what_the_model_says() -> None:
    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
