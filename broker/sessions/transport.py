"""The socket side of a connection: bytes between the loop and a session, flow control, one write per turn.

The first bytes decide which wire it is. A transport knows no method and no message.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import cast

from leveret.protocol.amqp.connection import PROTOCOL_HEADER as AMQP_HEADER
from leveret.protocol.errors import AmqpError
from leveret.protocol.native.framing import MAGIC as NATIVE_MAGIC

from .amqp_session import AmqpSession
from .native_session import NativeSession
from .session import Session, SessionSettings

log = logging.getLogger(__name__)

WRITE_HIGH_BYTES = 1 << 20  # above it the peer counts as slow: its consumers get nothing until it has read
FAIR_READ_BYTES = 64 << 10  # in one piece: the peer has its turn, now the others
FAIR_S = 0.004  # what a peer may send is taken in pieces of about so much work
PIECE_BYTES_MIN = 4 << 10
ASSUMED_S_PER_BYTE = 0.2e-6  # while nothing is known: of acks, each by itself. Messages of 1 KiB: a fiftieth
UNREAD_HIGH_BYTES = 16 << 20  # above it the peer may ask nothing more until it has read its answers
# Above it nobody may publish more until the disk has caught up: as much as can be packed in some 15 ms.
UNCOMMITTED_HIGH_BYTES = 4 << 20


class Transport(asyncio.Protocol):
    """One per accepted socket. It is its session's `SessionHost`."""

    def __init__(
        self,
        settings: SessionSettings,
        handshake_timeout_s: float,
        on_open: Callable[["Transport"], None],
        on_close: Callable[["Transport"], None],
    ):
        self.name = "?"
        self.peer_is_loopback = False
        self.was_cut = False
        self.session: Session | None = None
        self._settings = settings
        self._handshake_timeout_s = handshake_timeout_s
        self._on_open = on_open
        self._on_close = on_close
        self._socket: asyncio.Transport | None = None
        self._first_bytes = b""
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._holds = 0  # reasons not to read: the session's, the committer's and the peer's
        self._peer_must_read = False
        self._unpaced_bytes = 0  # that came since it last published
        self._s_per_byte = ASSUMED_S_PER_BYTE  # of the last piece
        self._rest = b""  # was read, and waits for the peer's next turn; one of the holds

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer and own:
            self.name = f"{endpoint(peer)} -> {endpoint(own)}"
            self.peer_is_loopback = ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback
        loop = asyncio.get_running_loop()
        self._handshake_timer = loop.call_later(self._handshake_timeout_s, self._handshake_timed_out)
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        size = max(PIECE_BYTES_MIN, int(FAIR_S / self._s_per_byte))
        piece = data if len(data) <= size else data[:size]
        started = time.perf_counter()
        self._receive(piece)
        if len(piece) >= PIECE_BYTES_MIN:
            self._s_per_byte = max((time.perf_counter() - started) / len(piece), 1e-9)
        if piece is not data:
            self._rest = data[size:]
            self.pause_input()
            asyncio.get_running_loop().call_soon(self._receive_rest)

    def _receive_rest(self) -> None:
        """In a turn of its own, once nothing else keeps the peer from being read."""
        if not self._rest or self._holds > 1 or self._socket is None:
            return
        rest, self._rest = self._rest, b""
        self._holds = 0  # the rest was the last one
        self.data_received(rest)
        if not self._holds:
            self._read_on()

    def _receive(self, data: bytes) -> None:
        session, broker = self.session, self._settings.broker
        published, pending_bytes = broker.counters.published, broker.journal.pending_bytes
        self._unpaced_bytes += len(data)
        if session is None:
            self._choose_wire(data)
        else:
            session.receive_data(data)
        if broker.journal.pending_bytes > UNCOMMITTED_HIGH_BYTES:
            self.pause_input()
            broker.journal.when_durable(self.resume_input)
        if broker.counters.published > published:
            self._hold_publisher(is_transient=broker.journal.pending_bytes == pending_bytes)
        self._let_peer_read()
        if len(data) >= FAIR_READ_BYTES:
            # More is waiting, and libuv would read on from this peer, up to 32 buffers, before it looks at
            # anybody else. Let the turn end first: a fast publisher starved its consumer 10 to 20 fold.
            self.pause_input()
            asyncio.get_running_loop().call_soon(self.resume_input)
        else:
            self._unpaced_bytes = 0  # no part of a large message

    def _hold_publisher(self, *, is_transient: bool) -> None:
        """What it has published may make it wait."""
        spiller, blobs = self._settings.broker.spiller, self._settings.broker.journal.blobs
        size, self._unpaced_bytes = self._unpaced_bytes, 0
        if spiller.is_behind:
            self.pause_input()
            spiller.when_caught_up(self.resume_input)
        if blobs.publishers_wait and not is_transient:
            self.pause_input()
            blobs.when_released(self.resume_input)
        if size >= FAIR_READ_BYTES and is_transient:
            loop = asyncio.get_running_loop()
            hold_s = spiller.hold_s(size, loop.time())
            if hold_s:
                self.pause_input()
                loop.call_later(hold_s, self.resume_input)

    def _let_peer_read(self) -> None:
        """Deliveries stop by themselves when the socket is full; answers only stop when nothing is asked."""
        socket = self._socket
        if socket is None or self._peer_must_read:
            return
        if socket.get_write_buffer_size() > UNREAD_HIGH_BYTES:
            self._peer_must_read = True
            self.pause_input()

    def eof_received(self) -> None:
        """The peer sends no more: nothing can be asked of it any more either. Returning None closes the
        socket.
        """

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_handshake_timer()
        self._socket = None
        try:
            if self.session is not None:
                self.session.connection_lost()
        finally:
            self._settings.broker.turn.wake()
            self._on_close(self)

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.set_writable(False)

    def resume_writing(self) -> None:
        if self._peer_must_read:
            self._peer_must_read = False
            self.resume_input()
        if self.session is not None:
            self.session.set_writable(True)

    def _choose_wire(self, data: bytes) -> None:
        self._first_bytes += data
        data = self._first_bytes
        if data[: len(NATIVE_MAGIC) - 1] == NATIVE_MAGIC[:-1]:
            self.session = NativeSession(self._settings, self)
        elif len(data) >= len(AMQP_HEADER) or not _begins_a_wire(data):
            self.session = AmqpSession(self._settings, self)  # which also knows how to refuse garbage
        else:
            return  # too few bytes to tell
        self._first_bytes = b""
        self.session.receive_data(data)

    def _handshake_timed_out(self) -> None:
        if self.session is None or not self.session.is_established:
            log.warning(
                "closing %s: the handshake was not done within %g s", self.name, self._handshake_timeout_s
            )
            self.abort()

    def _cancel_handshake_timer(self) -> None:
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None

    # What the session calls

    @property
    def is_reading(self) -> bool:
        return not self._holds

    def request_flush(self) -> None:
        self._settings.broker.turn.mark_flush(self)

    def pause_input(self) -> None:
        self._holds += 1
        if self._holds == 1 and self._socket is not None:
            self._socket.pause_reading()

    def resume_input(self) -> None:
        self._holds -= 1
        if self._holds == 1 and self._rest:
            asyncio.get_running_loop().call_soon(self._receive_rest)
        elif self._holds == 0:
            self._read_on()

    def _read_on(self) -> None:
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    def close_after(self, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.abort)

    # What the turn and the server call

    def flush(self) -> None:
        session, socket = self.session, self._socket
        if session is None or socket is None:
            return
        try:
            output = session.take_output()
        except Exception:  # a bug; what was lost of the output makes the rest worthless
            log.exception("%s: the output could not be made", self.name)
            self.abort()
            return
        if output:
            socket.write(output[0] if len(output) == 1 else b"".join(output))
        if session.is_established:
            self._cancel_handshake_timer()
        if session.is_closed:
            socket.close()

    def tick(self, now_s: float) -> None:
        if self.session is not None:
            self.session.tick(now_s)

    def close(self, error: AmqpError) -> None:
        """End the connection politely; without a session there is nobody to tell."""
        if self.session is None:
            self.abort()
        else:
            self.session.close(error)

    def abort(self) -> None:
        self.was_cut = True
        if self._socket is not None:
            self._socket.abort()


def _begins_a_wire(data: bytes) -> bool:
    return AMQP_HEADER.startswith(data) or NATIVE_MAGIC.startswith(data)


def endpoint(address: tuple[str, int]) -> str:
    """As in the log."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
