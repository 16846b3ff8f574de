"""The client side of an AMQP connection for tests without sockets: bytes to feed, answers taken apart."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leveret.protocol.amqp.connection import PROTOCOL_HEADER, ServerConnection
from leveret.protocol.amqp.events import OPEN, PUBLISH, START_OK, Event
from leveret.protocol.amqp.frames import (
    CONTENT_HEADER,
    FRAME_END,
    FRAME_HEADER,
    HEADER_FRAME,
    HEARTBEAT_FRAME,
    METHOD_FRAME,
    content_frames,
    method_frame,
)
from leveret.protocol.amqp.methods import (
    BasicPublish,
    ChannelOpen,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTuneOk,
    decode_method,
)
from leveret.protocol.amqp.wire_types import Method

FRAME_MAX = 131072
MESSAGE_SIZE_MAX = 1 << 20

PERSISTENT = b"\x10\x00\x02"
"""The property list of a message with delivery-mode 2."""

LOGIN = PROTOCOL_HEADER + method_frame(0, ConnectionStartOk(mechanism="PLAIN", response=b"\0guest\0guest"))


class Heartbeat(NamedTuple):
    """A heartbeat frame."""


class Content(NamedTuple):
    """A content header, or with `properties` None a body frame."""

    properties: bytes | None
    body_size: int
    body: bytes


Answer = tuple[int, Method | Content | Heartbeat]


def tune_ok(channel_max: int = 2047, frame_max: int = FRAME_MAX, heartbeat: int = 60) -> bytes:
    return method_frame(
        0, ConnectionTuneOk(channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat)
    )


def vhost_open(name: str = "/") -> bytes:
    return method_frame(0, ConnectionOpen(virtual_host=name))


def publish(
    channel_id: int,
    body: bytes = b"",
    *,
    exchange: str = "",
    routing_key: str = "q",
    properties: bytes = PERSISTENT,
    frame_max: int = FRAME_MAX,
    mandatory: bool = False,
    immediate: bool = False,
) -> bytes:
    """The frames of a publish."""
    method = BasicPublish(
        exchange=exchange, routing_key=routing_key, mandatory=mandatory, immediate=immediate
    )
    return method_frame(channel_id, method) + content_frames(channel_id, properties, body, frame_max)


def new_connection(
    *, channel_max: int = 2047, frame_max: int = FRAME_MAX, heartbeat_s: int = 60
) -> ServerConnection:
    """A server's connection that has seen no byte."""
    return ServerConnection(
        server_properties={"product": "test"},
        mechanisms="PLAIN AMQPLAIN",
        channel_max=channel_max,
        frame_max_bytes=frame_max,
        heartbeat_s=heartbeat_s,
        message_size_max_bytes=MESSAGE_SIZE_MAX,
    )


def answer_all(connection: ServerConnection, pieces: Iterable[bytes]) -> list[Event]:
    """Feed pieces, accepting every login and vhost on the way; returns the events."""
    events = []
    for piece in pieces:
        for event in one_by_one(connection.receive_data(piece)):
            events.append(event)
            if event[0] == START_OK:
                connection.tune()
            elif event[0] == OPEN:
                connection.open_ok()
    return events


def one_by_one(events: Iterable[Event]) -> Iterator[Event]:
    """With an event for each publish, however many came together."""
    for event in events:
        if event[0] == PUBLISH:
            *publish, bodies = event
            yield from ((*publish, body) for body in bodies)
        else:
            yield event


def running_connection(
    *channel_ids: int, heartbeat: int = 60, frame_max: int = FRAME_MAX
) -> ServerConnection:
    """A connection after connection.open-ok, with these channels open and nothing left to send."""
    connection = new_connection(frame_max=frame_max)
    answer_all(connection, [LOGIN + tune_ok(heartbeat=heartbeat, frame_max=frame_max) + vhost_open()])
    answer_all(connection, [method_frame(channel_id, ChannelOpen()) for channel_id in channel_ids])
    connection.data_to_send()
    return connection


def answers(pieces: Iterable[bytes]) -> list[Answer]:
    """What a server sent, frame by frame: (channel id, method or content)."""
    data = b"".join(pieces)
    found: list[Answer] = []
    position = 0
    while position < len(data):
        frame_type, channel_id, size = FRAME_HEADER.unpack_from(data, position)
        start = position + FRAME_HEADER.size
        payload = data[start : start + size]
        assert len(payload) == size
        assert data[start + size] == FRAME_END
        found.append((channel_id, _read(frame_type, payload)))
        position = start + size + 1
    return found


def _read(frame_type: int, payload: bytes) -> Method | Content | Heartbeat:
    if frame_type == METHOD_FRAME:
        return decode_method(payload)
    if frame_type == HEARTBEAT_FRAME:
        return Heartbeat()
    if frame_type == HEADER_FRAME:
        _, _, size = CONTENT_HEADER.unpack_from(payload)
        return Content(payload[CONTENT_HEADER.size :], size, b"")
    return Content(None, 0, payload)
