"""A connection of the native framing, without I/O: `ServerConnection` and `ClientConnection`.

Bytes and the time come in, events and bytes go out; the owner (a session of the broker, the transport of
the client) does the I/O. Both roles share the verbs:

- `receive_data(data) -> events`: frames `[type, field, ...]` that concern the owner. It never raises; when
  the peer broke the protocol, the last event is `(FAILED, HardError)`, and the owner must send `close` and
  then drop the connection.
- `receive_eof() -> events`: the peer ended the stream.
- `send(type, ...)`, and the role's own: buffer a frame; the owner must then write `data_to_send()`.
- `tick(now_s) -> bool`, `next_deadline(now_s)`: heartbeats.

Handled here and never seen by the owner: the magic, PING and PONG, the order of the handshake, frames after
a close, on the server requests and messages on channels that are not open, and the count of publish tags.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

from .fields import PRODUCER_MAX_BYTES, TAG_MAX
from .framing import MAGIC, VERSION, FrameReader, encode, encode_batch
from .layouts import LAYOUTS, FrameType, Role
from .publishes import PublishReader, append_runs

FAILED: Final = -1
"""Event type: `(FAILED, HardError)`, the last event of a connection."""

HANDSHAKE_FRAME_MAX_BYTES = 8192  # before WELCOME, in both directions
MESSAGE_MAX_BYTES = 16 * 1024 * 1024  # a body
FRAME_OVERHEAD_BYTES = 256 * 1024  # besides a body: names, and properties that dead lettering made longer
BATCH_BYTES = 128 * 1024  # of messages in one frame; a larger message goes alone
ENTRY_OVERHEAD_BYTES = 600  # of a message in a batch, besides properties and body, at most: names and tags
CHANNEL_MAX = 2047
HEARTBEAT_S = 60

Event = Sequence[Any]

# An enum's attribute costs 0.1 us, and each frame is compared with these.
_PING, _PONG = FrameType.PING.value, FrameType.PONG.value
_CLOSE, _CLOSED, _PUBLISH = FrameType.CLOSE.value, FrameType.CLOSED.value, FrameType.PUBLISH.value


class State(Enum):
    """Where a connection is."""

    MAGIC = "magic"  # server: nothing received yet
    HELLO = "hello"  # server: waits for HELLO; client: HELLO is sent
    LOGIN = "login"  # server: HELLO is with the owner, who answers `welcome` or `close`
    OPEN = "open"
    CLOSING = "closing"  # CLOSE is sent: nothing counts any more but CLOSE and CLOSED
    LEAVING = "leaving"  # CLOSE is received: the owner finishes and answers with `answer_close`
    CLOSED = "closed"


_NOTHING: Event = (None,)
_OPEN, _CLOSING = State.OPEN, State.CLOSING


class NativeConnection(ABC):
    """What both roles share."""

    def __init__(self, state: State, reader: FrameReader) -> None:
        self.state = state
        self.out: list[bytes] = []  # what `data_to_send` will give; hot paths append to it directly
        self.heartbeat_s = 0  # 0: none; set by the handshake
        self._reader = reader
        self._received = True  # since the last tick
        self._sent = True  # likewise
        self._last_received_s: float | None = None  # None before the first tick
        self._last_sent_s = 0.0

    # Receiving

    @property
    def is_receiving_body(self) -> bool:
        """A frame has begun that is so large that there must be a body in it."""
        return self._reader.awaited_bytes > FRAME_OVERHEAD_BYTES

    def receive_data(self, data: bytes) -> list[Event]:
        """Take received octets; returns what they mean. See the module's docstring."""
        if self.state in (State.LEAVING, State.CLOSED):
            return []
        self._received = True
        events: list[Event] = []
        try:
            self._reader.feed(data)
            self._receive_frames(events)
        except HardError as error:
            if self.state is State.CLOSING:
                self.state = State.CLOSED  # there is no CLOSED to wait for in what cannot be read
            else:
                events.append((FAILED, error))
        return events

    def receive_eof(self) -> list[Event]:
        """The peer ended the stream: expected after a close, else a failure."""
        if self.state in (State.CLOSING, State.LEAVING, State.CLOSED):
            self.state = State.CLOSED
            return []
        self.state = State.CLOSED
        return [(FAILED, HardError(ReplyCode.CONNECTION_FORCED, "the peer went away without CLOSE"))]

    def _receive_frames(self, events: list[Event]) -> None:
        reader = self._reader
        while (frame := reader.next_frame()) is not None:
            type_ = frame[0]
            if type_ == _CLOSE:
                self.state = State.LEAVING
                events.append(frame)
                return
            if type_ == _CLOSED:
                self._receive_closed(events, frame)
                return
            if self.state is _CLOSING:
                continue
            if type_ == _PING:
                self.send(FrameType.PONG)
            elif type_ != _PONG:
                self._receive_frame(events, frame)

    def _receive_closed(self, events: list[Event], frame: list[Any]) -> None:
        if self.state is not State.CLOSING:
            raise _unexpected(frame)
        self.state = State.CLOSED
        events.append(frame)

    @abstractmethod
    def _receive_frame(self, events: list[Event], frame: list[Any]) -> None:
        """Take a frame that is not the same for both roles. Raises HardError when it is out of order."""

    # Sending

    def send(self, type_: FrameType, *fields: Any) -> None:
        """Buffer a frame. After calling this you must write `data_to_send()`."""
        self.out.append(encode(type_, *fields))

    def send_batch(self, type_: FrameType, *fields: Any) -> None:
        """`send`, for a frame that carries bodies."""
        encode_batch(self.out, type_, *fields)

    def close(self, code: int, text: str) -> None:
        """Buffer CLOSE; what is received from now on does not count. Without effect when already closing."""
        if self.state not in (State.CLOSING, State.LEAVING, State.CLOSED):
            self.state = State.CLOSING
            self.send(FrameType.CLOSE, code, text)

    def answer_close(self) -> None:
        """Buffer CLOSED in answer to a CLOSE event: the last frame of this connection."""
        self.send(FrameType.CLOSED)
        self.state = State.CLOSED

    def data_to_send(self) -> list[bytes]:
        """What is to be written now, in order."""
        self._sent = self._sent or bool(self.out)
        out, self.out = self.out, []
        return out

    # Heartbeats (section 4 of the document)

    def tick(self, now_s: float) -> bool:
        """Note the time, send PING when it is due. False: the peer is dead, drop the connection.

        Call it at `next_deadline` or more often, before `data_to_send`.
        """
        if self._received or self._last_received_s is None:
            self._last_received_s = now_s
            self._received = False
        if self._sent:
            self._last_sent_s = now_s
            self._sent = False
        if not self.heartbeat_s or self.state is not State.OPEN:
            return True
        if now_s - self._last_sent_s >= self.heartbeat_s / 2:
            self.send(FrameType.PING)
            self._last_sent_s = now_s
        return now_s - self._last_received_s < self.heartbeat_s

    def next_deadline(self, now_s: float) -> float | None:
        """When `tick` must be called next; None when there are no heartbeats."""
        return now_s + self.heartbeat_s / 4 if self.heartbeat_s else None

    def excuse_silence(self) -> None:
        """The owner stopped reading: that nothing comes does not mean that the peer is dead."""
        self._received = True


class ServerConnection(NativeConnection):
    """The broker's side.

    Events besides the frames of an open connection: HELLO (answer it with `welcome` or `close`), CLOSE
    (answer it with `answer_close`), CLOSED, FAILED. CHANNEL_OPEN and CHANNEL_CLOSE come only when they are in
    order; answer them with `answer` (or `refuse_channel`) and `answer_channel_close`. `[PUBLISH, channel,
    publish_tag, runs]` is all that one or more frames in a row publish, see `publishes`.
    """

    def __init__(
        self,
        *,
        message_max: int = MESSAGE_MAX_BYTES,
        channel_max: int = CHANNEL_MAX,
        heartbeat_s: int = HEARTBEAT_S,
    ) -> None:
        super().__init__(State.MAGIC, PublishReader(HANDSHAKE_FRAME_MAX_BYTES))
        self.message_max = message_max
        self.frame_max = message_max + FRAME_OVERHEAD_BYTES
        self.channel_max = channel_max
        self._magic = b""
        self._heartbeat_offer_s = heartbeat_s
        self._channels: dict[int, int] = {}  # open ones: the next publish tag
        self._producers: set[int] = set()  # of the open ones: those where tags may be left out
        self._failed_channels: set[int] = set()  # CHANNEL_CLOSED is sent, CHANNEL_CLOSE not received
        self._closing_channels: set[int] = set()  # CHANNEL_CLOSE is with the owner

    def receive_data(self, data: bytes) -> list[Event]:
        if self.state is State.MAGIC:
            wanted = len(MAGIC) - len(self._magic)
            self._magic += data[:wanted]
            data = data[wanted:]
            if not MAGIC.startswith(self._magic):
                return self._refuse_magic()
            if len(self._magic) < len(MAGIC):
                return []
            self.state = State.HELLO
        return super().receive_data(data)

    def _refuse_magic(self) -> list[Event]:
        """Another version or another protocol (document, section 1.1): answer with what we speak."""
        self.out.append(MAGIC)
        self.state = State.CLOSED
        shown = self._magic.hex(" ")
        return [(FAILED, HardError(ReplyCode.NOT_IMPLEMENTED, f"the first octets {shown} are not ours"))]

    def welcome(self, hello: Sequence[Any], properties: dict[str, Any]) -> None:
        """Accept the login of a HELLO event. Raises HardError for limits that do not fit."""
        _, frame_max, channel_max, heartbeat_s, *_ = hello
        if frame_max and frame_max < self.frame_max:
            text = f"frame_max = {frame_max} is lower than {self.frame_max}, which a message may need"
            raise HardError(ReplyCode.NOT_ALLOWED, text)
        if channel_max:
            self.channel_max = min(channel_max, self.channel_max)
        self.heartbeat_s = _agreed_heartbeat_s(heartbeat_s, self._heartbeat_offer_s)
        self.state = State.OPEN
        self._reader.frame_max_bytes = self.frame_max
        limits = (self.frame_max, self.channel_max, self.heartbeat_s, self.message_max)
        self.send(FrameType.WELCOME, *limits, properties)

    def fail_channel(self, channel: int, code: int, text: str, operation: int = 0) -> None:
        """Tell the client that a channel closed by itself."""
        if self._channels.pop(channel, None) is not None:
            self._producers.discard(channel)
            self._failed_channels.add(channel)
            self.send(FrameType.CHANNEL_CLOSED, channel, code, text, operation)

    def _receive_frame(self, events: list[Event], frame: list[Any]) -> None:
        type_ = frame[0]
        if self.state is _OPEN and type_ == _PUBLISH:
            self._receive_publishes(events, frame)
            return
        if self.state is State.HELLO and type_ == FrameType.HELLO:
            self.state = State.LOGIN
        elif self.state is not State.OPEN or type_ == FrameType.HELLO:
            raise _unexpected(frame)
        elif not self._admit_request(frame):
            return
        events.append(frame)

    def _receive_publishes(self, events: list[Event], frame: list[Any]) -> None:
        """A PUBLISH counts if its channel is open. Raises when a tag is missing that may not be."""
        _, channel, publish_tag, runs = frame
        expected = self._channels.get(channel)
        if expected is None:
            if channel in self._failed_channels:
                return
            raise HardError(ReplyCode.CHANNEL_ERROR, f"PUBLISH on channel {channel}, which is not open")
        if publish_tag != expected and not (publish_tag > expected and channel in self._producers):
            raise HardError(
                ReplyCode.SYNTAX_ERROR,
                f"PUBLISH: publish_tag {publish_tag} on channel {channel}, {expected} is next",
            )
        next_tag = publish_tag
        for _, bodies in runs:
            next_tag += len(bodies)
        self._channels[channel] = next_tag
        if next_tag > TAG_MAX:
            raise HardError(ReplyCode.SYNTAX_ERROR, f"PUBLISH: no tag is left on channel {channel}")
        before = events[-1] if events and publish_tag == expected else _NOTHING
        if before[0] == _PUBLISH and before[1] == channel:
            append_runs(before[3], runs)
        else:
            events.append(frame)

    def _admit_request(self, frame: list[Any]) -> bool:
        """Whether a request concerns the owner. Keeps the channels' states, and answers what they forbid."""
        type_, request, channel = frame[0], frame[1], frame[2]
        if type_ == FrameType.CHANNEL_OPEN:
            return self._admit_channel_open(frame)
        if type_ == FrameType.CHANNEL_CLOSE and channel in self._failed_channels:
            self._failed_channels.discard(channel)
            self.answer(request)
            return False
        if channel not in self._channels:
            self.answer_error(request, ReplyCode.CHANNEL_ERROR, f"channel {channel} is not open", type_)
            return False
        if type_ == FrameType.CHANNEL_CLOSE:
            del self._channels[channel]
            self._producers.discard(channel)
            self._closing_channels.add(channel)
        return True

    def _admit_channel_open(self, frame: list[Any]) -> bool:
        type_, request, channel, confirm, producer, _ = frame
        if channel in self._channels or channel in self._failed_channels | self._closing_channels:
            self.answer_error(request, ReplyCode.CHANNEL_ERROR, "second CHANNEL_OPEN seen", type_)
        elif not 1 <= channel <= self.channel_max:
            text = f"channel {channel} is not in the range of 1 to channel_max ({self.channel_max})"
            self.answer_error(request, ReplyCode.NOT_ALLOWED, text, type_)
        elif producer and not confirm:
            text = "a producer needs a channel with confirm"
            self.answer_error(request, ReplyCode.PRECONDITION_FAILED, text, type_)
        elif len(producer) > PRODUCER_MAX_BYTES:
            text = f"a producer's id of {len(producer)} octets is longer than {PRODUCER_MAX_BYTES}"
            self.answer_error(request, ReplyCode.PRECONDITION_FAILED, text, type_)
        else:
            self._channels[channel] = 1
            if producer:
                self._producers.add(channel)
            return True
        return False

    def refuse_channel(self, request: int, channel: int, code: ReplyCode, explanation: str) -> None:
        """ERROR to a CHANNEL_OPEN event: it is not open after all."""
        del self._channels[channel]
        self._producers.discard(channel)
        self.answer_error(request, code, explanation, FrameType.CHANNEL_OPEN)

    def answer_channel_close(self, request: int, channel: int) -> None:
        """REPLY to CHANNEL_CLOSE: from now on the number may be used again."""
        self._closing_channels.discard(channel)
        self.answer(request)

    def answer(self, request: int, *values: Any) -> None:
        """REPLY to a request, if it wants an answer."""
        if request:
            self.send(FrameType.REPLY, request, values)

    def answer_error(self, request: int, code: ReplyCode, explanation: str, operation: int) -> None:
        """ERROR to a request, if it wants an answer."""
        if request:
            self.send(FrameType.ERROR, request, code, f"{code.name} - {explanation}", operation)


class ClientConnection(NativeConnection):
    """The client's side.

    Events besides the frames of an open connection: WELCOME, CLOSE (answer it with `answer_close`), CLOSED,
    FAILED.
    """

    def __init__(self) -> None:
        super().__init__(State.HELLO, FrameReader(Role.SERVER, HANDSHAKE_FRAME_MAX_BYTES))
        self.channel_max = 0  # set by WELCOME
        self.frame_max = 0
        self.message_max = 0
        self._first_octets = b""  # until it is clear that the server speaks our version

    def hello(
        self,
        user: str,
        password: str,
        vhost: str,
        *,
        heartbeat_s: int,
        frame_max: int,
        properties: dict[str, Any],
    ) -> None:
        """Buffer the magic and HELLO: the first thing to do."""
        response = f"\0{user}\0{password}".encode()
        self.out.append(MAGIC)
        self.send(FrameType.HELLO, frame_max, 0, heartbeat_s, "PLAIN", response, vhost, properties)

    def receive_data(self, data: bytes) -> list[Event]:
        if self._first_octets is not None and self.state is State.HELLO:
            self._first_octets += data[: len(MAGIC)]
            refusal = _magic_refusal(self._first_octets)
            if refusal is not None:
                self.state = State.CLOSED
                return [(FAILED, refusal)]
        return super().receive_data(data)

    def _receive_frame(self, events: list[Event], frame: list[Any]) -> None:
        if self.state is State.HELLO:
            if frame[0] != FrameType.WELCOME:
                raise _unexpected(frame)
            _, self.frame_max, self.channel_max, self.heartbeat_s, self.message_max, _ = frame
            self._reader.frame_max_bytes = self.frame_max
            self.state = State.OPEN
        elif frame[0] == FrameType.WELCOME:
            raise _unexpected(frame)
        events.append(frame)


def _magic_refusal(octets: bytes) -> HardError | None:
    """What it means that a server begins with these octets; None: it is a frame, or too few to say."""
    if octets.startswith(b"AMQP"):
        return HardError(ReplyCode.NOT_IMPLEMENTED, "the server speaks AMQP only, not the native framing")
    if octets.startswith(MAGIC[:-1]) and len(octets) >= len(MAGIC):
        text = (
            f"the server speaks version {octets[len(MAGIC) - 1]} of the native framing, this client {VERSION}"
        )
        return HardError(ReplyCode.NOT_IMPLEMENTED, text)
    if octets[:1] not in (b"", b"\0", b"A", MAGIC[:1]):  # no frame that short begins like this
        return HardError(ReplyCode.NOT_IMPLEMENTED, "what answers there does not speak the native framing")
    return None


def _agreed_heartbeat_s(asked_s: int, offered_s: int) -> int:
    """The shorter interval; a side that wants none leaves it to the other."""
    return min(asked_s, offered_s) if asked_s and offered_s else max(asked_s, offered_s)


def _unexpected(frame: Sequence[Any]) -> HardError:
    return HardError(ReplyCode.UNEXPECTED_FRAME, f"{LAYOUTS[frame[0]].type.name} is not expected now")
