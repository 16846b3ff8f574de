"""The headers exchange: which bindings fit, and which are refused."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from small_vhost import SmallVhost, refused

from leveret.protocol.amqp.field_table import FieldTable, FieldValue, Float32, Long, SignedByte
from leveret.protocol.reply_codes import ReplyCode

INVALID_VALUE = "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x"


def matches(arguments: FieldTable, headers: FieldTable | None) -> bool:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.headers", "a key nobody looks at", arguments)
    return house.publish("amq.headers", "another one", headers) == ["q"]


@pytest.mark.parametrize("match", [{}, {"x-match": "all"}, {"x-match": "all-with-x"}])
def test_all_wants_every_argument(match: FieldTable) -> None:
    arguments: FieldTable = match | {"a": 1, "b": "x"}
    assert matches(arguments, {"a": 1, "b": "x", "c": 5})
    assert not matches(arguments, {"a": 1})
    assert not matches(arguments, {"a": 1, "b": "y"})
    assert not matches(arguments, None)


@pytest.mark.parametrize("match", ["any", "any-with-x"])
def test_any_wants_one_argument(match: str) -> None:
    arguments: FieldTable = {"x-match": match, "a": 1, "b": "x"}
    assert matches(arguments, {"a": 1})
    assert matches(arguments, {"b": "x", "a": 2})
    assert not matches(arguments, {"a": 2, "b": "y"})
    assert not matches(arguments, None)


def test_arguments_with_x_take_part_only_when_asked_for() -> None:
    assert matches({"x-match": "all", "x-a": 1, "b": 2}, {"b": 2})
    assert not matches({"x-match": "all-with-x", "x-a": 1, "b": 2}, {"b": 2})
    assert matches({"x-match": "all-with-x", "x-a": 1, "b": 2}, {"b": 2, "x-a": 1})
    assert not matches({"x-match": "any", "x-a": 1}, {"x-a": 1})
    assert matches({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1})


def test_without_arguments_all_matches_everything_and_any_nothing() -> None:
    assert matches({}, None)
    assert matches({}, {"a": 1})
    assert not matches({"x-match": "any"}, {"a": 1})


def test_a_void_argument_wants_the_header_to_be_there() -> None:
    assert matches({"a": None}, {"a": "anything"})
    assert matches({"a": None}, {"a": None})
    assert not matches({"a": None}, {"b": 1})
    assert not matches({"a": 1}, {"a": None})


SAME: list[tuple[FieldValue, FieldValue]] = [
    (5, Long(5)),
    (5, SignedByte(5)),
    (5, 5.0),
    (5, datetime.fromtimestamp(5, UTC)),
    (1.5, Float32(1.5)),
    ("a", b"a"),
    (True, True),
    (Decimal("0.10"), Decimal("0.10")),
    ([1, "a"], [1, "a"]),
    ({"a": {"b": 1}}, {"a": {"b": 1}}),
]


@pytest.mark.parametrize(("wanted", "given"), SAME)
def test_values_that_are_the_same(wanted: FieldValue, given: FieldValue) -> None:
    assert matches({"h": wanted}, {"h": given})


OTHER: list[tuple[FieldValue, FieldValue]] = [
    (5, "5"),
    (1, True),
    (0, False),
    ("true", True),
    (1, 2),
    ("a", "A"),
    (Decimal("0.10"), Decimal("0.1")),
    ([1, 2], [2, 1]),
    ([1], [Long(1)]),
    ({"a": 1}, {"a": 2}),
]


@pytest.mark.parametrize(("wanted", "given"), OTHER)
def test_values_that_differ(wanted: FieldValue, given: FieldValue) -> None:
    assert not matches({"h": wanted}, {"h": given})


@pytest.mark.parametrize(
    ("match", "text"),
    [
        ("foo", INVALID_VALUE.format('<<"foo">>')),
        ("", INVALID_VALUE.format("<<>>")),
        ("it's", INVALID_VALUE.format('<<"it\'s">>')),
        ('a"b', INVALID_VALUE.format('<<"a\\"b">>')),
        ("\x01", INVALID_VALUE.format("<<1>>")),
        (23, "Invalid x-match field type signedint (value 23); expected longstr"),
        (None, "Invalid x-match field type void (value undefined); expected longstr"),
        (True, "Invalid x-match field type bool (value true); expected longstr"),
        ([1], "Invalid x-match field type array (value [{signedint,1}]); expected longstr"),
        ({"a": 1}, 'Invalid x-match field type table (value [{<<"a">>,signedint,1}]); expected longstr'),
    ],
)
def test_a_bad_x_match_is_refused(match: FieldValue, text: str) -> None:
    house = SmallVhost()
    house.queues("q")
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        house.bind("q", "amq.headers", "", {"x-match": match})
    assert house.publish("amq.headers", "", {"a": 1}) == []


def test_other_types_do_not_look_at_x_match() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.direct", "k", {"x-match": 23})
    assert house.publish("amq.direct", "k") == ["q"]


def test_a_binding_that_goes_no_longer_matches() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.headers", "", {"a": 1})
    house.unbind("q", "amq.headers", "", {"a": 1})
    assert house.publish("amq.headers", "", {"a": 1}) == []


def test_amq_match_is_a_headers_exchange_too() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.match", "", {"a": 1})
    assert house.publish("amq.match", "", {"a": 1}) == ["q"]


def test_an_answer_without_headers_is_not_kept_for_a_message_with_them() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.headers", "", {"a": 1})
    assert house.publish("amq.headers", "k") == []
    assert house.publish("amq.headers", "k", {"a": 1}) == ["q"]
    assert house.publish("amq.headers", "k") == []


@pytest.mark.parametrize("name", ["a", "x-death", "é"])
def test_names_of_all_kinds(name: str) -> None:
    assert matches({"x-match": "all-with-x", name: "v"}, {name: "v"})
