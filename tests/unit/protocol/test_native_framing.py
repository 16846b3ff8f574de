"""Frames to bytes and back, and what is refused on the way."""

from typing import Any

import msgpack
import pytest

from leveret.protocol.errors import HardError
from leveret.protocol.native.fields import ENTRIES_MAX, MAP_ENTRIES_MAX, PROPERTIES_MAX_BYTES
from leveret.protocol.native.framing import FrameReader, check_fields, decode, encode, encode_batch
from leveret.protocol.native.layouts import FrameType, Role
from leveret.protocol.reply_codes import ReplyCode

PUBLISH_ENTRY = ["", "q", 0, b"\0\0", b"body"]


def decoded(*frame: Any, sender: Role = Role.CLIENT) -> list[Any]:
    return decode(msgpack.packb(frame), sender)


def refusal(payload: bytes, sender: Role = Role.CLIENT) -> HardError:
    with pytest.raises(HardError) as caught:
        decode(payload, sender)
    return caught.value


def refusal_of(*frame: Any, sender: Role = Role.CLIENT) -> HardError:
    return refusal(msgpack.packb(frame), sender)


def test_a_frame_survives_the_round_trip() -> None:
    reader = FrameReader(Role.CLIENT, 1000)
    arguments = {"x-max-length": 5, "list": [1, "a", None], "table": {"deep": True}}
    reader.feed(encode(FrameType.QUEUE_DECLARE, 7, 1, "q", False, True, False, False, arguments))
    assert reader.next_frame() == [0x20, 7, 1, "q", False, True, False, False, arguments]
    assert reader.next_frame() is None


def test_a_large_frame_is_appended_in_two_pieces_and_not_copied() -> None:
    out: list[bytes] = []
    length = encode_batch(out, FrameType.PUBLISH, 1, 1, [PUBLISH_ENTRY])
    assert len(out) == 2
    assert len(out[1]) == length == int.from_bytes(out[0], "big")


def test_missing_trailing_fields_get_their_defaults() -> None:
    assert decoded(FrameType.QUEUE_DECLARE, 1, 2, "q") == [0x20, 1, 2, "q", False, False, False, False, {}]
    assert decoded(FrameType.CHANNEL_OPEN, 1, 2) == [0x10, 1, 2, True, b"", 0]


def test_a_default_is_a_new_object_each_time() -> None:
    first, second = (decoded(FrameType.QUEUE_DECLARE, 1, 2, "q")[-1] for _ in range(2))
    assert first == second
    assert first is not second


def test_surplus_fields_are_ignored() -> None:
    assert decoded(FrameType.QUEUE_PURGE, 1, 2, "q", "from", "the future") == [0x24, 1, 2, "q"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 2000 + b"\xc0",
        b"\x91\xa1\xff",
        b"\x91\xd4\x05\x00",
        b"\x91\xd7\xff" + b"\xff" * 8,
        b"\x91\xc7\x0c\xff\x00\x00\x00\x00" + b"\x7f" * 8,
        b"\x91\x81\x80\x01",
        b"\x91\x81\x01\x01",
    ],
)
def test_what_is_not_msgpack_is_a_frame_error(payload: bytes) -> None:
    assert refusal(payload).reply_code is ReplyCode.FRAME_ERROR


@pytest.mark.parametrize("payload", [b"\x80", b"\x90", b"\xc0", b"\x91\xa1a", b"\x91\xc3", b"\x91\x91\x00"])
def test_what_does_not_begin_with_a_type_is_a_syntax_error(payload: bytes) -> None:
    assert refusal(payload).reply_code is ReplyCode.SYNTAX_ERROR


def test_unknown_types_are_refused() -> None:
    for number in (0x0A, 0x34, 0x7F, -5, 1 << 40):
        assert refusal_of(number).reply_code is ReplyCode.COMMAND_INVALID


def test_a_frame_from_the_wrong_side_is_refused() -> None:
    error = refusal_of(FrameType.CONFIRM, 1, [1])
    assert error.reply_code is ReplyCode.COMMAND_INVALID
    assert "CONFIRM is not sent by the client" in error.explanation


def test_the_error_names_the_frame_and_the_field() -> None:
    error = refusal_of(FrameType.QUEUE_BIND, 1, 1, "q", 5, "key")
    assert error.explanation == "QUEUE_BIND: field exchange must be a string, not int"
    assert refusal_of(FrameType.QUEUE_BIND, 1, 1, "q").explanation == "QUEUE_BIND: field exchange is missing"


@pytest.mark.parametrize(
    "frame",
    [
        (FrameType.CHANNEL_OPEN, 1, 65_536),
        (FrameType.CHANNEL_OPEN, -1, 1),
        (FrameType.CHANNEL_OPEN, True, 1),
        (FrameType.CHANNEL_OPEN, 2**32, 1),
        (FrameType.CHANNEL_OPEN, 1.0, 1),
        (FrameType.CHANNEL_OPEN, 1, 1, 1),
        (FrameType.QUEUE_PURGE, 1, 1, "x" * 256),
        (FrameType.QUEUE_PURGE, 1, 1, "ä" * 128),
        (FrameType.QUEUE_PURGE, 1, 1, b"bytes"),
        (FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False, []),
        (FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False, {"x" * 256: 1}),
        (FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False, {"x": 2**63}),
        (FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False, {"x": {"k" * 300: 1}}),
        (FrameType.CONSUME, 1, 1, "q", 1, "", False, False, 65_536),
        (FrameType.ACK, 0, 1, 5),
        (FrameType.ACK, 0, 1, [0]),
        (FrameType.ACK, 0, 1, [-1]),
        (FrameType.ACK, 0, 1, [[5, 4]]),
        (FrameType.ACK, 0, 1, [[1, 65_537]]),
        (FrameType.ACK, 0, 1, [[1, 2, 3]]),
        (FrameType.ACK, 0, 1, [[1]]),
        (FrameType.ACK, 0, 1, [[1, "2"]]),
        (FrameType.ACK, 0, 1, ["1"]),
        (FrameType.PUBLISH, 1, 1, {}),
        (FrameType.PUBLISH, 1, 1, ["entry"]),
        (FrameType.PUBLISH, 1, 1, [["", "q", 0, b"\0\0"]]),
        (FrameType.PUBLISH, 1, 1, [[*PUBLISH_ENTRY, 1]]),
        (FrameType.PUBLISH, 1, 1, [["", "q", 2, b"\0\0", b""]]),
        (FrameType.PUBLISH, 1, 1, [["", "q", False, b"\0\0", b""]]),
        (FrameType.PUBLISH, 1, 1, [["", "q", 0, "\0\0", b""]]),
        (FrameType.PUBLISH, 1, 1, [["", "x" * 256, 0, b"\0\0", b""]]),
        (FrameType.PUBLISH, 1, 1, [["", "q", 0, bytes(PROPERTIES_MAX_BYTES + 1), b""]]),
    ],
)
def test_a_field_out_of_its_range_is_a_syntax_error(frame: tuple[Any, ...]) -> None:
    assert refusal_of(*frame).reply_code is ReplyCode.SYNTAX_ERROR


@pytest.mark.parametrize(
    "frame",
    [
        (FrameType.DELIVER, 1, [[1, 1, 0, "", "q", b"\0\0"]]),
        (FrameType.DELIVER, 1, [["1", 1, 0, "", "q", b"\0\0", b""]]),
        (FrameType.DELIVER, 1, "no"),
        (FrameType.RETURN, 1, [[1, 312]]),
        (FrameType.RETURN, 1, [[1, 312, 5]]),
        (FrameType.RETURN, 1, 5),
        (FrameType.REPLY, 1, {}),
        (FrameType.ERROR, 1, 404, b"text", 32),
        (FrameType.ERROR, 1, 404, "text", 256),
    ],
)
def test_what_a_server_sends_is_held_to_the_protocol_too(frame: tuple[Any, ...]) -> None:
    assert refusal_of(*frame, sender=Role.SERVER).reply_code is ReplyCode.SYNTAX_ERROR


def test_the_largest_values_that_fit_are_taken() -> None:
    assert decoded(FrameType.QUEUE_PURGE, 2**32 - 1, 65_535, "x" * 255)[3] == "x" * 255
    assert decoded(FrameType.ACK, 0, 1, [[1, 65_536], [0, 2**64 - 1], [0, 0]])[3] == [
        [1, 65_536],
        [0, 2**64 - 1],
        [0, 0],
    ]
    assert len(decoded(FrameType.PUBLISH, 1, 1, [PUBLISH_ENTRY] * ENTRIES_MAX)[3]) == ENTRIES_MAX


def test_too_many_elements_are_refused_before_they_take_memory() -> None:
    entries = [PUBLISH_ENTRY] * (ENTRIES_MAX + 1)
    assert refusal_of(FrameType.PUBLISH, 1, 1, entries).reply_code is ReplyCode.FRAME_ERROR
    table = {str(number): 1 for number in range(MAP_ENTRIES_MAX + 1)}
    error = refusal_of(FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False, table)
    assert error.reply_code is ReplyCode.FRAME_ERROR


def test_arguments_nest_up_to_the_limit() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"x": nested(depth - 1)} if depth > 1 else {"x": 1}

    declare = (FrameType.QUEUE_DECLARE, 1, 1, "q", False, False, False, False)
    assert decoded(*declare, nested(31))
    assert "nested deeper" in refusal_of(*declare, nested(32)).explanation


def test_a_long_value_is_cut_in_the_error_text() -> None:
    assert len(refusal_of(FrameType.ACK, 0, 1, ["x" * 10_000]).explanation) < 120


def test_the_length_is_checked_before_the_payload_arrives() -> None:
    reader = FrameReader(Role.CLIENT, 1000)
    reader.feed((1001).to_bytes(4, "big"))
    with pytest.raises(HardError, match="1001 octets exceeds the limit of 1000"):
        reader.next_frame()


def test_octets_are_handled_once_however_they_are_cut() -> None:
    """Ten thousand pieces of one frame: looking at all octets again for each would take minutes."""
    frame = encode(FrameType.PUBLISH, 1, 1, [["", "q", 0, b"\0\0", bytes(10_000_000)]])
    reader = FrameReader(Role.CLIENT, len(frame))
    found = []
    for start in range(0, len(frame), 1000):
        reader.feed(frame[start : start + 1000])
        found.append(reader.next_frame())
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] is not None


def test_check_fields_holds_the_application_to_the_protocol() -> None:
    check_fields(FrameType.QUEUE_PURGE, 1, 1, "q")
    with pytest.raises(ValueError, match="queue is 256 octets long"):
        check_fields(FrameType.QUEUE_PURGE, 1, 1, "q" * 256)
