"""exchange.declare and exchange.delete: checks, texts, and what goes along."""

import pytest
from small_vhost import SmallVhost, connection_refused, refused

from leveret.broker.vhosts.exchanges.types import PREDECLARED
from leveret.protocol.reply_codes import ReplyCode

NOT_ON_DEFAULT = "operation not permitted on the default exchange"


def missing(name: str) -> str:
    return f"no exchange '{name}' in vhost '/'"


def inequivalent(argument: str, received: str, current: str) -> str:
    return (
        f"inequivalent arg '{argument}' for exchange 'x' in vhost '/': "
        f"received {received} but current is {current}"
    )


# --- declare ------------------------------------------------------------------------------------------


def test_declaring_again_finds_the_same_exchange() -> None:
    house = SmallVhost()
    made = house.exchange("x", "topic", internal=True, alternate_exchange="ae")
    assert house.exchange("x", "topic", internal=True, alternate_exchange="ae", unknown=5) is made


@pytest.mark.parametrize(
    ("again", "argument", "received", "current"),
    [
        ({"type_": "topic", "durable": False}, "type", "'topic'", "'direct'"),
        ({"durable": False, "auto_delete": True}, "durable", "'false'", "'true'"),
        ({"auto_delete": True, "internal": True}, "auto_delete", "'true'", "'false'"),
        ({"internal": True, "alternate_exchange": "b"}, "internal", "'true'", "'false'"),
        ({"alternate_exchange": "b"}, "alternate-exchange", "'b'", "'a'"),
        ({"alternate_exchange": 5}, "alternate-exchange", "'5'", "'a'"),
        ({}, "alternate-exchange", "none", "the value 'a' of type 'longstr'"),
    ],
)
def test_declaring_again_differently(
    again: dict[str, object], argument: str, received: str, current: str
) -> None:
    house = SmallVhost()
    house.exchange("x", alternate_exchange="a")
    if argument != "alternate-exchange" and "alternate_exchange" not in again:
        again = {**again, "alternate_exchange": "a"}
    with refused(ReplyCode.PRECONDITION_FAILED, inequivalent(argument, received, current)):
        house.exchange("x", **again)  # type: ignore[arg-type]  # a table of keywords


def test_an_alternate_exchange_where_there_was_none() -> None:
    house = SmallVhost()
    house.exchange("x")
    text = inequivalent("alternate-exchange", "the value 'a' of type 'longstr'", "none")
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        house.exchange("x", alternate_exchange="a")


@pytest.mark.parametrize("name", ["", "x", "amq.new"])
def test_the_type_is_checked_before_the_name(name: str) -> None:
    with connection_refused(ReplyCode.COMMAND_INVALID, "unknown exchange type 'Direct'"):
        SmallVhost().exchange(name, "Direct")


def test_passive_looks_only_at_the_name() -> None:
    house = SmallVhost()
    made = house.exchange("x")
    assert house.exchange("x", "no such type", passive=True, durable=False, internal=True) is made
    with refused(ReplyCode.NOT_FOUND, missing("y")):
        house.exchange("y", passive=True)
    with refused(ReplyCode.NOT_FOUND, missing("amq.new")):
        house.exchange("amq.new", passive=True)


@pytest.mark.parametrize("passive", [True, False])
def test_the_default_exchange_cannot_be_declared(passive: bool) -> None:
    with refused(ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT):
        SmallVhost().exchange("", passive=passive)


def test_names_with_amq_are_reserved() -> None:
    with refused(ReplyCode.ACCESS_REFUSED, "exchange name 'amq.new' contains reserved prefix 'amq.*'"):
        SmallVhost().exchange("amq.new", alternate_exchange=5)


def test_an_alternate_exchange_is_a_string() -> None:
    text = "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"
    house = SmallVhost()
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        house.exchange("x", alternate_exchange=5)
    assert "x" not in house.vhost.exchanges


def test_line_breaks_are_taken_out_of_names() -> None:
    house = SmallVhost()
    assert house.exchange("a\r\nb").name == "ab"
    house.queues("q")
    house.bind("q\n", "a\nb", "k")
    assert house.publish("ab", "k") == ["q"]
    house.delete_exchange("ab\r")
    assert "ab" not in house.vhost.exchanges


def test_names_have_255_octets_at_most() -> None:
    house = SmallVhost()
    house.exchange("x" * 255)
    with refused(ReplyCode.PRECONDITION_FAILED, "exchange name is longer than 255 octets"):
        house.exchange("é" * 128)


# --- what is there from the start ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "type_"), PREDECLARED.items())
def test_predeclared_exchanges_can_be_declared_as_they_are(name: str, type_: str) -> None:
    house = SmallVhost()
    exchange = house.exchange(name, type_, internal=name == "amq.rabbitmq.trace")
    assert (exchange.durable, exchange.auto_delete) == (True, False)


def test_a_predeclared_exchange_is_not_changed_by_declaring_it() -> None:
    text = (
        "inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': "
        "received 'false' but current is 'true'"
    )
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        SmallVhost().exchange("amq.direct", durable=False)


@pytest.mark.parametrize("name", ["amq.direct", "amq.not.there"])
def test_system_exchanges_cannot_be_deleted(name: str) -> None:
    text = f"deletion of system exchange '{name}' in vhost '/' not allowed"
    with refused(ReplyCode.ACCESS_REFUSED, text):
        SmallVhost().delete_exchange(name)


def test_the_default_exchange_cannot_be_deleted() -> None:
    with refused(ReplyCode.ACCESS_REFUSED, NOT_ON_DEFAULT):
        SmallVhost().delete_exchange("")


# --- delete -------------------------------------------------------------------------------------------


def test_deleting_what_is_not_there_is_no_error() -> None:
    SmallVhost().delete_exchange("x", if_unused=True)


def test_bindings_from_an_exchange_are_its_use() -> None:
    house = SmallVhost()
    house.exchange("x")
    house.queues("q")
    house.bind("q", "x", "k")
    with refused(ReplyCode.PRECONDITION_FAILED, "exchange 'x' in vhost '/' in use"):
        house.delete_exchange("x", if_unused=True)
    house.delete_exchange("x")
    assert "x" not in house.vhost.exchanges
    assert list(house.vhost.bindings) == []


def test_bindings_to_an_exchange_are_not_its_use() -> None:
    house = SmallVhost()
    house.exchange("x")
    house.bind_exchange("x", "amq.fanout")
    house.delete_exchange("x", if_unused=True)
    assert list(house.vhost.bindings) == []


def test_a_deleted_exchange_leaves_nothing_to_a_new_one_of_its_name() -> None:
    house = SmallVhost()
    house.queues("q")
    house.exchange("x")
    house.bind("q", "x", "k")
    house.bind_exchange("x", "amq.fanout")
    house.delete_exchange("x")
    house.exchange("x")
    assert house.publish("x", "k") == []
    assert house.publish("amq.fanout", "k") == []


# --- auto-delete --------------------------------------------------------------------------------------


def test_an_auto_delete_exchange_goes_with_its_last_binding() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.queues("a", "b")
    house.bind("a", "x", "k")
    house.bind("b", "x", "k")
    house.unbind("a", "x", "k")
    assert "x" in house.vhost.exchanges
    house.unbind("b", "x", "k")
    assert "x" not in house.vhost.exchanges


def test_an_auto_delete_exchange_goes_with_its_last_queue() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.queues("q")
    house.bind("q", "x", "1")
    house.bind("q", "x", "2")
    house.delete_queue("q")
    assert "x" not in house.vhost.exchanges


def test_an_exchange_that_was_never_bound_stays() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.queues("q")
    house.unbind("q", "x", "k")
    house.delete_queue("q")
    assert "x" in house.vhost.exchanges


def test_being_a_destination_does_not_count() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.bind_exchange("x", "amq.fanout")
    house.unbind_exchange("x", "amq.fanout")
    assert "x" in house.vhost.exchanges


def test_a_chain_of_auto_delete_exchanges_goes_at_once() -> None:
    house = SmallVhost()
    for name in ("x1", "x2", "x3"):
        house.exchange(name, auto_delete=True)
    house.exchange("stays")
    house.queues("q")
    house.bind("q", "x3")
    house.bind_exchange("x3", "x2")
    house.bind_exchange("x2", "x1")
    house.bind_exchange("x1", "stays")
    house.delete_queue("q")
    assert house.vhost.exchanges.keys() & {"x1", "x2", "x3", "stays"} == {"stays"}
    assert list(house.vhost.bindings) == []


def test_a_cycle_of_auto_delete_exchanges_goes_when_one_is_deleted() -> None:
    house = SmallVhost()
    for name in ("x1", "x2"):
        house.exchange(name, auto_delete=True)
    house.bind_exchange("x1", "x2")
    house.bind_exchange("x2", "x1")
    house.delete_exchange("x1")
    assert not house.vhost.exchanges.keys() & {"x1", "x2"}


def test_an_exchange_bound_to_itself_goes_with_that_binding() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.bind_exchange("x", "x", "k")
    house.unbind_exchange("x", "x", "k")
    assert "x" not in house.vhost.exchanges
