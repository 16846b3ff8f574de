"""queue.bind, exchange.bind and their opposites."""

import pytest
from small_vhost import ME, OTHER, SmallVhost, refused

from leveret.protocol.amqp.field_table import Long
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

NOT_ON_DEFAULT = "operation not permitted on the default exchange"
LOCKED = (
    "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on "
    "another connection or the exclusive property value does not match that of the original declaration."
)


def count(house: SmallVhost) -> int:
    return len(list(house.vhost.bindings))


def test_binding_twice_is_binding_once() -> None:
    house = SmallVhost()
    house.queues("q")
    for _ in range(2):
        house.bind("q", "amq.direct", "k", {"a": 1, "b": 2})
    house.bind("q", "amq.direct", "k", {"b": 2, "a": 1})  # order does not matter
    assert count(house) == 1
    house.unbind("q", "amq.direct", "k", {"b": 2, "a": 1})
    assert house.publish("amq.direct", "k") == []


def test_bindings_differ_by_key_arguments_and_ends() -> None:
    house = SmallVhost()
    house.queues("q", "r")
    house.bind("q", "amq.direct", "k")
    house.bind("q", "amq.direct", "l")
    house.bind("q", "amq.direct", "k", {"a": 1})
    house.bind("q", "amq.direct", "k", {"a": Long(1)})  # another type is another argument here
    house.bind("r", "amq.direct", "k")
    house.bind("q", "amq.topic", "k")
    assert count(house) == 6
    house.unbind("q", "amq.direct", "k")
    assert house.publish("amq.direct", "k") == ["q", "r"]
    house.unbind("q", "amq.direct", "k", {"a": 1})
    house.unbind("q", "amq.direct", "k", {"a": Long(1)})
    assert house.publish("amq.direct", "k") == ["r"]


def test_bindings_are_found_from_both_ends() -> None:
    house = SmallVhost()
    queue = house.queue("q")
    house.exchange("x")
    house.bind("q", "x", "k")
    house.bind_exchange("x", "amq.topic", "t")
    exchange = house.vhost.exchanges["x"]
    assert [binding.destination for binding in house.vhost.bindings.from_source(exchange)] == [queue]
    assert [binding.key for binding in house.vhost.bindings.to_destination(exchange)] == ["t"]
    assert [binding.source for binding in house.vhost.bindings.to_destination(queue)] == [exchange]


@pytest.mark.parametrize(
    ("queue", "exchange", "code", "text"),
    [
        ("q", "", ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT),
        ("nope", "", ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT),
        ("q", "nope", ReplyCode.NOT_FOUND, "no exchange 'nope' in vhost '/'"),
        ("nope", "nope", ReplyCode.NOT_FOUND, "no exchange 'nope' in vhost '/'"),
        ("nope", "amq.direct", ReplyCode.NOT_FOUND, "no queue 'nope' in vhost '/'"),
        ("q", "amq.direct", ReplyCode.RESOURCE_LOCKED, LOCKED),
    ],
)
def test_binding_a_queue_is_refused(queue: str, exchange: str, code: ReplyCode, text: str) -> None:
    house = SmallVhost()
    house.queue("q", owner=OTHER, exclusive=True)
    with refused(code, text):
        house.bind(queue, exchange, "k")
    assert count(house) == 0


def test_arguments_are_checked_before_the_owner() -> None:
    house = SmallVhost()
    house.queue("q", owner=OTHER, exclusive=True)
    text = 'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x'
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        house.bind("q", "amq.headers", "", {"x-match": "foo"})


@pytest.mark.parametrize(("queue", "exchange"), [("q", "nope"), ("nope", "amq.direct"), ("q", "amq.direct")])
def test_unbinding_what_is_not_there_is_no_error(queue: str, exchange: str) -> None:
    house = SmallVhost()
    house.queue("q", owner=OTHER, exclusive=True)
    house.unbind(queue, exchange, "k")


def test_unbinding_is_refused() -> None:
    house = SmallVhost()
    house.queue("q", exclusive=True)
    house.bind("q", "amq.direct", "k")
    with refused(ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT):
        house.unbind("q", "", "q")
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.vhost.unbind_queue("q", "amq.direct", "k", {}, OTHER)
    assert house.publish("amq.direct", "k") == ["q"]


@pytest.mark.parametrize(
    ("destination", "source", "code", "text"),
    [
        ("", "amq.direct", ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT),
        ("amq.direct", "", ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT),
        ("amq.direct", "nope", ReplyCode.NOT_FOUND, "no exchange 'nope' in vhost '/'"),
        ("nope", "amq.direct", ReplyCode.NOT_FOUND, "no exchange 'nope' in vhost '/'"),
        ("destination", "source", ReplyCode.NOT_FOUND, "no exchange 'source' in vhost '/'"),
    ],
)
def test_binding_an_exchange_is_refused(destination: str, source: str, code: ReplyCode, text: str) -> None:
    house = SmallVhost()
    with refused(code, text):
        house.bind_exchange(destination, source)


def test_unbinding_exchanges() -> None:
    house = SmallVhost()
    house.unbind_exchange("nope", "neither")
    house.unbind_exchange("amq.direct", "amq.topic", "k")
    for destination, source in (("", "amq.direct"), ("amq.direct", "")):
        with refused(ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT):
            house.unbind_exchange(destination, source)


def test_arguments_that_cannot_be_kept_change_nothing() -> None:
    house = SmallVhost()
    house.queues("q")
    arguments = {"\\xff" * 100: 1}  # as 100 octets that are no UTF-8 arrive
    with pytest.raises(HardError, match="cannot keep these arguments"):
        house.bind("q", "amq.direct", "k", arguments)
    with pytest.raises(HardError, match="cannot keep these arguments"):
        house.vhost.declare_queue(
            "r", ME, passive=False, durable=True, exclusive=False, auto_delete=False, arguments=arguments
        )
    assert count(house) == 0
    assert set(house.vhost.queues) == {"q"}
