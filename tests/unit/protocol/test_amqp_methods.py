"""Methods: their octets, the whole list, and what is not one."""

import pytest

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.methods import decode_method, encode_method
from leveret.protocol.amqp.wire_types import METHODS, Method
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

VECTORS: list[tuple[Method, bytes]] = [
    (
        methods.ConnectionTune(channel_max=2047, frame_max=131072, heartbeat=60),
        b"\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c",
    ),
    (
        methods.ConnectionStartOk(mechanism="PLAIN", response=b"\0u\0p"),
        b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x04\0u\0p\x05en_US",
    ),
    (methods.ChannelOpen(), b"\0\x14\0\x0a\0"),
    (methods.ChannelFlow(active=True), b"\0\x14\0\x14\x01"),
    (methods.ExchangeUnbindOk(), b"\0\x28\0\x33"),
    (
        methods.ExchangeDeclare(exchange="e", durable=True, no_wait=True, arguments={"a": None}),
        b"\0\x28\0\x0a\0\0\x01e\x06direct\x12\0\0\0\x03\x01aV",
    ),
    (
        methods.QueueDeclare(queue="q", passive=True, auto_delete=True),
        b"\0\x32\0\x0a\0\0\x01q\x09\0\0\0\0",
    ),
    (
        methods.QueueDeclareOk(queue="q", message_count=1, consumer_count=2),
        b"\0\x32\0\x0b\x01q\0\0\0\x01\0\0\0\x02",
    ),
    (methods.BasicQos(prefetch_count=10, global_=True), b"\0\x3c\0\x0a\0\0\0\0\0\x0a\x01"),
    (
        methods.BasicPublish(exchange="e", routing_key="grün", immediate=True),
        b"\0\x3c\0\x28\0\0\x01e\x05gr\xc3\xbcn\x02",
    ),
    (
        methods.BasicNack(delivery_tag=2**64 - 1, multiple=True, requeue=False),
        b"\0\x3c\0\x78\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ),
    (methods.BasicReject(delivery_tag=1, requeue=True), b"\0\x3c\0\x5a\0\0\0\0\0\0\0\x01\x01"),
    (methods.TxCommit(), b"\0\x5a\0\x14"),
]


@pytest.mark.parametrize(("method", "payload"), VECTORS, ids=lambda value: getattr(value, "name", ""))
def test_a_method_and_its_octets(method: Method, payload: bytes) -> None:
    assert encode_method(method) == payload
    assert decode_method(payload) == method


def test_every_method_of_the_dialect_is_there() -> None:
    by_class: dict[int, list[int]] = {}
    for class_id, method_id in sorted(METHODS):
        by_class.setdefault(class_id, []).append(method_id)
    assert by_class == {
        10: [10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71],
        20: [10, 11, 20, 21, 40, 41],
        30: [10, 11],
        40: [10, 11, 20, 21, 30, 31, 40, 51],
        50: [10, 11, 20, 21, 30, 31, 40, 41, 50, 51],
        60: [10, 11, 20, 21, 30, 31, 40, 50, 60, 70, 71, 72, 80, 90, 100, 110, 111, 120],
        85: [10, 11],
        90: [10, 11, 20, 21, 30, 31],
    }


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (methods.ConnectionStartOk, "connection.start-ok"),
        (methods.ConnectionUpdateSecretOk, "connection.update-secret-ok"),
        (methods.BasicRecoverAsync, "basic.recover-async"),
        (methods.TxSelect, "tx.select"),
    ],
)
def test_names_are_those_of_the_specification(method: type[Method], name: str) -> None:
    assert method.name == name


@pytest.mark.parametrize("payload", [b"", b"\0\x3c\0", b"\0\x3c\0\x0f", b"\0\x63\0\x0a"])
def test_an_unknown_method(payload: bytes) -> None:
    with pytest.raises(HardError) as caught:
        decode_method(payload)
    assert str(caught.value) == "503 COMMAND_INVALID - unimplemented method"


@pytest.mark.parametrize(("method", "payload"), VECTORS, ids=lambda value: getattr(value, "name", ""))
def test_arguments_cut_off_or_followed_by_more(method: Method, payload: bytes) -> None:
    for garbage in [payload[:cut] for cut in range(4, len(payload))] + [payload + b"\0"]:
        with pytest.raises(HardError) as caught:
            decode_method(garbage)
        assert caught.value.method == method.ids
        assert caught.value.reply_code in {ReplyCode.FRAME_ERROR, ReplyCode.SYNTAX_ERROR}


def test_the_text_for_undecodable_arguments_is_rabbitmqs() -> None:
    with pytest.raises(HardError) as caught:
        decode_method(b"\0\x32\0\x0a")
    assert str(caught.value) == "501 FRAME_ERROR - cannot decode <<>>"


def test_a_name_that_is_not_utf8_is_a_syntax_error() -> None:
    with pytest.raises(HardError) as caught:
        decode_method(b"\0\x32\0\x1e\0\0\x01\xff\0")
    assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR
    assert caught.value.method == methods.QueuePurge.ids


@pytest.mark.parametrize(
    "method",
    [
        methods.QueuePurge(queue="q" * 256),
        methods.BasicQos(prefetch_count=65536),
        methods.BasicAck(delivery_tag=-1),
        methods.QueueDeclare(arguments={"a": 2**64}),
    ],
)
def test_a_value_that_does_not_fit_its_field(method: Method) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_method(method)


def test_a_name_of_255_octets_fits() -> None:
    longest = methods.BasicPublish(routing_key="k" * 255)
    assert decode_method(encode_method(longest)) == longest
