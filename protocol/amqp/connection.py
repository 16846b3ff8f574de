"""A connection as the server speaks it, without I/O: bytes in, events out; answers become bytes to send.

The owner (a session) iterates over `receive_data` and answers between two events; what it answers counts for
the bytes that follow, so that a channel it closes is silent from the very next frame. `receive_data` never
raises: a protocol error is the event FAILED. `events.py` lists the events and how to answer them.

Invariants:
- Every byte is looked at a constant number of times, and the events are the same, however the input is cut.
- A frame larger than negotiated and a body larger than allowed are refused before they are collected.
- After FAILED and CLOSE nothing is read until we have answered, after our close only close and close-ok.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from struct import Struct

from ..errors import AmqpError, HardError
from ..reply_codes import ReplyCode
from .channels import Channels, ChannelState
from .events import ACK, CLOSE, CLOSE_OK, FAILED, METHOD, OPEN, PUBLISH, START_OK, Event
from .field_table import FieldTable
from .frames import (
    BODY_FRAME,
    CLASS_BASIC,
    CONTENT_HEADER,
    FRAME_END,
    FRAME_HEADER,
    FRAME_MIN_SIZE,
    FRAME_OVERHEAD,
    HEADER_FRAME,
    HEARTBEAT_FRAME,
    HEARTBEAT_OCTETS,
    METHOD_FRAME,
    method_frame,
)
from .heartbeat import Heartbeat
from .methods import (
    BasicAck,
    BasicPublish,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUpdateSecret,
    decode_method,
)
from .wire_types import Method

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_ACCEPTED_HEADERS = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")  # the second is how 0-9 announced itself

_FRAME_TYPES = frozenset((METHOD_FRAME, HEADER_FRAME, BODY_FRAME, HEARTBEAT_FRAME))
_SHOWN_OCTETS = 16  # of a payload in an error text

_IDS = Struct(">HH")
_TAG_AND_BITS = Struct(">QB")
_ACK_PAYLOAD_SIZE = _IDS.size + _TAG_AND_BITS.size
_TO_PROPERTIES = Struct(">BBHIHHQ")  # end of the method's frame, frame header, content header
_TO_BODY = Struct(">BBHI")  # end of the header's frame, frame header


class ConnectionState(Enum):
    """Named as RabbitMQ names them in error texts."""

    AWAITING_HEADER = "awaiting_header"
    STARTING = "starting"  # start was sent
    TUNING = "tuning"  # tune was sent
    OPENING = "opening"  # tune-ok has come
    RUNNING = "running"
    DECIDING = "deciding"  # our side has the word: login, vhost
    STOPPED = "stopped"  # our side has the word: after CLOSE or FAILED; nothing is read
    CLOSING = "closing"  # close was sent
    CLOSED = "closed"


class ServerConnection:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        server_properties: FieldTable,
        mechanisms: str,
        channel_max: int,
        frame_max_bytes: int,
        heartbeat_s: int,
        message_size_max_bytes: int,
    ) -> None:
        """The numbers are what tune proposes; `frame_max_bytes` and `channel_max` are also upper limits."""
        self.out: list[bytes] = []
        """What is to be sent, in order; renderers append to it."""
        self.frame_max_bytes = FRAME_MIN_SIZE  # in force now; nothing larger may come before tuning
        self._state = ConnectionState.AWAITING_HEADER
        self._channels = Channels(message_size_max_bytes, self.out)
        self._tune = ConnectionTune(channel_max=channel_max, frame_max=frame_max_bytes, heartbeat=heartbeat_s)
        self._start = ConnectionStart(server_properties=server_properties, mechanisms=mechanisms.encode())
        self._heartbeat = Heartbeat()
        self._is_deaf = False  # nothing more is read: closed, or framing is lost
        self._tail = bytearray()  # an incomplete frame
        self._tail_needs = 0  # how long the tail must be before it is worth looking at
        self._next = 0  # where the publish that was just read in one go ends

    @property
    def heartbeat_s(self) -> int:
        """As negotiated; 0 until then and for none."""
        return self._heartbeat.interval_s

    @property
    def is_deaf(self) -> bool:
        """Nothing more is read, not even a close-ok."""
        return self._is_deaf

    @property
    def is_receiving_content(self) -> bool:
        """A publish has begun and not ended."""
        return self._channels.is_receiving_content

    @property
    def is_closed(self) -> bool:
        """All is said: send what is left, then close the socket."""
        return self._state is ConnectionState.CLOSED

    # Bytes in

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """The events in these bytes. To be exhausted before the next call."""
        self._heartbeat.has_heard = True
        if self._tail:
            self._tail += data
            if len(self._tail) < self._tail_needs:
                return
            data = bytes(self._tail)
            self._tail.clear()
        position = 0
        if self._state is ConnectionState.AWAITING_HEADER:
            position = self._read_protocol_header(data)
        size = len(data)
        needed = FRAME_OVERHEAD
        states, is_open = self._channels.states, ChannelState.OPEN
        while not self._is_deaf and size - position >= FRAME_OVERHEAD:
            event: Event | None = None
            try:
                frame_type, channel_id, length = FRAME_HEADER.unpack_from(data, position)
                start = position + FRAME_HEADER.size
                end = start + length  # where the end octet is
                if length > self.frame_max_bytes:  # RabbitMQ tolerates the 8 octets around a payload
                    limit = self.frame_max_bytes - FRAME_OVERHEAD
                    raise self._lose_framing(frame_type, b"", f"{{frame_too_large,{length},{limit}}}")
                if end >= size:
                    needed = end + 1 - position
                    break
                if frame_type == METHOD_FRAME and states.get(channel_id) is is_open:
                    event = self._read_hot(data, channel_id, start, end)
                if event is not None:
                    position = self._next
                else:
                    position = end + 1
                    event = self._read_frame(frame_type, channel_id, data[start:end], data[end])
            except HardError as error:
                event = self._fail(error)
            if event is not None:
                yield event
        if position < size and not self._is_deaf:
            self._tail += data[position:]
            self._tail_needs = needed

    def _read_protocol_header(self, data: bytes) -> int:
        """Returns how many octets are done with."""
        header = data[: len(PROTOCOL_HEADER)]
        if header in _ACCEPTED_HEADERS:
            self.out.append(method_frame(0, self._start))
            self._state = ConnectionState.STARTING
            return len(header)
        if not any(accepted.startswith(header) for accepted in _ACCEPTED_HEADERS):
            # 0-9-1 section 4.2.2: answer with the header we would accept, then close the socket.
            self.out.append(PROTOCOL_HEADER)
            self._close()
        return 0

    def _read_hot(self, data: bytes, channel_id: int, start: int, end: int) -> Event | None:
        """A publish or an ack, if all of it is there and as it should be; sets `_next`. Else does nothing."""
        ids = data[start : start + 4]
        if ids == _PUBLISH:
            return self._read_publish(data, channel_id, start, end)
        if ids == _ACK and end - start == _ACK_PAYLOAD_SIZE and data[end] == FRAME_END:
            delivery_tag, bits = _TAG_AND_BITS.unpack_from(data, start + 4)
            self._next = end + 1
            return (ACK, channel_id, delivery_tag, bits & 1 == 1)
        return None

    def _read_publish(self, data: bytes, channel_id: int, start: int, end: int) -> Event | None:
        """A publish in three frames (two, if it is empty) in one go, and those behind it that are as long and
        differ from it in nothing but the body: with 1 KiB they cost a quarter of the first.
        """
        if len(data) - end < _TO_PROPERTIES.size + _TO_BODY.size:
            return None
        end_octet, frame_type, number, header_size, class_id, _, size = _TO_PROPERTIES.unpack_from(data, end)
        header_end = end + FRAME_OVERHEAD + header_size
        if (
            end_octet != FRAME_END
            or frame_type != HEADER_FRAME
            or number != channel_id
            or class_id != CLASS_BASIC
            or not CONTENT_HEADER.size <= header_size <= self.frame_max_bytes
            or size > self._channels.message_size_max_bytes
        ):
            return None
        bodies = [b""]
        if size:
            if len(data) - header_end <= _TO_BODY.size + size:
                return None
            end_octet, frame_type, number, body_size = _TO_BODY.unpack_from(data, header_end)
            if (
                end_octet != FRAME_END
                or frame_type != BODY_FRAME
                or number != channel_id
                or body_size != size
                or size > self.frame_max_bytes
            ):
                return None
            body_start = header_end + _TO_BODY.size
            body_end = body_start + size
            if data[body_end] != FRAME_END:
                return None
            bodies = [data[body_start:body_end]]
            self._next = body_end + 1
            head = data[start - FRAME_HEADER.size : body_start]
            if data.startswith(head, self._next):
                self._read_alike(data, head, bodies)
        elif len(data) <= header_end or data[header_end] != FRAME_END:
            return None
        else:
            self._next = header_end + 1
        exchange, routing_key, mandatory, immediate = self._channels.publish_arguments(data[start:end])
        properties = data[end + _TO_PROPERTIES.size : header_end]
        return (PUBLISH, channel_id, exchange, routing_key, mandatory, immediate, properties, bodies)

    def _read_alike(self, data: bytes, head: bytes, bodies: list[bytes]) -> None:
        """Collect the bodies of the publishes that begin like the one that was read."""
        position, size = self._next, len(data)
        head_size, body_size = len(head), len(bodies[0])
        while data.startswith(head, position):
            body_end = position + head_size + body_size
            if body_end >= size or data[body_end] != FRAME_END:
                break
            bodies.append(data[position + head_size : body_end])
            position = body_end + 1
        self._next = position

    def _read_frame(self, frame_type: int, channel_id: int, payload: bytes, end_octet: int) -> Event | None:
        """Any frame in any state."""
        if end_octet != FRAME_END:
            raise self._lose_framing(frame_type, payload, f"{{invalid_frame_end_marker,{end_octet}}}")
        if self._state is ConnectionState.STOPPED:
            return None
        if self._state is ConnectionState.CLOSING:
            return self._read_closing(frame_type, channel_id, payload)
        if frame_type not in _FRAME_TYPES:
            raise self._lose_framing(frame_type, payload, "unknown_frame")
        if frame_type == HEARTBEAT_FRAME and channel_id == 0:
            return None
        if frame_type == METHOD_FRAME and channel_id == 0:
            return self._read_connection_method(payload)
        if frame_type == HEARTBEAT_FRAME or channel_id == 0 or self._state is not ConnectionState.RUNNING:
            raise HardError(ReplyCode.UNEXPECTED_FRAME, _describe(frame_type, payload))
        return self._channels.receive(channel_id, frame_type, payload)

    def _read_connection_method(self, payload: bytes) -> Event | None:
        method = decode_method(payload)
        handle = _PEER_METHODS.get(self._state, {}).get(type(method))
        if handle is None:
            raise HardError(
                ReplyCode.CHANNEL_ERROR,
                f"unexpected method in connection state {self._state.value}",
                method.ids,
            )
        return handle(self, method)

    def _read_closing(self, frame_type: int, channel_id: int, payload: bytes) -> Event | None:
        """After our close everything but the peer's close and close-ok is dropped (section 1.4.2.10)."""
        if frame_type != METHOD_FRAME or channel_id != 0:
            return None
        ids = payload[:4]
        if ids == _CLOSE:
            self.out.append(method_frame(0, ConnectionCloseOk()))
        elif ids != _CLOSE_OK:
            return None
        self._close()
        return (CLOSE_OK,)

    def _lose_framing(self, frame_type: int, payload: bytes, reason: str) -> HardError:
        """Where the next frame starts is unknown: nothing more can be read."""
        self._is_deaf = True
        return HardError(ReplyCode.FRAME_ERROR, f"{_describe(frame_type, payload)}: {reason}")

    def _fail(self, error: HardError) -> Event | None:
        if self._state is ConnectionState.CLOSING:
            self._close()
            return (CLOSE_OK,)
        if self._state is ConnectionState.STOPPED:
            return None
        self.ignore_peer()
        return (FAILED, error)

    # What the peer may say on channel 0

    def _on_start_ok(self, method: Method) -> Event:
        assert isinstance(method, ConnectionStartOk)
        self._state = ConnectionState.DECIDING
        return (START_OK, method.mechanism, method.response, method.client_properties)

    def _on_tune_ok(self, method: Method) -> None:
        assert isinstance(method, ConnectionTuneOk)
        tune = self._tune
        _check_negotiated("frame_max", method.frame_max, FRAME_MIN_SIZE, tune.frame_max)
        _check_negotiated("channel_max", method.channel_max, 1, tune.channel_max)
        self.frame_max_bytes = method.frame_max
        self._channels.count_max = method.channel_max
        self._heartbeat.interval_s = method.heartbeat
        self._state = ConnectionState.OPENING

    def _on_open(self, method: Method) -> Event:
        assert isinstance(method, ConnectionOpen)
        self._state = ConnectionState.DECIDING
        return (OPEN, method.virtual_host)

    def _on_close(self, method: Method) -> Event:
        assert isinstance(method, ConnectionClose)
        self.ignore_peer()
        return (CLOSE, method.reply_code, method.reply_text)

    def _on_update_secret(self, method: Method) -> Event:
        return (METHOD, 0, method)

    # Answers

    def tune(self) -> None:
        """The login is accepted."""
        self.out.append(method_frame(0, self._tune))
        self._state = ConnectionState.TUNING

    def open_ok(self) -> None:
        """The vhost is accepted."""
        self.out.append(method_frame(0, ConnectionOpenOk()))
        self._state = ConnectionState.RUNNING

    def ignore_peer(self) -> None:
        """Drop all channels and read nothing more; the owner closes the socket when it likes."""
        self._channels.clear()
        self._state = ConnectionState.STOPPED

    def send_method(self, channel_id: int, method: Method) -> None:
        self.out.append(method_frame(channel_id, method))

    def close_channel(self, channel_id: int, error: AmqpError) -> None:
        """Send channel.close; the channel is silent until the peer has confirmed it."""
        self._channels.close(channel_id, error)

    def send_close(self, error: AmqpError) -> None:
        """Send connection.close; all channels are gone, and only the peer's close-ok is waited for."""
        if self._state is ConnectionState.AWAITING_HEADER:  # nobody has said yet that this is AMQP
            self._close()
            return
        class_id, method_id = error.method
        close = ConnectionClose(
            reply_code=error.reply_code, reply_text=error.reply_text, class_id=class_id, method_id=method_id
        )
        self.out.append(method_frame(0, close))
        self._channels.clear()
        self._state = ConnectionState.CLOSING

    def close_ok(self) -> None:
        """Answer the peer's close."""
        self.out.append(method_frame(0, ConnectionCloseOk()))
        self._close()

    def _close(self) -> None:
        self._channels.clear()
        self._tail.clear()
        self._is_deaf = True
        self._state = ConnectionState.CLOSED

    # Bytes out, time

    def data_to_send(self) -> list[bytes]:
        """Everything buffered since the last call, in order."""
        pieces = self.out[:]
        self.out.clear()
        if pieces:
            self._heartbeat.has_sent = True
        return pieces

    def tick(self, now_s: float, *, is_reading: bool = True) -> bool:
        """To be called every now and then: buffers a heartbeat when one is due.

        Returns False when the peer has been silent for too long. It cannot be blamed while we do not read.
        """
        heartbeat = self._heartbeat
        if not is_reading:
            heartbeat.has_heard = True
        if heartbeat.is_due(now_s) and self._state is not ConnectionState.CLOSED:
            self.out.append(HEARTBEAT_OCTETS)
        return not heartbeat.is_missed(now_s)


_PUBLISH = _IDS.pack(*BasicPublish.ids)
_ACK = _IDS.pack(*BasicAck.ids)
_CLOSE = _IDS.pack(*ConnectionClose.ids)
_CLOSE_OK = _IDS.pack(*ConnectionCloseOk.ids)

_Handler = Callable[[ServerConnection, Method], Event | None]
_ALWAYS: dict[type[Method], _Handler] = {ConnectionClose: ServerConnection._on_close}

_PEER_METHODS: dict[ConnectionState, dict[type[Method], _Handler]] = {
    ConnectionState.STARTING: {ConnectionStartOk: ServerConnection._on_start_ok} | _ALWAYS,
    ConnectionState.TUNING: {ConnectionTuneOk: ServerConnection._on_tune_ok} | _ALWAYS,
    ConnectionState.OPENING: {ConnectionOpen: ServerConnection._on_open} | _ALWAYS,
    ConnectionState.RUNNING: {ConnectionUpdateSecret: ServerConnection._on_update_secret} | _ALWAYS,
    ConnectionState.DECIDING: _ALWAYS,
}


def _check_negotiated(name: str, value: int, minimum: int, maximum: int) -> None:
    """RabbitMQ's rules; 0 means no limit on either side."""
    if value and value < minimum:
        raise HardError(
            ReplyCode.NOT_ALLOWED,
            f"negotiated {name} = {value} is lower than the minimum allowed value ({minimum})",
            ConnectionTuneOk.ids,
        )
    if maximum and not 0 < value <= maximum:
        shown = value or "0 (no limit)"
        raise HardError(
            ReplyCode.NOT_ALLOWED,
            f"negotiated {name} = {shown} is higher than the maximum allowed value ({maximum})",
            ConnectionTuneOk.ids,
        )


def _describe(frame_type: int, payload: bytes) -> str:
    """As RabbitMQ shows a frame in an error text."""
    which = "all" if len(payload) <= _SHOWN_OCTETS else f"first {_SHOWN_OCTETS}"
    return f"type {frame_type}, {which} octets = <<{','.join(map(str, payload[:_SHOWN_OCTETS]))}>>"
