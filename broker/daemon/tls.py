"""The TLS port: the broker's certificate, and the handshake of everybody who comes that way.

A connection becomes a `Transport` like any other when its handshake is done. Of one that fails, the loop's
own TLS server would tell nobody; here each handshake is a task, which logs that.

Flow control is that of `Transport`. But the loop does not count what it has encrypted and handed to the
socket, so up to twice as much may wait for a slow peer as without TLS.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

from ..sessions.transport import endpoint
from .config import Config, ConfigError

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.5  # after a failure: there may be file descriptors again


class TlsListener:
    """Listens on the TLS port, on any number of addresses."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self._config = config
        self._context = make_context(config)
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def reload(self) -> None:
        """Read the files again, for handshakes from now on. Raises ConfigError, and goes on as it was."""
        self._context = make_context(self._config)

    async def listen(
        self, host: str, port: int, backlog: int, make_protocol: Callable[[], asyncio.Protocol]
    ) -> int:
        """Returns the port, which the kernel chooses for 0. `make_protocol` is called for each connection,
        and what it makes is told of one only when the handshake is done. Raises OSError.
        """
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, *_, address in dict.fromkeys(found):
            listening = socket.create_server((address[0], port), family=family, backlog=backlog)
            listening.setblocking(False)
            port = listening.getsockname()[1]
            self._sockets.append(listening)
            self._start(self._accept(listening, make_protocol))
        return port

    def close(self) -> None:
        """Listen no more, and end the handshakes under way."""
        for task in self._tasks:
            task.cancel()
        for listening in self._sockets:
            listening.close()

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.error("cannot accept a connection on the TLS port: %s", error)
                await asyncio.sleep(ACCEPT_AGAIN_S)
            else:
                self._start(self._shake_hands(accepted, make_protocol))

    async def _shake_hands(
        self, accepted: socket.socket, make_protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        name = "?"
        try:
            name = f"{endpoint(accepted.getpeername())} -> {endpoint(accepted.getsockname())}"
            await asyncio.get_running_loop().connect_accepted_socket(
                make_protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._config.handshake_timeout_s,
            )
        except ConnectionResetError:
            log.debug("%s: the client went away during the TLS handshake", name)  # as health checks do
        except ConnectionAbortedError:  # by the loop
            timeout_s = self._config.handshake_timeout_s
            log.warning("closing %s: the TLS handshake was not done within %g s", name, timeout_s)
        except OSError as error:
            log.warning("closing %s: no TLS handshake: %s", name, _reason(error))


def make_context(config: Config) -> ssl.SSLContext:
    """What TLS clients are shown and asked for.

    Raises:
        ConfigError: a file cannot be read, or does not hold what it should.
    """
    certificate, key, client_ca = config.tls_certificate, config.tls_key, config.tls_client_ca
    assert certificate is not None
    assert key is not None
    _look_into("tls_certificate", certificate, "CERTIFICATE-----")
    _look_into("tls_key", key, "PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # costs us more than whoever asks for it

    def ask_for_password() -> str:
        raise ConfigError(f"tls_key {key} is encrypted; the broker has nobody to ask for the password")

    try:
        context.load_cert_chain(certificate, key, ask_for_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"tls_key {key} does not belong to tls_certificate {certificate}") from None
        what = f"tls_certificate {certificate} or tls_key {key}"
        raise ConfigError(f"{what} cannot be used: {_reason(error)}") from None
    if client_ca is not None:
        _look_into("tls_client_ca", client_ca, "CERTIFICATE-----")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise ConfigError(f"tls_client_ca {client_ca} cannot be used: {_reason(error)}") from None
    return context


def _look_into(option: str, file: Path, mark: str) -> None:
    """OpenSSL would not say which file it is, or what is wrong with it."""
    try:
        text = file.read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigError(f"{option} {file} cannot be read: {error.strerror}") from None
    if mark not in text:
        raise ConfigError(f"{option} {file} has no -----BEGIN {mark}: it must be a PEM file") from None


def _reason(error: OSError) -> str:
    """Without where in OpenSSL it was found."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
