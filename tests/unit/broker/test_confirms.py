"""Publish tags are answered once each, in order, in as few frames as can say it."""

import pytest

from leveret.broker.channels.confirms import Confirms


class RecordingWire:
    """Writes down what a publisher would be told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, bool]] = []

    def confirm(self, publish_tag: int, multiple: bool) -> None:
        self.said.append(("ack", publish_tag, multiple))

    def refuse(self, publish_tag: int, multiple: bool) -> None:
        self.said.append(("nack", publish_tag, multiple))


@pytest.fixture
def wire() -> RecordingWire:
    return RecordingWire()


@pytest.fixture
def confirms(wire: RecordingWire) -> Confirms:
    return Confirms(wire)  # type: ignore[arg-type]  # it only confirms and refuses


def test_a_single_publish_is_confirmed_alone(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 1
    assert confirms.confirm_up_to(1) == 1
    assert wire.said == [("ack", 1, False)]


def test_a_run_is_one_multiple_confirm(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 5
    assert confirms.confirm_up_to(5) == 5
    assert wire.said == [("ack", 5, True)]
    assert confirms.outstanding == 0


def test_a_refused_publish_is_nacked_in_its_place(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 3
    confirms.refuse(confirms.last_tag)
    confirms.last_tag = 5
    confirms.confirm_up_to(5)
    assert wire.said == [("ack", 2, True), ("nack", 3, False), ("ack", 5, True)]


def test_two_refused_in_a_row(confirms: Confirms, wire: RecordingWire) -> None:
    for tag in (1, 2):
        confirms.last_tag = tag
        confirms.refuse(confirms.last_tag)
    confirms.confirm_up_to(2)
    assert wire.said == [("nack", 1, False), ("nack", 2, False)]


def test_a_refusal_waits_for_the_publishes_before_it(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 2
    confirms.refuse(confirms.last_tag)
    confirms.confirm_up_to(1)
    assert wire.said == [("ack", 1, False)]
    confirms.confirm_up_to(2)
    assert wire.said[1:] == [("nack", 2, False)]


def test_a_publish_answered_by_its_error_is_passed_over(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 2
    confirms.skip(confirms.last_tag)
    confirms.last_tag = 3
    confirms.confirm_up_to(3)
    assert wire.said == [("ack", 1, False), ("ack", 3, False)]


def test_nothing_is_confirmed_twice(confirms: Confirms, wire: RecordingWire) -> None:
    confirms.last_tag = 4
    confirms.confirm_up_to(4)
    assert confirms.confirm_up_to(4) == 0
    assert len(wire.said) == 1
