"""The native framing as a stream: however it is cut, whatever it contains."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from leveret.protocol.native.connection import FAILED, ClientConnection, NativeConnection, ServerConnection
from leveret.protocol.native.fields import PRODUCER_MAX_BYTES
from leveret.protocol.native.framing import MAGIC, encode
from leveret.protocol.native.layouts import LAYOUTS, FrameType, Role
from leveret.protocol.native.tags import pack_tags

names = st.text(max_size=20)
argument_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | names
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(names, argument_values, max_size=3)
publish = st.tuples(names, names, st.integers(0, 1), st.binary(max_size=20), st.binary(max_size=200)).map(
    list
)
tags = st.lists(st.integers(1, 1000) | st.tuples(st.just(0), st.integers(0, 1000)).map(list), max_size=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "u8": st.integers(0, 2**8 - 1),
    "u16": st.integers(0, 2**16 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "?u16": st.none() | st.integers(0, 2**16 - 1),
    "flag": st.booleans(),
    "name": names,
    "text": names,
    "bin": st.binary(max_size=50),
    "table": arguments,
    "tags": tags,
    "publishes": st.lists(publish, max_size=3),
}
REQUESTS = [layout for layout in LAYOUTS.values() if layout.is_request]


@st.composite
def requests(draw: st.DrawFn) -> list[Any]:
    """Any request, on channel 1."""
    layout = draw(st.sampled_from(REQUESTS))
    values = [draw(VALUES[field.type.name]) for field in layout.fields]
    values[1] = 1
    return [layout.type.value, *values]


def open_server() -> ServerConnection:
    server = ServerConnection()
    opening = MAGIC + encode(FrameType.HELLO, 0, 0, 0, "PLAIN", b"", "/")
    server.welcome(server.receive_data(opening)[0], {})
    server.data_to_send()
    return server


def open_client() -> ClientConnection:
    client = ClientConnection()
    client.hello("", "", "/", heartbeat_s=0, frame_max=0, properties={})
    client.receive_data(encode(FrameType.WELCOME, 1 << 20, 100, 0, 1 << 20))
    client.data_to_send()
    return client


def outcome(connection: NativeConnection, pieces: Sequence[bytes]) -> tuple[list[Any], bytes]:
    """Everything that can be seen of it: events and answers."""
    events = [event for piece in pieces for event in connection.receive_data(piece)]
    first_failure = next((n for n, event in enumerate(events) if event[0] == FAILED), len(events))
    told = [
        list(event) if event[0] != FAILED else [FAILED, str(event[1])]
        for event in events[: first_failure + 1]
    ]
    return told, b"".join(connection.data_to_send())


def cut(data: bytes, at: list[int]) -> list[bytes]:
    borders = [0, *sorted(border % (len(data) + 1) for border in at), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


@given(st.lists(requests(), max_size=5), st.lists(st.integers(0, 10**6), max_size=8), st.binary(max_size=10))
def test_a_stream_means_the_same_however_it_is_cut(
    frames: list[list[Any]], at: list[int], rest: bytes
) -> None:
    stream = encode(FrameType.CHANNEL_OPEN, 1, 1) + b"".join(encode(*frame) for frame in frames) + rest
    whole = outcome(open_server(), [stream])
    assert outcome(open_server(), cut(stream, at)) == whole
    assert outcome(open_server(), [bytes([octet]) for octet in stream]) == whole


few_headers = st.sampled_from(
    [("", "q", 0, b"\x10\x00\x02"), ("", "q", 1, b"\x10\x00\x02"), ("x", "k", 0, b"\0\0")]
)
alike = st.tuples(few_headers, st.integers(1, 6), st.sampled_from([0, 3, 300])).map(
    lambda drawn: [[*drawn[0], bytes([number]) * drawn[2]] for number in range(drawn[1])]
)


@given(
    st.lists(alike | st.lists(publish, max_size=3), max_size=12), st.lists(st.integers(0, 10**6), max_size=4)
)
def test_publishes_arrive_as_they_were_sent_however_they_are_merged(
    batches: list[list[list[Any]]], at: list[int]
) -> None:
    server = open_server()
    stream, tag = encode(FrameType.CHANNEL_OPEN, 1, 1), 1
    for entries in batches:
        stream += encode(FrameType.PUBLISH, 1, tag, entries)
        tag += len(entries)
    arrived, next_tag = [], 1
    for piece in cut(stream, at):
        for type_, _, first_tag, *rest in server.receive_data(piece):
            if type_ == FrameType.PUBLISH:
                assert first_tag == next_tag
                arrived += [[*header, body] for header, bodies in rest[0] for body in bodies]
                next_tag = 1 + len(arrived)
    assert arrived == [entry for entries in batches for entry in entries]


@given(requests())
def test_a_request_arrives_as_it_was_sent(frame: list[Any]) -> None:
    server = open_server()
    if frame[0] == FrameType.CHANNEL_OPEN:
        frame[4] = frame[4][:PRODUCER_MAX_BYTES]
        frame[3] |= bool(frame[4])  # a producer needs confirms
    else:
        server.receive_data(encode(FrameType.CHANNEL_OPEN, 1, 1))
    assert server.receive_data(encode(*frame)) == [frame]


@given(st.binary(max_size=200))
def test_arbitrary_octets_never_raise(data: bytes) -> None:
    for connection in (ServerConnection(), open_server(), open_client(), ClientConnection()):
        connection.receive_data(data)
    server = ServerConnection()
    server.receive_data(MAGIC + data)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | names
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(names, inner, max_size=3),
    max_leaves=20,
)


@given(st.sampled_from(sorted(LAYOUTS)), st.lists(anything, max_size=9))
def test_any_msgpack_never_raises(type_: int, fields: list[Any]) -> None:
    payload = msgpack.packb([type_, *fields])
    frame = len(payload).to_bytes(4, "big") + payload
    for connection, peer in ((open_server(), Role.CLIENT), (open_client(), Role.SERVER)):
        events = connection.receive_data(frame)
        if not LAYOUTS[type_].sender & peer:
            assert events[-1][0] == FAILED


@given(st.sets(st.integers(1, 300)))
def test_a_packed_set_of_tags_has_the_same_members(members: set[int]) -> None:
    unpacked: list[int] = []
    for element in pack_tags(members):
        first, last = (element, element) if isinstance(element, int) else element
        unpacked.extend(range(first, last + 1))
    assert unpacked == sorted(members)
