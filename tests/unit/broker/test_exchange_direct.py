"""The direct exchange, and the default exchange, which looks like one."""

from small_vhost import SmallVhost

from leveret.broker.vhosts.binding import Binding
from leveret.broker.vhosts.exchanges.direct import DirectExchange


def test_a_message_goes_to_the_bindings_with_its_key() -> None:
    house = SmallVhost()
    house.queues("a", "b", "c")
    for queue, key in (("a", "red"), ("b", "red"), ("c", "blue")):
        house.bind(queue, "amq.direct", key)
    assert house.publish("amq.direct", "red") == ["a", "b"]
    assert house.publish("amq.direct", "blue") == ["c"]
    assert house.publish("amq.direct", "Red") == []


def test_the_empty_key_is_a_key() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.direct", "")
    assert house.publish("amq.direct", "") == ["q"]
    assert house.publish("amq.direct", "x") == []


def test_wildcards_are_plain_words() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.direct", "a.*")
    assert house.publish("amq.direct", "a.b") == []
    assert house.publish("amq.direct", "a.*") == ["q"]


def test_one_of_two_bindings_under_a_key_can_go() -> None:
    house = SmallVhost()
    house.queues("a", "b")
    house.bind("a", "amq.direct", "k")
    house.bind("b", "amq.direct", "k")
    house.unbind("a", "amq.direct", "k")
    assert house.publish("amq.direct", "k") == ["b"]
    house.unbind("b", "amq.direct", "k")
    assert house.publish("amq.direct", "k") == []


def test_keys_are_forgotten_with_their_last_binding() -> None:
    exchange = DirectExchange("x", "/", durable=False, auto_delete=False, internal=False, arguments={})
    bindings = [Binding(exchange, exchange, key, {}) for key in ("k", "l")]
    for binding in bindings:
        exchange.add_binding(binding)
    for binding in bindings:
        exchange.remove_binding(binding)
    assert exchange._by_key == {}


def test_the_default_exchange_finds_queues_by_name() -> None:
    house = SmallVhost()
    house.queues("a", "b")
    assert house.publish("", "b") == ["b"]
    assert house.publish("", "c") == []


def test_the_default_exchange_sees_queues_come_and_go() -> None:
    house = SmallVhost()
    assert house.publish("", "q") == []
    house.queue("q")
    assert house.publish("", "q") == ["q"]
    house.delete_queue("q")
    assert house.publish("", "q") == []


def test_the_default_exchange_ignores_other_bindings_of_a_queue() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.direct", "k")
    assert house.publish("", "k") == []
