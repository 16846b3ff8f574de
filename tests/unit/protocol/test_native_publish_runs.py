"""PUBLISH on the native framing: what is alike comes together, and nothing is lost by looking for it."""

from typing import Any

import msgpack
import pytest

from leveret.protocol.native.connection import FAILED, ServerConnection
from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.framing import LENGTH, MAGIC, bin_head, encode
from leveret.protocol.native.layouts import FrameType as F
from leveret.protocol.reply_codes import ReplyCode

JOB = ("", "job", 0, b"\x10\x00\x02")
OTHER = ("", "other", 1, b"\0\0")


@pytest.fixture
def server() -> ServerConnection:
    """With channels 1, 2 and, for a producer, 3."""
    server = ServerConnection()
    server.welcome(server.receive_data(MAGIC + encode(F.HELLO, 0, 0, 0, "PLAIN", b"", "/"))[0], {})
    for channel, producer in ((1, b""), (2, b""), (3, b"me")):
        server.receive_data(encode(F.CHANNEL_OPEN, 1, channel, True, producer))
    server.data_to_send()
    return server


def publish(channel: int, tag: int, *bodies: bytes, header: tuple[Any, ...] = JOB) -> bytes:
    return encode(F.PUBLISH, channel, tag, [(*header, body) for body in bodies])


def learnt(server: ServerConnection) -> ServerConnection:
    """It has seen two jobs of 4 octets on channel 1, and recognizes the next one."""
    server.receive_data(publish(1, 1, b"0001"))
    server.receive_data(publish(1, 2, b"0002"))
    return server


def framed(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload


def test_frames_in_a_row_come_together(server: ServerConnection) -> None:
    frames = [publish(1, 1, b"1"), publish(1, 2, b"2", b"3"), publish(1, 4, b"4"), publish(1, 5, b"55")]
    assert server.receive_data(b"".join(frames)) == [
        [F.PUBLISH, 1, 1, [(JOB, [b"1", b"2", b"3", b"4", b"55"])]]
    ]


def test_another_header_begins_another_run(server: ServerConnection) -> None:
    entries = [(*JOB, b"1"), (*JOB, b"2"), (*OTHER, b"3")]
    frames = encode(F.PUBLISH, 1, 1, entries) + publish(1, 4, b"4", header=OTHER) + publish(1, 5, b"5")
    [event] = server.receive_data(frames)
    assert event == [F.PUBLISH, 1, 1, [(JOB, [b"1", b"2"]), (OTHER, [b"3", b"4"]), (JOB, [b"5"])]]


def test_another_channel_and_another_frame_come_between(server: ServerConnection) -> None:
    frames = [publish(1, 1, b"1"), publish(2, 1, b"2"), publish(1, 2, b"3"), encode(F.QUEUE_PURGE, 9, 1, "q")]
    events = server.receive_data(b"".join([*frames, publish(1, 3, b"4")]))
    assert [(event[0], event[1]) for event in events] == [
        (F.PUBLISH, 1),
        (F.PUBLISH, 2),
        (F.PUBLISH, 1),
        (F.QUEUE_PURGE, 9),
        (F.PUBLISH, 1),
    ]
    assert [event[2] for event in events if event[0] == F.PUBLISH] == [1, 1, 2, 3]


def test_where_a_producer_leaves_tags_out_the_next_ones_come_apart(server: ServerConnection) -> None:
    events = server.receive_data(publish(3, 7, b"1") + publish(3, 8, b"2") + publish(3, 10, b"3"))
    assert events == [[F.PUBLISH, 3, 7, [(JOB, [b"1", b"2"])]], [F.PUBLISH, 3, 10, [(JOB, [b"3"])]]]


def test_an_empty_frame_is_an_event_without_runs(server: ServerConnection) -> None:
    assert server.receive_data(publish(1, 1)) == [[F.PUBLISH, 1, 1, []]]
    assert server.receive_data(publish(1, 1) + publish(1, 1, b"1")) == [[F.PUBLISH, 1, 1, [(JOB, [b"1"])]]]


@pytest.mark.parametrize(
    "tag", [b"\x03", b"\xcc\x03", b"\xcd\0\x03", b"\xce\0\0\0\x03", b"\xcf" + bytes(7) + b"\x03"]
)
@pytest.mark.parametrize("count", [b"\x92", b"\xdc\0\x02", b"\xdd\0\0\0\x02"])
@pytest.mark.parametrize("channel", [b"\x01", b"\xcc\x01", b"\xcd\0\x01"])
def test_integers_may_have_any_form(
    server: ServerConnection, tag: bytes, count: bytes, channel: bytes
) -> None:
    entries = b"".join(msgpack.packb((*JOB, body)) for body in (b"0003", b"0004"))
    events = learnt(server).receive_data(framed(b"\x94\x40" + channel + tag + count + entries))
    assert events == [[F.PUBLISH, 1, 3, [(JOB, [b"0003", b"0004"])]]]
    assert {type(body) for body in events[0][3][0][1]} == {bytes}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (publish(1, 9, b"0009"), ReplyCode.SYNTAX_ERROR),  # its tag
        (publish(7, 1, b"0001"), ReplyCode.CHANNEL_ERROR),
        (encode(F.PUBLISH, 1, 5, [(*JOB, b"0005"), ("", "job", 2, b"", b"0006")]), ReplyCode.SYNTAX_ERROR),
        (framed(publish(1, 5, b"0005")[4:-1]), ReplyCode.FRAME_ERROR),  # an octet is missing
        (framed(publish(1, 5, b"0005")[4:] + b"\0"), ReplyCode.FRAME_ERROR),  # there is one too many
        (framed(publish(1, 5, b"0005", b"0006")[4:].replace(b"\x92", b"\x93", 1)), ReplyCode.FRAME_ERROR),
    ],
)
def test_what_was_published_before_a_bad_frame_counts(
    server: ServerConnection, bad: bytes, code: ReplyCode
) -> None:
    events = learnt(server).receive_data(
        publish(1, 3, b"0003") + publish(1, 4, b"0004") + bad + publish(1, 5, b"0005")
    )
    assert events[:-1] == [[F.PUBLISH, 1, 3, [(JOB, [b"0003", b"0004"])]]]
    assert (events[-1][0], events[-1][1].reply_code) == (FAILED, code)


def test_one_of_the_same_length_that_goes_elsewhere_is_found_among_those_that_are_alike(
    server: ServerConnection,
) -> None:
    elsewhere = ("", "jab", 0, b"\x10\x00\x02")
    entries = [(*JOB, b"0003"), (*elsewhere, b"0004"), (*JOB, b"0005")]
    [event] = learnt(server).receive_data(encode(F.PUBLISH, 1, 3, entries))
    assert event[3] == [(JOB, [b"0003"]), (elsewhere, [b"0004"]), (JOB, [b"0005"])]


def test_many_that_are_alike_are_too_many_as_well(server: ServerConnection) -> None:
    server = learnt(server)
    [event] = server.receive_data(publish(1, 3, *[b"same"] * ENTRIES_MAX))
    assert len(event[3][0][1]) == ENTRIES_MAX
    [(kind, error)] = server.receive_data(publish(1, 3 + ENTRIES_MAX, *[b"same"] * (ENTRIES_MAX + 1)))
    assert (kind, error.reply_code) == (FAILED, ReplyCode.FRAME_ERROR)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536])
def test_the_head_of_a_bin_is_as_msgpack_packs_it(size: int) -> None:
    assert bin_head(size) + bytes(size) == msgpack.packb(bytes(size))
