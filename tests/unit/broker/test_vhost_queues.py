"""queue.declare, queue.delete and who may use a queue: checks, texts, and what goes along."""

import gc
import weakref
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from small_vhost import ME, OTHER, SmallVhost, connection_refused, refused

from leveret.broker.message import Message
from leveret.protocol.amqp.field_table import (
    FieldTable,
    FieldValue,
    Float32,
    Long,
    LongLong,
    SignedByte,
    SignedShort,
    UnsignedByte,
    UnsignedInt,
    UnsignedShort,
)
from leveret.protocol.amqp.properties import BasicProperties, encode_properties, read_facts
from leveret.protocol.reply_codes import ReplyCode

LOCKED = (
    "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on "
    "another connection or the exclusive property value does not match that of the original declaration."
)
MISSING = "no queue 'q' in vhost '/'"


def inequivalent(argument: str, received: str, current: str) -> str:
    return (
        f"inequivalent arg '{argument}' for queue 'q' in vhost '/': "
        f"received {received} but current is {current}"
    )


def declare(house: SmallVhost, arguments: FieldTable) -> None:
    house.vhost.declare_queue(
        "q", ME, passive=False, durable=True, exclusive=False, auto_delete=False, arguments=arguments
    )


# --- declare ------------------------------------------------------------------------------------------


def test_declaring_again_finds_the_same_queue() -> None:
    house = SmallVhost()
    made = house.queue("q", auto_delete=True, x_expires=5)
    assert house.queue("q", owner=OTHER, auto_delete=True, x_expires=5) is made


@pytest.mark.parametrize(
    ("again", "argument", "received", "current"),
    [
        ({"durable": False, "auto_delete": True}, "durable", "'false'", "'true'"),
        ({"auto_delete": True, "x_expires": 5}, "auto_delete", "'true'", "'false'"),
        ({"x_expires": 5}, "x-expires", "the value '5' of type 'signedint'", "none"),
    ],
)
def test_declaring_again_differently(
    again: dict[str, Any], argument: str, received: str, current: str
) -> None:
    house = SmallVhost()
    house.queue("q")
    with refused(ReplyCode.PRECONDITION_FAILED, inequivalent(argument, received, current)):
        house.queue("q", **again)


def test_queues_that_are_declared_alike_share_what_it_means() -> None:
    house = SmallVhost()
    first, same, other = (house.queue(f"q{n}", x_max_length=n // 2, x_unknown=True) for n in (2, 3, 4))
    assert same.arguments is first.arguments
    assert same.settings is first.settings
    assert other.settings.max_length == 2
    assert type(house.queue("q5", x_max_length=1, x_unknown=1).arguments["x-unknown"]) is not bool


@pytest.mark.parametrize("owner", [ME, OTHER])
@pytest.mark.parametrize("exclusive", [(True, False), (False, True)])
def test_another_idea_of_exclusivity_comes_before_everything_else(
    owner: object, exclusive: tuple[bool, bool]
) -> None:
    house = SmallVhost()
    house.queue("q", exclusive=exclusive[0])
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.queue("q", owner=owner, exclusive=exclusive[1], auto_delete=True, x_expires=5)


def test_an_exclusive_queue_is_never_durable() -> None:
    house = SmallVhost()
    made = house.queue("q", durable=True, exclusive=True)
    assert not made.durable
    assert house.queue("q", durable=False, exclusive=True) is made


@pytest.mark.parametrize("exclusive", [True, False])
def test_another_connection_cannot_declare_an_exclusive_queue(exclusive: bool) -> None:
    house = SmallVhost()
    house.queue("q", exclusive=True)
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.queue("q", owner=OTHER, exclusive=exclusive)


def test_passive_looks_only_at_the_name_and_the_owner() -> None:
    house = SmallVhost()
    made = house.queue("q", exclusive=True)
    assert house.queue("q", passive=True, auto_delete=True, x_expires="no number") is made
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.queue("q", owner=OTHER, passive=True)
    with refused(ReplyCode.NOT_FOUND, "no queue 'amq.other' in vhost '/'"):
        house.queue("amq.other", passive=True)


def test_the_server_makes_up_names() -> None:
    house = SmallVhost()
    first, second = house.queue(""), house.queue("\r\n")
    assert first.name.startswith("amq.gen-")
    assert len(first.name) == len("amq.gen-") + 22
    assert first.name != second.name
    assert house.queue(first.name, passive=True) is first


def test_the_server_makes_up_names_for_classic_queues_only() -> None:
    text = "Cannot declare a server-named queue for type rabbit_quorum_queue"
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        SmallVhost().queue("", durable=False, x_queue_type="quorum")


def test_names_with_amq_are_reserved_even_if_they_exist() -> None:
    house = SmallVhost()
    for name in ("amq.q", house.queue("").name):
        text = f"queue name '{name}' contains reserved prefix 'amq.*'"
        with refused(ReplyCode.ACCESS_REFUSED, text):
            house.queue(name, x_expires=0)


def test_names_have_255_octets_at_most() -> None:
    house = SmallVhost()
    house.queue("q" * 255)
    with refused(ReplyCode.PRECONDITION_FAILED, "queue name is longer than 255 octets"):
        house.queue("q" * 256)


def test_line_breaks_are_taken_out_of_names() -> None:
    house = SmallVhost()
    assert house.queue("a\r\nb").name == "ab"
    assert house.queue("a\nb", passive=True).name == "ab"
    house.delete_queue("ab\n")
    assert house.vhost.queues == {}


def test_a_refused_declaration_leaves_nothing() -> None:
    house = SmallVhost()
    with refused(
        ReplyCode.PRECONDITION_FAILED, "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}"
    ):
        house.queue("q", x_expires=0)
    assert house.vhost.queues == {}
    assert house.changes == []
    assert house.fakes.timers.pending == []


@pytest.mark.parametrize("passive", [True, False])
def test_declaring_again_lets_an_expiring_queue_live_on(passive: bool) -> None:
    house = SmallVhost()
    house.queue("q", x_expires=1000)
    house.fakes.timers.advance(900)
    house.queue("q", passive=passive, x_expires=1000)
    house.fakes.timers.advance(900)
    assert "q" in house.vhost.queues
    house.fakes.timers.advance(200)
    assert "q" not in house.vhost.queues


# --- arguments that were declared before --------------------------------------------------------------

FIVE: list[FieldValue] = [
    5,
    SignedByte(5),
    UnsignedByte(5),
    SignedShort(5),
    UnsignedShort(5),
    UnsignedInt(5),
    Long(5),
    LongLong(5),
    datetime.fromtimestamp(5, UTC),  # RabbitMQ compares values before it looks at their types
]


@pytest.mark.parametrize("again", FIVE)
def test_integers_are_equal_by_value(again: FieldValue) -> None:
    house = SmallVhost()
    declare(house, {"x-message-ttl": 5})
    declare(house, {"x-message-ttl": again})


TYPED = [
    (60000, "60000", "signedint"),
    (2**33, "8589934592", "long"),
    (Long(60000), "60000", "long"),
    (SignedByte(5), "5", "byte"),
    (UnsignedByte(5), "5", "unsignedbyte"),
    (SignedShort(5), "5", "short"),
    (UnsignedShort(5), "5", "unsignedshort"),
    (UnsignedInt(5), "5", "unsignedint"),
    ("5", "5", "longstr"),
    (b"a", "a", "binary"),
    (True, "true", "bool"),
    (None, "undefined", "void"),
    (5.1, "5.1", "double"),
    (5.0, "5.0", "double"),
    (1e20, "1.0e20", "double"),
    (1e-7, "1.0e-7", "double"),
    (Float32(5.099999904632568), "5.099999904632568", "float"),
    (Decimal("0.07"), "{2,7}", "decimal"),
    (datetime.fromtimestamp(5, UTC), "5", "timestamp"),
    ({"a": 1, "b": "x"}, '[{<<"a">>,signedint,1},{<<"b">>,longstr,<<"x">>}]', "table"),
    ([1, "x", True], '[{signedint,1},{longstr,<<"x">>},{bool,true}]', "array"),
]


@pytest.mark.parametrize(("value", "shown", "type_name"), TYPED)
def test_an_argument_where_there_was_none(value: FieldValue, shown: str, type_name: str) -> None:
    house = SmallVhost()
    declare(house, {})
    text = inequivalent("x-message-ttl", f"the value '{shown}' of type '{type_name}'", "none")
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        declare(house, {"x-message-ttl": value})


def test_no_argument_where_there_was_one() -> None:
    house = SmallVhost()
    declare(house, {"x-message-ttl": Long(5)})
    text = inequivalent("x-message-ttl", "none", "the value '5' of type 'long'")
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        declare(house, {})


OTHER_VALUES = [
    (6, "'6'"),
    ("5", "'5'"),
    (5.0, "'5.0'"),
    (True, "'true'"),
    (None, "none"),
    ([], "'[]'"),
    ({"a": 1}, "'[{<<\"a\">>,signedint,1}]'"),
]


@pytest.mark.parametrize(("value", "shown"), OTHER_VALUES)
def test_another_value(value: FieldValue, shown: str) -> None:
    house = SmallVhost()
    declare(house, {"x-message-ttl": 5})
    with refused(ReplyCode.PRECONDITION_FAILED, inequivalent("x-message-ttl", shown, "'5'")):
        declare(house, {"x-message-ttl": value})


@pytest.mark.parametrize(
    ("first", "then", "argument", "received", "current"),
    [
        (
            {"x-dead-letter-exchange": "a"},
            {"x-dead-letter-exchange": "é'x"},
            "x-dead-letter-exchange",
            "'é'x'",
            "'a'",
        ),
        (
            {"x-single-active-consumer": True},
            {"x-single-active-consumer": False},
            "x-single-active-consumer",
            "'false'",
            "'true'",
        ),
        ({"x-queue-type": "classic"}, {"x-queue-type": "quorum"}, "x-queue-type", "'quorum'", "'classic'"),
        (
            {},
            {"x-queue-type": "quorum"},
            "x-queue-type",
            "the value 'quorum' of type 'longstr'",
            "none",
        ),
        ({}, {"x-queue-type": 5}, "x-queue-type", "the value '5' of type 'signedint'", "none"),
        ({}, {"x-overflow": "drop-head"}, "x-overflow", "the value 'drop-head' of type 'longstr'", "none"),
        (
            {"x-message-ttl": 1, "x-expires": 2, "x-max-length": 3},
            {},
            "x-expires",  # the first that differs, in RabbitMQ's order
            "none",
            "the value '2' of type 'signedint'",
        ),
    ],
)
def test_other_arguments(
    first: FieldTable, then: FieldTable, argument: str, received: str, current: str
) -> None:
    house = SmallVhost()
    declare(house, first)
    with refused(ReplyCode.PRECONDITION_FAILED, inequivalent(argument, received, current)):
        declare(house, then)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"x-queue-type": "classic"}),
        ({"x-queue-type": "classic"}, {}),
        ({"x-foo": 1}, {"x-foo": 2}),
        ({}, {"x-foo": 1}),
        ({}, {"x-max-age": "1h"}),  # not an argument of this type: not compared, and no longer checked
    ],
)
def test_differences_that_do_not_matter(first: FieldTable, then: FieldTable) -> None:
    house = SmallVhost()
    declare(house, first)
    declare(house, then)


# --- use and deletion ---------------------------------------------------------------------------------


def test_finding_a_queue() -> None:
    house = SmallVhost()
    with refused(ReplyCode.NOT_FOUND, MISSING):
        house.vhost.find_queue("q", ME)
    made = house.queue("q", exclusive=True)
    assert house.vhost.find_queue("q", ME) is made
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.vhost.find_queue("q", OTHER)


def test_deleting_what_is_not_there_is_no_error() -> None:
    assert SmallVhost().delete_queue("q", if_unused=True, if_empty=True) == 0


def test_another_connection_cannot_delete_an_exclusive_queue() -> None:
    house = SmallVhost()
    house.queue("q", exclusive=True)
    with refused(ReplyCode.RESOURCE_LOCKED, LOCKED):
        house.delete_queue("q", owner=OTHER, if_unused=True)


def publish(house: SmallVhost, name: str) -> None:
    properties = encode_properties(BasicProperties())
    house.vhost.queues[name].enqueue([Message(1, 0, "", name, properties, read_facts(properties), b"body")])


def test_a_queue_with_messages_is_not_empty() -> None:
    house = SmallVhost()
    house.queue("q")
    publish(house, "q")
    with refused(ReplyCode.PRECONDITION_FAILED, "queue 'q' in vhost '/' not empty"):
        house.delete_queue("q", if_empty=True, if_unused=True)
    assert house.delete_queue("q", if_unused=True) == 1
    assert house.vhost.queues == {}


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ({"if_unused": True}, "if-unused"),
        ({"if_empty": True}, "if-empty"),
        ({"if_unused": True, "if_empty": True}, "if-unused"),
    ],
)
def test_quorum_queues_are_deleted_unconditionally(flags: dict[str, bool], shown: str) -> None:
    house = SmallVhost()
    house.queue("q", x_queue_type="quorum")
    text = (
        f"cannot delete queue 'q' in vhost '/'. queue.delete operations with {shown} flag set "
        "are not supported by quorum queues"
    )
    with connection_refused(ReplyCode.NOT_IMPLEMENTED, text):
        house.delete_queue("q", **flags)
    assert house.delete_queue("q") == 0


def test_the_queues_of_a_connection_go_with_it() -> None:
    house = SmallVhost()
    house.queue("mine", exclusive=True)
    house.queue("mine too", exclusive=True)
    house.queue("theirs", owner=OTHER, exclusive=True)
    house.queue("everybody's")
    house.vhost.delete_exclusive_queues(ME)
    assert set(house.vhost.queues) == {"theirs", "everybody's"}
    house.vhost.delete_exclusive_queues(ME)
    assert set(house.vhost.queues) == {"theirs", "everybody's"}


def test_a_deleted_queue_leaves_nothing_to_a_new_one_of_its_name() -> None:
    house = SmallVhost()
    house.queue("q", exclusive=True)
    house.bind("q", "amq.fanout")
    house.delete_queue("q")
    house.queue("q", owner=OTHER)
    assert house.publish("amq.fanout") == []
    house.vhost.delete_exclusive_queues(ME)
    assert "q" in house.vhost.queues


def test_nothing_holds_on_to_what_is_gone() -> None:
    house = SmallVhost()
    owner = Owner()
    queue = house.queue("q", owner=owner, exclusive=True)
    exchange = house.exchange("x")
    house.vhost.bind_queue("q", "x", "k", {}, owner)
    house.bind_exchange("amq.fanout", "x", "k")
    house.publish("x", "k")
    gone = [weakref.ref(thing) for thing in (owner, queue, exchange)]
    house.vhost.delete_exclusive_queues(owner)
    house.delete_exchange("x")
    house.fakes.turn.marked.clear()
    del owner, queue, exchange
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]


class Owner:
    """A connection that can be waited for to be forgotten."""
