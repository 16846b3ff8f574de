"""The TLS port of the real broker, seen by its clients and by those who are not."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import pika
import pytest
from amqp_peer import LOGIN, publish, tune_ok, vhost_open
from certificates import Certificate, make_certificate
from daemon import START_TIMEOUT_S, TIMEOUT_FACTOR, Daemon
from pika.exceptions import AMQPConnectionError
from polling import until

import leveret
from leveret import ConnectionLost, IncomingMessage, Message, Reconnect
from leveret.protocol.amqp.frames import method_frame
from leveret.protocol.amqp.methods import ChannelOpen

PATIENCE_S = 20 * TIMEOUT_FACTOR
MIB = 1 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def daemon(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The one of this file: with TLS and nothing else."""
    options = (
        *tls_options(certificate),
        "--port",
        "none",
        "--handshake-timeout",
        "1",
        "--log-level",
        "debug",
    )
    with Daemon(tmp_path_factory.mktemp("tls") / "data", *options) as running:
        yield running


def tls_options(certificate: Certificate) -> tuple[str, ...]:
    files = ("--tls-certificate", str(certificate.file), "--tls-key", str(certificate.key_file))
    return ("--tls-port", "0", *files)


def sdk_url(daemon: Daemon, certificate: Certificate) -> str:
    return f"leverets://127.0.0.1:{daemon.tls_port}/?ca_file={certificate.file}"


def pika_parameters(daemon: Daemon, context: ssl.SSLContext) -> pika.ConnectionParameters:
    options = pika.SSLOptions(context, "127.0.0.1")
    return pika.ConnectionParameters("127.0.0.1", daemon.tls_port, ssl_options=options)


def dial(daemon: Daemon) -> socket.socket:
    """Without TLS."""
    return socket.create_connection(("127.0.0.1", daemon.tls_port), timeout=PATIENCE_S)


async def logged(daemon: Daemon, text: str, times: int = 1) -> None:
    """Wait until the broker's log has it."""

    async def has_it() -> bool:
        return daemon.stderr.count(text) >= times

    await until(has_it, text)


async def test_200_large_messages_come_and_go_at_the_same_time(
    daemon: Daemon, certificate: Certificate
) -> None:
    async with leveret.connect(sdk_url(daemon, certificate)) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("large", durable=True)
        bodies: list[bytes] = []
        complete = asyncio.Event()

        async def take(message: IncomingMessage) -> None:
            bodies.append(message.body)
            await message.ack()
            if len(bodies) == 200:
                complete.set()

        await queue.consume(take)
        await channel.publish_many([Message(bytes([number]) * MIB) for number in range(200)], "large")
        async with asyncio.timeout(PATIENCE_S):
            await complete.wait()
        assert all(body == bytes([number]) * MIB for number, body in enumerate(bodies))
        assert await queue.delete() == 0


def test_pika_is_served_too(daemon: Daemon, certificate: Certificate) -> None:
    with pika.BlockingConnection(pika_parameters(daemon, certificate.client_context())) as connection:
        channel = connection.channel()
        channel.queue_declare("pika", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "pika", bytes(3 * MIB))
        _, _, body = channel.basic_get("pika", auto_ack=True)
        assert body == bytes(3 * MIB)
        channel.queue_delete("pika")


async def test_aio_pika_is_served_too(daemon: Daemon, certificate: Certificate) -> None:
    url = f"amqps://guest:guest@127.0.0.1:{daemon.tls_port}/"
    async with await aio_pika.connect(url, ssl_context=certificate.client_context()) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("aio-pika", exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "aio-pika")
        message = await queue.get(no_ack=True)
        assert message.body == b"x"


async def test_a_client_refuses_a_certificate_that_nobody_vouches_for(daemon: Daemon) -> None:
    with pytest.raises(ConnectionLost, match="CERTIFICATE_VERIFY_FAILED"):
        await leveret.connect(f"leverets://127.0.0.1:{daemon.tls_port}/")


async def test_tls_1_1_is_refused(daemon: Daemon, certificate: Certificate) -> None:
    context = certificate.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with dial(daemon) as plain, pytest.raises(OSError):  # noqa: PT011 -- refused or cut, as OpenSSL likes
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    await logged(daemon, "no TLS handshake: unsupported protocol")


@pytest.mark.parametrize(
    "words", [b"AMQP\x00\x00\x09\x01", b"LEVERET\x01", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 99]
)
async def test_whoever_does_not_speak_tls_is_cut_off(daemon: Daemon, words: bytes) -> None:
    with dial(daemon) as peer:
        peer.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
        name = "{}:{}".format(*peer.getsockname())
    await logged(daemon, f"closing {name} -> 127.0.0.1:{daemon.tls_port}: no TLS handshake: ")
    assert "Traceback" not in daemon.stderr


async def test_whoever_says_nothing_is_cut_off_after_the_handshake_timeout(daemon: Daemon) -> None:
    with dial(daemon) as silent, dial(daemon) as slow:
        slow.sendall(b"\x16\x03\x01")
        for peer in (silent, slow):
            assert peer.recv(1) == b""
    await logged(daemon, "the TLS handshake was not done within 1 s", 2)
    assert "Traceback" not in daemon.stderr


async def test_a_handshake_without_a_login_is_not_enough(daemon: Daemon, certificate: Certificate) -> None:
    with certificate.client_context().wrap_socket(dial(daemon), server_hostname="127.0.0.1") as peer:
        assert peer.recv(1) == b""
    await logged(daemon, "the handshake was not done within 1 s")


def test_a_peer_that_never_reads_its_answers_may_not_ask_for_ever(
    daemon: Daemon, certificate: Certificate
) -> None:
    question = publish(1, bytes(100_000), routing_key="nowhere", mandatory=True)
    with certificate.client_context().wrap_socket(dial(daemon), server_hostname="127.0.0.1") as peer:
        peer.sendall(LOGIN + tune_ok(heartbeat=0) + vhost_open() + method_frame(1, ChannelOpen()))
        peer.settimeout(0.5)
        asked = 0
        with contextlib.suppress(TimeoutError):
            while asked < 100_000_000:
                asked += peer.send(question[asked % len(question) :])
        assert asked < 100_000_000
        questions = asked // len(question)
        peer.settimeout(PATIENCE_S)
        answers, rest = 0, b""
        while answers < questions:  # all of them are there
            data = rest + peer.recv(1 << 20)
            answers += data.count(b"NO_ROUTE")
            rest = data[-7:]
        peer.sendall(question[asked % len(question) :])  # and it goes on reading
        while b"NO_ROUTE" not in rest:
            rest = rest[-7:] + peer.recv(1 << 20)


async def test_it_comes_back_after_a_restart_of_the_broker(tmp_path: Path, certificate: Certificate) -> None:
    with Daemon(tmp_path / "data", *tls_options(certificate)) as daemon:
        reconnect = Reconnect(first_delay_s=0.02, max_delay_s=0.1)
        async with leveret.connect(sdk_url(daemon, certificate), reconnect=reconnect) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("q", durable=True)
            for kill in (False, True):
                await channel.publish(Message(b"before"), "q")
                await asyncio.to_thread(daemon.restart, kill=kill)
                await channel.publish(Message(b"after"), "q")
            async with leveret.connect(daemon.leveret_url) as plain:  # both ports are one broker
                assert await (await (await plain.channel()).get_queue("q")).purge() == 4
            await queue.delete()


async def test_clients_must_show_a_certificate_if_the_broker_has_a_client_ca(
    tmp_path: Path, certificate: Certificate
) -> None:
    known, stranger = make_certificate(tmp_path / "known"), make_certificate(tmp_path / "stranger")
    options = (*tls_options(certificate), "--tls-client-ca", str(known.file))
    with Daemon(tmp_path / "data", *options) as daemon:
        url = f"leverets://127.0.0.1:{daemon.tls_port}/"
        async with leveret.connect(url, ssl_context=certificate.client_context(known)) as connection:
            assert connection.is_connected
        for context in (certificate.client_context(), certificate.client_context(stranger)):
            with pytest.raises(ConnectionLost):
                await leveret.connect(url, ssl_context=context)
            with pytest.raises(AMQPConnectionError):
                pika.BlockingConnection(pika_parameters(daemon, context))
        assert daemon.stderr.count("no TLS handshake: peer did not return a certificate") == 2
        assert daemon.stderr.count("no TLS handshake: the client's certificate: self-signed certificate") == 2
        assert daemon.terminate() == 0
        assert "Traceback" not in daemon.stderr


async def test_a_sighup_takes_a_renewed_certificate(tmp_path: Path) -> None:
    def shown_to(trusting: Certificate) -> None:
        trusting.client_context().wrap_socket(dial(daemon), server_hostname="127.0.0.1").close()

    first = make_certificate(tmp_path / "files")
    with Daemon(tmp_path / "data", *tls_options(first)) as daemon:
        context = first.client_context()
        with pika.BlockingConnection(pika_parameters(daemon, context)) as connection:
            renewed = make_certificate(tmp_path / "files")
            daemon.signal("SIGHUP")
            await logged(daemon, "read the files of TLS again")
            shown_to(renewed)
            connection.channel()  # those who are connected stay
        renewed.key_file.write_text("nonsense")
        daemon.signal("SIGHUP")
        await logged(daemon, "TLS goes on as it was: tls_key")
        shown_to(renewed)


def test_files_that_cannot_be_used_are_exit_code_2_and_a_line(
    tmp_path: Path, certificate: Certificate
) -> None:
    other = make_certificate(tmp_path / "other")
    command = [
        sys.executable,
        "-m",
        "leveret",
        "serve",
        "--data-dir",
        str(tmp_path / "data"),
        "--port",
        "none",
    ]
    options = [*tls_options(certificate), "--http-port", "0", "--tls-key", str(other.key_file)]
    ended = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line == f"leveret: tls_key {other.key_file} does not belong to tls_certificate {certificate.file}"
