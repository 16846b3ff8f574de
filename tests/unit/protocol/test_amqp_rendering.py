"""Rendered content: the frames are right at every size, and large bodies are not copied."""

import pytest
from amqp_peer import PERSISTENT, Answer, Content, answers

from leveret.protocol.amqp.frames import FRAME_OVERHEAD
from leveret.protocol.amqp.methods import BasicAck, BasicDeliver, BasicGetOk, BasicNack
from leveret.protocol.amqp.rendering import ChannelRenderer

FRAME_MAX = 65536
ROOM = FRAME_MAX - FRAME_OVERHEAD
SIZES = [0, 1, 16384, 16385, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM, 2 * ROOM + 1, 300_000]


def expected_content(channel_id: int, body: bytes) -> list[Answer]:
    pieces = [body[start : start + ROOM] for start in range(0, len(body), ROOM)]
    header = Content(PERSISTENT, len(body), b"")
    return [(channel_id, header)] + [(channel_id, Content(None, 0, piece)) for piece in pieces]


@pytest.mark.parametrize("size", SIZES)
def test_deliver(size: int) -> None:
    out: list[bytes] = []
    body = bytes(index & 255 for index in range(size))
    ChannelRenderer(7, FRAME_MAX, out).deliver("tag", 2**40, [(True, "ex", "key", PERSISTENT, body)])
    method = BasicDeliver(
        consumer_tag="tag", delivery_tag=2**40, redelivered=True, exchange="ex", routing_key="key"
    )
    assert answers(out) == [(7, method), *expected_content(7, body)]


@pytest.mark.parametrize("size", SIZES)
def test_any_other_method_with_content(size: int) -> None:
    out: list[bytes] = []
    method = BasicGetOk(delivery_tag=1, exchange="", routing_key="q", message_count=5)
    ChannelRenderer(7, FRAME_MAX, out).method_with_content(method, PERSISTENT, b"x" * size)
    assert answers(out) == [(7, method), *expected_content(7, b"x" * size)]


def test_prepared_prefixes_are_not_mixed_up() -> None:
    out: list[bytes] = []
    renderer = ChannelRenderer(1, FRAME_MAX, out)
    wanted = [("a", "b", f"key {number}") for number in range(3000)] + [("ab", "", "x"), ("a", "b", "x")]
    for _ in range(2):
        for tag, (consumer_tag, exchange, routing_key) in enumerate(wanted):
            renderer.deliver(consumer_tag, tag, [(False, exchange, routing_key, PERSISTENT, b"")])
    delivered = [answer for _, answer in answers(out) if isinstance(answer, BasicDeliver)]
    assert [(d.consumer_tag, d.exchange, d.routing_key) for d in delivered] == wanted * 2
    assert [d.delivery_tag for d in delivered] == [*range(len(wanted))] * 2


def test_a_body_of_one_frame_is_passed_on_as_it_is() -> None:
    out: list[bytes] = []
    body = bytes(ROOM)
    ChannelRenderer(1, FRAME_MAX, out).deliver("t", 1, [(False, "", "q", PERSISTENT, body)])
    assert any(piece is body for piece in out)


def test_a_small_message_is_one_piece() -> None:
    out: list[bytes] = []
    ChannelRenderer(1, FRAME_MAX, out).deliver("t", 1, [(False, "", "q", PERSISTENT, bytes(1024))])
    assert len(out) == 1


def test_deliveries_in_a_row() -> None:
    out: list[bytes] = []
    deliveries = [
        (False, "ex", "a", PERSISTENT, b"1"),
        (True, "", "b", b"\0\0", b"22"),
        (False, "", "b", b"\0\0", b""),
    ]
    size = ChannelRenderer(7, FRAME_MAX, out).deliver("t", 5, deliveries)
    assert size == len(PERSISTENT) + 1 + 2 + 2 + 2
    assert answers(out) == [
        (7, BasicDeliver(consumer_tag="t", delivery_tag=5, exchange="ex", routing_key="a")),
        *expected_content(7, b"1"),
        (7, BasicDeliver(consumer_tag="t", delivery_tag=6, redelivered=True, exchange="", routing_key="b")),
        (7, Content(b"\0\0", 2, b"")),
        (7, Content(None, 0, b"22")),
        (7, BasicDeliver(consumer_tag="t", delivery_tag=7, exchange="", routing_key="b")),
        (7, Content(b"\0\0", 0, b"")),
    ]


def test_answers_to_publishers() -> None:
    out: list[bytes] = []
    renderer = ChannelRenderer(3, FRAME_MAX, out)
    renderer.ack(5, True)
    renderer.nack(6, False)
    assert answers(out) == [
        (3, BasicAck(delivery_tag=5, multiple=True)),
        (3, BasicNack(delivery_tag=6, multiple=False, requeue=False)),
    ]
