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
from leveret.protocol.amqp.frames import FRAME_END, method_frame
from leveret.protocol.amqp.methods import ConnectionStartOk, ConnectionTuneOk

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
