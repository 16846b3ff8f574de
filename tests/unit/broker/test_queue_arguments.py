"""The arguments of queue.declare, with the answers that RabbitMQ 3.10.8 gave to the same tables."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from small_vhost import connection_refused, refused

from leveret.broker.queues.queue_arguments import QueueSettings, check_server_named, parse_queue_arguments
from leveret.protocol.amqp.field_table import FieldTable, FieldValue, Float32, Long, RawLongString, SignedByte
from leveret.protocol.reply_codes import ReplyCode

QUEUE = "queue 'q' in vhost '/'"
QUORUM: FieldTable = {"x-queue-type": "quorum"}
DLX: FieldTable = {"x-dead-letter-exchange": "dlx"}

NO_INTEGERS: list[tuple[FieldValue, str]] = [
    (None, "void"),
    (True, "bool"),
    (1.5, "double"),
    (5.0, "double"),
    (Float32(1.5), "float"),
    (Decimal("0.07"), "decimal"),
    ("5", "longstr"),
    ("", "longstr"),
    (RawLongString(b"\xff"), "longstr"),
    (b"a", "binary"),
    ([1], "array"),
    ({"a": 1}, "table"),
    (datetime.fromtimestamp(5, UTC), "timestamp"),
]
NO_STRINGS: list[tuple[FieldValue, str]] = [
    (None, "void"),
    (True, "bool"),
    (5, "signedint"),
    (SignedByte(5), "byte"),
    (Long(5), "long"),
    (1.5, "double"),
    (b"a", "binary"),
    ([], "array"),
    ({}, "table"),
]
INTEGERS = (
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-queue-version",
    "x-delivery-limit",
    "x-consumer-timeout",
)
STRINGS = ("x-overflow", "x-queue-type", "x-queue-mode", "x-dead-letter-routing-key")


def parse(
    arguments: FieldTable, *, durable: bool = True, exclusive: bool = False, auto_delete: bool = False
) -> QueueSettings:
    return parse_queue_arguments(
        QUEUE, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete
    )


def check_fault(arguments: FieldTable, name: str, fault: str) -> None:
    with refused(ReplyCode.PRECONDITION_FAILED, f"invalid arg '{name}' for {QUEUE}: {fault}"):
        parse(arguments)


# --- what they mean -----------------------------------------------------------------------------------


def test_no_arguments() -> None:
    assert parse({}) == QueueSettings()


def test_all_of_a_classic_queue() -> None:
    arguments: FieldTable = {
        "x-queue-type": "classic",
        "x-message-ttl": 0,
        "x-expires": SignedByte(1),
        "x-max-length": 0,
        "x-max-length-bytes": Long(2**40),
        "x-overflow": "reject-publish-dlx",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "é",
        "x-max-priority": 255,
        "x-single-active-consumer": True,
        "x-delivery-limit": -1,
        "x-consumer-timeout": 60000,
        "x-queue-mode": "lazy",
        "x-queue-version": 2,
        "x-queue-master-locator": "min-masters",
    }
    assert parse(arguments) == QueueSettings(
        message_ttl_ms=0,
        expires_ms=1,
        max_length=0,
        max_length_bytes=2**40,
        overflow="reject-publish-dlx",
        dead_letter_exchange="",
        dead_letter_routing_key="é",
        max_priority=255,
        single_active_consumer=True,
        delivery_limit=-1,
        consumer_timeout_ms=60000,
    )


def test_all_of_a_quorum_queue() -> None:
    arguments: FieldTable = QUORUM | {
        "x-delivery-limit": 3,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "dlx",
        "x-dead-letter-strategy": "at-least-once",
        "x-max-in-memory-length": 5,
        "x-max-in-memory-bytes": 5,
        "x-quorum-initial-group-size": 3,
        "x-queue-leader-locator": "balanced",
        "x-single-active-consumer": False,
    }
    assert parse(arguments) == QueueSettings(
        queue_type="quorum", delivery_limit=3, overflow="reject-publish", dead_letter_exchange="dlx"
    )


def test_a_quorum_queue_cannot_dead_letter_what_it_refuses() -> None:
    assert parse(QUORUM | {"x-overflow": "reject-publish-dlx"}).overflow == "drop-head"


def test_unknown_arguments_are_ignored() -> None:
    assert parse({"x-foo": [None], "bar": -1, "x-stream-filter-size-bytes": "no"}) == QueueSettings()


# --- types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(("value", "type_name"), NO_INTEGERS)
def test_integers_only(name: str, value: FieldValue, type_name: str) -> None:
    check_fault({name: value}, name, f'"expected integer, got {type_name}"')


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize(("value", "type_name"), NO_STRINGS)
def test_strings_only(name: str, value: FieldValue, type_name: str) -> None:
    check_fault(DLX | {name: value}, name, f"{{unacceptable_type,{type_name}}}")


@pytest.mark.parametrize(("value", "type_name"), NO_STRINGS)
def test_a_dead_letter_exchange_has_a_text_of_its_own(value: FieldValue, type_name: str) -> None:
    text = f"invalid type '{type_name}' for arg 'x-dead-letter-exchange' in {QUEUE}"
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        parse({"x-expires": 0, "x-queue-type": "foo", "x-dead-letter-exchange": value})


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_single_active_consumer_is_a_bool(value: FieldValue) -> None:
    with pytest.raises(Exception, match=r"\{unacceptable_type,(signedint|longstr|void)\}$"):
        parse({"x-single-active-consumer": value})


# --- values -------------------------------------------------------------------------------------------


def test_a_dead_letter_routing_key_must_fit_a_short_string() -> None:
    assert parse(DLX | {"x-dead-letter-routing-key": "é" * 127}).dead_letter_routing_key == "é" * 127
    text = f"invalid arg 'x-dead-letter-routing-key' for {QUEUE}: routing_key_too_long"
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        parse(DLX | {"x-dead-letter-routing-key": "é" * 128})


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("x-message-ttl", -10, "{value_negative,-10}"),
        ("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
        ("x-expires", -10, "{value_negative,-10}"),
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", 2**40, "{value_too_large,1099511627776}"),
        ("x-max-length", -1, "{value_negative,-1}"),
        ("x-max-length-bytes", -1, "{value_negative,-1}"),
        ("x-max-priority", -10, "{value_negative,-10}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-overflow", "abc", "invalid_overflow"),
        ("x-overflow", "", "invalid_overflow"),
        ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
        ("x-queue-type", "abc", "\"unsupported queue type 'abc'\""),
        ("x-queue-type", "a'b", "\"unsupported queue type 'a'b'\""),
        ("x-queue-mode", "é", "\"unsupported queue mode 'é'\""),
        ("x-queue-version", 0, "\"unsupported queue version '0'\""),
        ("x-queue-version", 3, "\"unsupported queue version '3'\""),
        ("x-queue-version", -10, "{value_negative,-10}"),
        ("x-consumer-timeout", -1, "{value_negative,-1}"),
    ],
)
def test_values_of_a_classic_queue(name: str, value: FieldValue, fault: str) -> None:
    check_fault({name: value}, name, fault)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("x-dead-letter-strategy", "foo", "invalid_dlx_strategy"),
        ("x-quorum-initial-group-size", 0, "{value_zero,0}"),
        ("x-quorum-initial-group-size", -1, "{value_negative,-1}"),
        ("x-queue-leader-locator", "foo", "invalid_queue_locator_arg"),
        ("x-max-in-memory-length", -1, "{value_negative,-1}"),
        ("x-delivery-limit", "foo", '"expected integer, got longstr"'),
    ],
)
def test_values_of_a_quorum_queue(name: str, value: FieldValue, fault: str) -> None:
    check_fault(QUORUM | {name: value}, name, fault)


@pytest.mark.parametrize("ttl", [0, 1, 315_360_000_000])
def test_a_ttl_of_up_to_ten_years(ttl: int) -> None:
    assert parse({"x-message-ttl": ttl}).message_ttl_ms == ttl


# --- types of queues ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue_type", "names"),
    [
        (
            "classic",
            [
                "x-dead-letter-strategy",
                "x-quorum-initial-group-size",
                "x-queue-leader-locator",
                "x-initial-cluster-size",
                "x-max-age",
                "x-stream-max-segment-size-bytes",
                "x-max-in-memory-length",
                "x-max-in-memory-bytes",
            ],
        ),
        (
            "quorum",
            ["x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator", "x-max-age"],
        ),
    ],
)
def test_arguments_of_other_queue_types(queue_type: str, names: list[str]) -> None:
    for name in names:
        text = f"invalid arg '{name}' for {QUEUE} of queue type rabbit_{queue_type}_queue"
        with refused(ReplyCode.PRECONDITION_FAILED, text):
            parse({"x-queue-type": queue_type, name: 5})


@pytest.mark.parametrize(
    ("properties", "shown"),
    [
        ({"durable": False}, "non-durable"),
        ({"durable": False, "exclusive": True}, "exclusive-owner"),
        ({"auto_delete": True}, "auto-delete"),
        ({"auto_delete": True, "exclusive": True, "durable": False}, "auto-delete"),
    ],
)
def test_a_quorum_queue_is_durable_and_everybodys(properties: dict[str, bool], shown: str) -> None:
    with refused(ReplyCode.PRECONDITION_FAILED, f"invalid property '{shown}' for {QUEUE}"):
        parse(QUORUM, **properties)


def test_streams_are_not_implemented() -> None:
    with connection_refused(ReplyCode.NOT_IMPLEMENTED, "queue type 'stream'"):
        parse({"x-queue-type": "stream", "x-max-age": "1h"})


@pytest.mark.parametrize("queue_type", ["quorum", "stream"])
def test_only_classic_queues_get_a_name_from_the_server(queue_type: str) -> None:
    text = f"Cannot declare a server-named queue for type rabbit_{queue_type}_queue"
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        check_server_named({"x-queue-type": queue_type})
    check_server_named({})
    check_server_named({"x-queue-type": "classic"})


# --- order --------------------------------------------------------------------------------------------


def test_faults_are_found_in_rabbitmqs_order() -> None:
    faults: FieldTable = {
        "x-max-age": 1,
        "x-overflow": "zz",
        "x-max-length": -1,
        "x-dead-letter-routing-key": "a",
        "x-message-ttl": -1,
        "x-expires": 0,
        "x-queue-type": "bogus",
    }
    order = [
        ("x-queue-type", "\"unsupported queue type 'bogus'\""),
        ("x-expires", "{value_zero,0}"),
        ("x-message-ttl", "{value_negative,-1}"),
        ("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"),
        ("x-max-length", "{value_negative,-1}"),
        ("x-overflow", "invalid_overflow"),
    ]
    for name, fault in order:
        check_fault(faults, name, fault)
        del faults[name]
    text = f"invalid arg 'x-max-age' for {QUEUE} of queue type rabbit_classic_queue"
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        parse(faults)
