"""Random histories of a vhost: invariants hold, routes are what a slow search finds, the log tells it all."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small_vhost import ME, SmallVhost

from leveret.broker.durability.records import unpack_map
from leveret.broker.queues.queue import Queue
from leveret.broker.vhosts.binding import Binding
from leveret.broker.vhosts.exchanges.exchange import Exchange
from leveret.protocol.errors import AmqpError

NAMES = st.sampled_from(["a", "b", "c", "d"])
SOURCES = st.sampled_from(["a", "b", "c", "d", "amq.fanout", "amq.topic"])
TYPES = st.sampled_from(["direct", "fanout", "topic"])
KEYS = st.sampled_from(["", "k", "*", "#"])
ROUTING_KEYS = st.sampled_from(["", "k", "a"])


class VhostMachine(RuleBasedStateMachine):
    """Calls that are refused change nothing; that is part of what is checked."""

    @initialize()
    def start(self) -> None:
        self.house = SmallVhost()

    def attempt(self, call: Any, *arguments: Any, **keywords: Any) -> None:
        told = len(self.house.changes)
        try:
            call(*arguments, **keywords)
        except AmqpError:
            assert len(self.house.changes) == told

    @rule(name=NAMES, type_=TYPES, durable=st.booleans(), auto_delete=st.booleans(), alternate=NAMES)
    def declare_exchange(
        self, name: str, type_: str, durable: bool, auto_delete: bool, alternate: str
    ) -> None:
        self.attempt(
            self.house.exchange,
            name,
            type_,
            durable=durable,
            auto_delete=auto_delete,
            alternate_exchange=alternate,
        )

    @rule(name=NAMES, if_unused=st.booleans())
    def delete_exchange(self, name: str, if_unused: bool) -> None:
        self.attempt(self.house.delete_exchange, name, if_unused=if_unused)

    @rule(name=NAMES, durable=st.booleans(), exclusive=st.booleans())
    def declare_queue(self, name: str, durable: bool, exclusive: bool) -> None:
        self.attempt(self.house.queue, name, durable=durable, exclusive=exclusive)

    @rule(name=NAMES)
    def delete_queue(self, name: str) -> None:
        self.attempt(self.house.delete_queue, name)

    @rule()
    def close_connection(self) -> None:
        self.house.vhost.delete_exclusive_queues(ME)

    @rule(queue=NAMES, source=SOURCES, key=KEYS)
    def bind(self, queue: str, source: str, key: str) -> None:
        self.attempt(self.house.bind, queue, source, key)

    @rule(queue=NAMES, source=SOURCES, key=KEYS)
    def unbind(self, queue: str, source: str, key: str) -> None:
        self.attempt(self.house.unbind, queue, source, key)

    @rule(destination=SOURCES, source=SOURCES, key=KEYS)
    def bind_exchange(self, destination: str, source: str, key: str) -> None:
        self.attempt(self.house.bind_exchange, destination, source, key)

    @rule(destination=SOURCES, source=SOURCES, key=KEYS)
    def unbind_exchange(self, destination: str, source: str, key: str) -> None:
        self.attempt(self.house.unbind_exchange, destination, source, key)

    @rule(exchange=SOURCES, key=ROUTING_KEYS)
    def publish(self, exchange: str, key: str) -> None:
        vhost = self.house.vhost
        if exchange in vhost.exchanges:
            found = self.house.publish(exchange, key)
            assert len(found) == len(set(found))
            assert set(found) == reachable(vhost.exchanges, list(vhost.bindings), exchange, key)
            assert self.house.publish(exchange, key) == found

    @invariant()
    def bindings_are_between_what_exists(self) -> None:
        vhost = self.house.vhost
        for binding in vhost.bindings:
            assert vhost.exchanges[binding.source.name] is binding.source
            ends: dict[str, Any] = vhost.queues if isinstance(binding.destination, Queue) else vhost.exchanges
            assert ends[binding.destination.name] is binding.destination

    @invariant()
    def the_log_tells_all_that_is_durable(self) -> None:
        again = SmallVhost()
        for change in self.house.changes:
            again.vhost.restore(change)
        assert by_value(again) == by_value(self.house)
        from_snapshot = SmallVhost()
        for packed in self.house.vhost.snapshot():
            from_snapshot.vhost.restore(unpack_map(packed))
        assert by_value(from_snapshot) == by_value(self.house)


def by_value(house: SmallVhost) -> set[str]:
    return set(house.vhost.snapshot())


def reachable(exchanges: dict[str, Exchange], bindings: list[Binding], start: str, key: str) -> set[str]:
    """The queues that a message reaches, found the slow way."""
    seen, found, pending = {start}, set(), [start]
    while pending:
        exchange = exchanges[pending.pop()]
        matched = [b for b in bindings if b.source is exchange and fits(exchange.type, b.key, key)]
        found |= {b.destination.name for b in matched if isinstance(b.destination, Queue)}
        following = [b.destination.name for b in matched if isinstance(b.destination, Exchange)]
        if not matched and exchange.alternate in exchanges:
            following = [exchange.alternate]
        for name in following:
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return found


def fits(type_: str, binding_key: str, routing_key: str) -> bool:
    """For keys of at most one word."""
    if type_ == "topic":
        return binding_key in ("#", routing_key) or (binding_key == "*" and routing_key != "")
    return type_ == "fanout" or binding_key == routing_key


TestVhost = VhostMachine.TestCase
TestVhost.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
