"""Whatever comes to the port instead of AMQP gets the right end in time, and disturbs nobody."""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pika
import pytest
from daemon import Daemon

from leveret.protocol.amqp.connection import PROTOCOL_HEADER
from leveret.protocol.amqp.frames import BODY_FRAME, FRAME_END, METHOD_FRAME, build_frame, method_frame
from leveret.protocol.amqp.methods import (
    BasicPublish,
    ChannelOpen,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTuneOk,
    QueueDelete,
)

HANDSHAKE_TIMEOUT_S = 1.0
PATIENCE_S = 10.0
PLAIN_LOGIN = b"\0guest\0guest"

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + bytes(160)
OVERSIZED = struct.pack(">BHI", 1, 0, 100_000) + bytes(100)
UNKNOWN_TYPE = struct.pack(">BHI", 77, 0, 4) + b"what" + bytes([FRAME_END])
WRONG_END = struct.pack(">BHI", 1, 0, 4) + b"what" + b"\0"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    data_dir = tmp_path_factory.mktemp("garbage") / "data"
    with Daemon(data_dir, "--handshake-timeout-s", str(HANDSHAKE_TIMEOUT_S)) as daemon:
        yield daemon


@pytest.fixture
def bystander(broker: Daemon) -> Iterator[Callable[[], None]]:
    """A client that was there before; call it to see that it was not disturbed."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue

    def works() -> None:
        channel.basic_publish("", queue, b"undisturbed")
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert method is not None
        assert body == b"undisturbed"

    works()
    yield works
    works()
    connection.close()


def end_of(broker: Daemon, *pieces: bytes) -> tuple[bytes, float]:
    """Send the pieces and read until the broker closes. Returns what it said and how long that took."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_S) as peer:
        started_s = time.monotonic()
        said = b""
        for piece in pieces:
            peer.sendall(piece)
        while True:
            try:
                data = peer.recv(65536)
            except ConnectionResetError:  # closed with something of ours unread
                break
            if not data:
                break
            said += data
        return said, time.monotonic() - started_s


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(os.urandom(10_000).replace(b"A", b"B").replace(b"L", b"M"), id="random bytes"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="an HTTP request"),
        pytest.param(TLS_HELLO, id="a TLS hello"),
        pytest.param(b"AMQP\x00\x01\x00\x00", id="AMQP 1.0"),
        pytest.param(b"AMQP\x01\x01\x00\x08", id="AMQP 0-8"),
        pytest.param(b"\r\n\r\n\r\n\r\n", id="line ends"),
    ],
)
@pytest.mark.usefixtures("bystander")
def test_what_is_not_our_protocol_is_told_so(broker: Daemon, garbage: bytes) -> None:
    said, took_s = end_of(broker, garbage)
    assert said == PROTOCOL_HEADER
    assert took_s < HANDSHAKE_TIMEOUT_S


@pytest.mark.parametrize(
    ("pieces", "answer_begins"),
    [
        pytest.param((), b"", id="nothing"),
        pytest.param((b"A",), b"", id="one byte"),
        pytest.param((b"LEVERET",), b"", id="half a native header"),
        pytest.param((PROTOCOL_HEADER,), b"\x01\x00\x00", id="a header and silence"),
        pytest.param((PROTOCOL_HEADER, b"\x01\x00\x00\x00"), b"\x01\x00\x00", id="half a frame"),
        pytest.param(
            (PROTOCOL_HEADER, method_frame(0, ConnectionStartOk(mechanism="PLAIN", response=PLAIN_LOGIN))),
            b"\x01\x00\x00",
            id="a login and silence",
        ),
    ],
)
@pytest.mark.usefixtures("bystander")
def test_silence_ends_with_the_handshake_timeout(
    broker: Daemon, pieces: tuple[bytes, ...], answer_begins: bytes
) -> None:
    said, took_s = end_of(broker, *pieces)
    assert said.startswith(answer_begins)
    assert (said == b"") == (answer_begins == b"")
    assert took_s < PATIENCE_S


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(OVERSIZED, 501, id="a frame over the limit"),
        pytest.param(UNKNOWN_TYPE, 501, id="an unknown frame type"),
        pytest.param(WRONG_END, 501, id="a wrong end octet"),
        pytest.param(
            method_frame(0, ConnectionTuneOk(channel_max=1, frame_max=131072, heartbeat=0)),
            504,
            id="tune-ok before the login",
        ),
        pytest.param(struct.pack(">BHI", 8, 5, 0) + bytes([FRAME_END]), 505, id="a heartbeat on channel 5"),
    ],
)
@pytest.mark.usefixtures("bystander")
def test_a_broken_handshake_is_closed_with_its_code(broker: Daemon, frame: bytes, code: int) -> None:
    said, took_s = end_of(broker, PROTOCOL_HEADER, frame)
    close = struct.pack(">HHH", 10, 50, code)
    assert close in said
    assert took_s < PATIENCE_S


@pytest.mark.usefixtures("bystander")
def test_a_hundred_half_open_connections_go_away(broker: Daemon) -> None:
    peers = [socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_S) for _ in range(100)]
    try:
        for number, peer in enumerate(peers):
            peer.sendall(PROTOCOL_HEADER[: number % 8])
        for peer in peers:
            assert peer.recv(1) == b""
    finally:
        for peer in peers:
            peer.close()


LOGIN = [
    PROTOCOL_HEADER,
    method_frame(0, ConnectionStartOk(mechanism="PLAIN", response=PLAIN_LOGIN, locale="en_US")),
    method_frame(0, ConnectionTuneOk(channel_max=2047, frame_max=131072, heartbeat=0)),
    method_frame(0, ConnectionOpen(virtual_host="/")),
    method_frame(1, ChannelOpen()),
]


def closing(reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0) -> bytes:
    """The connection.close that says so."""
    close = ConnectionClose(
        reply_code=reply_code, reply_text=reply_text, class_id=class_id, method_id=method_id
    )
    return method_frame(0, close)


# Frames that end an open connection, and what RabbitMQ 3.10 says to them.
BROKEN = {
    "over frame_max": (
        struct.pack(">BHI", 1, 1, 0x20001) + b"x" * 0x20001 + b"\xce",
        closing(501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,131073,131064}"),
    ),
    "wrong end octet": (
        struct.pack(">BHI", 1, 1, 5) + b"\0\x14\0\x0a\0" + b"\xff",
        closing(501, "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,255}"),
    ),
    "noise": (
        b"\xde\xad\xbe\xef" * 20,
        closing(501, "FRAME_ERROR - type 222, all octets = <<>>: {frame_too_large,4024348094,131064}"),
    ),
    "arguments cut short": (
        build_frame(METHOD_FRAME, 1, struct.pack(">HH", 50, 10) + b"\0"),
        closing(501, "FRAME_ERROR - cannot decode <<0>>", 50, 10),
    ),
    "channel method on channel 0": (
        method_frame(0, ChannelOpen()),
        closing(504, "CHANNEL_ERROR - unexpected method in connection state running", 20, 10),
    ),
    "method on a channel that is not open": (
        method_frame(2, QueueDelete(queue="q")),
        closing(504, "CHANNEL_ERROR - expected 'channel.open'", 50, 40),
    ),
    "channel opened twice": (
        method_frame(1, ChannelOpen()),
        closing(504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10),
    ),
    "a body out of nowhere": (
        build_frame(BODY_FRAME, 1, b"body"),
        closing(505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead"),
    ),
    "a method instead of content": (
        method_frame(1, BasicPublish(routing_key="q")) + method_frame(1, QueueDelete(queue="q")),
        closing(
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            60,
            40,
        ),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.usefixtures("bystander")
def test_a_broken_connection_is_closed_as_rabbitmq_does(broker: Daemon, case: str) -> None:
    frame, close = BROKEN[case]
    said, _ = end_of(broker, *LOGIN, frame, method_frame(0, ConnectionCloseOk()))
    assert close in said, said[-120:]
