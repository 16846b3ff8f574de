"""Bodies by content type: what goes in comes out, and what cannot be decoded says why."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from fake_native_server import FakeNativeServer

from leveret import IncomingMessage, Message, Undecodable, register_decoder
from leveret.client import codecs
from leveret.client.codecs import decode_body


def decoded(body: bytes, content_type: str | None = None, content_encoding: str | None = None) -> object:
    return decode_body(body, content_type, content_encoding, None)


def received(message: Message) -> IncomingMessage:
    """The message as a consumer gets it."""
    settler = None  # decoding has nothing to do with it
    return IncomingMessage(settler, 1, 0, "", "q", message.encode_properties(), message.body)  # type: ignore[arg-type]


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(codecs._decoders)
    yield
    codecs._decoders.clear()
    codecs._decoders.update(before)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü"]}, [], "text", 2**70, ""])
def test_json_comes_back(value: object) -> None:
    message = Message.json(value)
    assert message.content_type == "application/json"
    assert received(message).decode() == value


@pytest.mark.parametrize(
    "value",
    [{"a": [1, None, b"raw"]}, {1: "one", b"two": 2}, datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC), ""],
)
def test_msgpack_comes_back(value: object) -> None:
    message = Message.msgpack(value)
    assert message.content_type == "application/msgpack"
    assert received(message).decode() == value


def test_text_and_bytes_come_back() -> None:
    assert received(Message.text("Grüße")).decode() == "Grüße"
    assert received(Message(b"\xff\x00")).decode() == b"\xff\x00"


def test_the_other_properties_go_with_it() -> None:
    message = Message.json(
        {}, message_id="m", headers={"n": 1}, priority=3, content_type="application/x+json"
    )
    assert (message.message_id, message.headers, message.priority) == ("m", {"n": 1}, 3)
    assert message.content_type == "application/x+json"
    assert Message.msgpack(1, delivery_mode=1).delivery_mode == 1
    assert Message.text("x", type="t").type == "t"
    with pytest.raises(TypeError, match="unexpected keyword argument 'prioriti'"):
        Message.json({}, prioriti=3)  # type: ignore[call-arg]  # the mistake


def test_what_json_or_msgpack_does_not_know_is_refused_or_given_to_default() -> None:
    with pytest.raises(TypeError, match="Decimal is not JSON serializable"):
        Message.json(Decimal("1.5"))
    assert Message.json({"price": Decimal("1.5")}, default=str).body == b'{"price":"1.5"}'
    with pytest.raises(ValueError, match="Out of range float"):
        Message.json(float("nan"))
    with pytest.raises(TypeError, match="Decimal"):
        Message.msgpack(Decimal("1.5"))
    assert received(Message.msgpack(Decimal("1.5"), default=str)).decode() == "1.5"
    with pytest.raises(TypeError, match="takes a str, not bytes"):
        Message.text(b"x")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("body", "content_type", "content_encoding", "value"),
    [
        (b'{"a": 1}', "application/json; charset=utf-8", None, {"a": 1}),
        (b'{"a": 1}', "Application/JSON", "utf-8", {"a": 1}),  # kombu puts the charset there
        ('{"a": "ü"}'.encode("latin-1"), 'application/json;charset="latin-1"', None, {"a": "ü"}),
        (b'{"a": 1}', "application/cloudevents+json", None, {"a": 1}),
        (b"\x81\xa1a\x01", "application/x-msgpack", "binary", {"a": 1}),
        ("ü".encode("latin-1"), "text/plain; charset=latin-1", None, "ü"),
        ("ü".encode("latin-1"), "text/html", "latin-1", "ü"),
        (b"a,b", "text/csv", None, "a,b"),
        (b"raw", "application/octet-stream", None, b"raw"),
        (b"raw", "", "", b"raw"),
        (b"{}", "application/json", "identity", {}),
    ],
)
def test_the_content_type_decides(
    body: bytes, content_type: str, content_encoding: str | None, value: object
) -> None:
    assert decoded(body, content_type, content_encoding) == value


@pytest.mark.parametrize(
    ("body", "content_type", "content_encoding", "text"),
    [
        (b"{", "application/json", None, "the body of 1 bytes is no valid application/json: JSONDecodeError"),
        (b"[" * 100_000, "application/json", None, "RecursionError"),
        (b"\xff", "text/plain", None, "UnicodeDecodeError"),
        (b"\xc1", "application/msgpack", None, "application/msgpack"),
        (b"\x01\x01", "application/msgpack", None, "ExtraData"),
        (b"\x81\x90\x01", "application/msgpack", None, "application/msgpack"),  # a list as key
        (b"x", "image/png", None, "read message.body, or call leveret.register_decoder"),
        (b"x", "text/plain; charset=klingon", None, "charset 'klingon' is no charset"),
        (b"x", "text/plain; charset=rot13", None, "charset 'rot13' is no charset"),
        (b"x", "application/json", "gzip", "content_encoding 'gzip' is no charset: undo the encoding"),
        (b"x", "text/plain; charset=a\0b", None, "is no charset"),
    ],
)
def test_what_cannot_be_decoded_says_why(
    body: bytes, content_type: str, content_encoding: str | None, text: str
) -> None:
    with pytest.raises(Undecodable, match=text):
        decoded(body, content_type, content_encoding)


@dataclass
class Order:
    number: int


def test_into_gives_the_result_a_type() -> None:
    message = received(Message.json({"number": 5}))
    order = message.decode(lambda fields: Order(**fields))
    assert order.number == 5
    text = "does not become what it is decoded into: TypeError: .* unexpected keyword argument 'nummer'"
    with pytest.raises(Undecodable, match=text) as caught:
        received(Message.json({"nummer": 5})).decode(lambda fields: Order(**fields))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.usefixtures("registry")
def test_users_add_decoders_and_replace_ours() -> None:
    register_decoder("Image/PNG", len)
    register_decoder("application/json", lambda body: ("mine", body))
    register_decoder("application/x-protobuf; proto=Order", lambda _: "an order")
    assert decoded(b"1234", "image/png; q=1") == 4
    assert decoded(b"{}", "application/json; charset=utf-8") == ("mine", b"{}")
    assert decoded(b"", "application/x-protobuf; proto=Order") == "an order"
    with pytest.raises(Undecodable, match="nobody knows"):
        decoded(b"", "application/x-protobuf; proto=Invoice")


async def test_over_the_wire() -> None:
    async with FakeNativeServer().connect() as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("q")
        await channel.publish(Message.json({"a": 1}), "q")
        assert (await queue.get()).decode(dict) == {"a": 1}
