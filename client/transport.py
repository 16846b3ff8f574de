"""The socket side of a link: bytes between the loop and `ClientConnection`, one write a turn.

`Link` owns it and hears of frames and of the end through `Listener`. Whoever has something to send
buffers it and calls `request_flush`; at the end of the turn all of it is collected and written at once.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

from leveret.protocol.errors import HardError
from leveret.protocol.native.connection import FAILED, ClientConnection, State
from leveret.protocol.native.layouts import FrameType

LINGER_S = 10.0  # how long a peer may take to read the last of what it is sent
WRITE_HIGH_BYTES = 1 << 20  # above it publishers wait until the broker has read


class Listener(Protocol):
    """The link, as its transport sees it."""

    def frame_received(self, frame: Sequence[Any]) -> None: ...

    def writable(self) -> None:
        """Publishers need not wait any more."""

    def connection_ended(self, reason: str) -> None:
        """The last call."""


class Writer(Protocol):
    """Somebody who collects what one turn brings and turns it into frames at its end."""

    def write_batches(self) -> None: ...


class Transport(asyncio.Protocol):
    """One per TCP connection."""

    def __init__(self, protocol: ClientConnection, listener: Listener) -> None:
        self.protocol = protocol
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._socket: asyncio.Transport | None = None
        self._writers: dict[Writer, None] = {}
        self._flush_is_scheduled = False
        self._is_paused = False  # by a full buffer
        self.blocked_reason: str | None = None  # why the broker reads no publishes, while it does not
        self._blocked = asyncio.Event()
        self.is_writable = True  # False while the buffer is full or publishers are blocked, or after the end
        self._timer: asyncio.TimerHandle | None = None  # of the heartbeats
        self._tick_due_s = 0.0
        self._linger: asyncio.TimerHandle | None = None  # until an abandoned socket is aborted
        self.reason: str | None = None  # why the connection ends, once it is known

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._socket.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._receive(self.protocol.receive_data(data))
        if self.protocol.out:
            self._schedule_flush()

    def eof_received(self) -> None:
        self._receive(self.protocol.receive_eof())

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None
        self.protocol.state = State.CLOSED
        self.blocked_reason = None
        self.is_writable = False
        self._writers = {}
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._listener.connection_ended(self.reason or f"the connection broke: {exc or 'end of stream'}")

    def pause_writing(self) -> None:
        self._is_paused = True
        self.is_writable = False

    def resume_writing(self) -> None:
        self._is_paused = False
        self._resume_publishers()

    def _resume_publishers(self) -> None:
        if not self._is_paused and self.blocked_reason is None:
            self.is_writable = True
            self._listener.writable()

    def _receive(self, events: list[Sequence[Any]]) -> None:
        for event in events:
            if event[0] == FAILED:
                self._fail(event[1])
            elif event[0] == FrameType.CLOSE:
                self.reason = f"the broker closed the connection: {event[1]} {event[2]}"
                self._listener.frame_received(event)
                self.protocol.answer_close()
                self.flush()
                self.abandon()
            elif event[0] == FrameType.CLOSED:
                self.abandon()
            else:
                self._listener.frame_received(event)

    def _fail(self, error: HardError) -> None:
        """The peer broke the protocol, or ended the stream: nothing sensible can follow."""
        self.reason = f"the connection failed: {error.explanation}"
        self.protocol.close(error.reply_code, error.reply_text)
        self.flush()
        self.abandon()

    # Writing

    def request_flush(self, writer: Writer) -> None:
        """Call the writer's `write_batches` at the end of this turn, then write."""
        if writer not in self._writers:
            self._writers[writer] = None
            if not self._flush_is_scheduled:
                self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_is_scheduled:
            self._flush_is_scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._flush_is_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write everything that was collected so far."""
        writers, self._writers = self._writers, {}
        for writer in writers:
            writer.write_batches()
        output = self.protocol.data_to_send()
        if output and self._socket is not None:
            self._socket.write(output[0] if len(output) == 1 else b"".join(output))

    def send(self, type_: FrameType, *fields: Any) -> None:
        """Send one frame at the end of this turn."""
        self.protocol.send(type_, *fields)
        self._schedule_flush()

    # Alarms

    def block(self, reason: str) -> None:
        """BLOCKED: the broker has stopped reading."""
        self.blocked_reason = reason
        self.is_writable = False
        self._blocked.set()

    def unblock(self) -> None:
        """UNBLOCKED: it goes on."""
        self.blocked_reason = None
        self._blocked.clear()
        self._resume_publishers()

    async def answered(self, answer: asyncio.Future[list[Any]]) -> None:
        """Wait for an answer, but not while publishers are blocked: it may be hours in coming."""
        blocked = self._loop.create_task(self._blocked.wait())
        await asyncio.wait((answer, blocked), return_when=asyncio.FIRST_COMPLETED)
        blocked.cancel()

    # Heartbeats and the end

    def start_heartbeats(self) -> None:
        """The handshake is over."""
        self._tick_due_s = self._loop.time()
        self._tick()

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self._tick_due_s > self.protocol.heartbeat_s / 2:
            self.protocol.excuse_silence()  # we were held up, and have not read what has come meanwhile
        if not self.protocol.tick(now_s):
            self.reason = f"nothing was heard from the broker for {self.protocol.heartbeat_s} s"
            self.abort()
            return
        self.flush()
        deadline_s = self.protocol.next_deadline(now_s)
        if deadline_s is not None:
            self._tick_due_s = deadline_s
            self._timer = self._loop.call_at(deadline_s, self._tick)

    def close(self) -> None:
        """Begin the polite end: the broker's CLOSED closes the socket."""
        self.reason = "the connection was closed"
        self.flush()
        self.protocol.close(200, "normal shutdown")
        self.flush()

    def abandon(self) -> None:
        """Close the socket now; what is written so far still goes out."""
        self.protocol.state = State.CLOSED
        if self._socket is not None:
            self._socket.close()
            self._linger = self._linger or self._loop.call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Close the socket now and drop what the peer has not read: it may never do that."""
        self.protocol.state = State.CLOSED
        if self._socket is not None:
            self._socket.abort()
