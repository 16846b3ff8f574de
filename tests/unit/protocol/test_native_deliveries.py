"""DELIVER frames: whatever deliveries have in common, each arrives whole."""

from typing import Any

import pytest

from leveret.protocol.native.connection import BATCH_BYTES, ServerConnection
from leveret.protocol.native.deliveries import DeliveryRenderer
from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.framing import FrameReader
from leveret.protocol.native.layouts import FrameType, Role

DURABLE = b"\x10\x00\x02"


@pytest.fixture
def protocol() -> ServerConnection:
    return ServerConnection()


@pytest.fixture
def renderer(protocol: ServerConnection) -> DeliveryRenderer:
    return DeliveryRenderer(protocol, 300)


def frames(protocol: ServerConnection) -> list[list[Any]]:
    reader = FrameReader(Role.SERVER, 1 << 30)
    reader.feed(b"".join(protocol.data_to_send()))
    found = []
    while (frame := reader.next_frame()) is not None:
        assert frame[:2] == [FrameType.DELIVER, 300]
        found.append(frame[2])
    return found


def test_a_delivery_has_all_fields_of_its_own(protocol: ServerConnection, renderer: DeliveryRenderer) -> None:
    deliveries = [
        (False, "", "q", DURABLE, b"1"),
        (False, "", "q", DURABLE, b"2"),
        (True, "", "q", DURABLE, b"3"),
        (False, "x", "q", DURABLE, b"4"),
        (False, "x", "k" * 255, DURABLE, b"5"),
        (False, "x", "k" * 255, b"\0\0", b"6"),
        (False, "x", "k" * 255, b"\0\0", b"longer"),
        (False, "x", "k" * 255, b"\0\0", bytes(300)),
        (False, "x", "k" * 255, b"\0\0", b""),
    ]
    renderer.add(7, 1000, deliveries)
    renderer.add(70_000, 1009, deliveries[-1:])
    renderer.add(7, 1010, deliveries[-1:])
    renderer.write()
    [entries] = frames(protocol)
    assert [entry[1:] for entry in entries] == [
        [tag, int(redelivered), *rest]
        for tag, (redelivered, *rest) in enumerate([*deliveries, deliveries[-1], deliveries[-1]], 1000)
    ]
    assert [entry[0] for entry in entries] == [7] * len(deliveries) + [70_000, 7]


def test_it_says_how_many_octets_it_rendered(protocol: ServerConnection, renderer: DeliveryRenderer) -> None:
    said = renderer.add(1, 1, [(False, "", "q", DURABLE, b"body")] * 2)
    renderer.write()
    before_entries = 4 + len(b"\x93\x44\xcd\x01\x2c\xdc\x00\x02")
    assert sum(map(len, protocol.data_to_send())) == before_entries + said


def test_nothing_is_written_when_there_is_nothing(
    protocol: ServerConnection, renderer: DeliveryRenderer
) -> None:
    renderer.write()
    renderer.add(1, 1, [(False, "", "q", DURABLE, b"")])
    renderer.write()
    renderer.write()
    assert len(frames(protocol)) == 1


def test_a_frame_has_no_more_entries_than_an_array_may_have(
    protocol: ServerConnection, renderer: DeliveryRenderer
) -> None:
    renderer.add(1, 1, [(False, "", "", b"", b"")] * (ENTRIES_MAX + 1))
    renderer.write()
    assert list(map(len, frames(protocol))) == [ENTRIES_MAX, 1]


def test_a_frame_stays_below_its_size_but_for_one_message_that_is_larger(
    protocol: ServerConnection, renderer: DeliveryRenderer
) -> None:
    small, large = (
        (False, "", "q", b"", bytes(BATCH_BYTES // 3)),
        (False, "", "q", b"", bytes(BATCH_BYTES + 1)),
    )
    renderer.add(1, 1, [small, small, small, small, large, small])
    renderer.write()
    assert list(map(len, frames(protocol))) == [2, 2, 1, 1]
