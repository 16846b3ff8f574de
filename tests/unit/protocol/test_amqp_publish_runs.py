"""Publishes in a row that differ in their bodies only are one event."""

from amqp_peer import publish, running_connection

from leveret.protocol.amqp.events import FAILED


def test_publishes_that_differ_in_the_body_only_come_together() -> None:
    connection = running_connection(1, 2)
    alike = [publish(1, body) for body in (b"1", b"2", b"3")]
    others = [publish(1, b"44"), publish(1, b"5", routing_key="r"), publish(2, b"6"), publish(2, b"7")]
    data = b"".join(alike + others)
    end = len(data) - 1  # the end octet of the last one is still to come
    events = list(connection.receive_data(data[:end])) + list(connection.receive_data(data[end:]))
    assert [(event[1], event[3], event[-1]) for event in events] == [
        (1, "q", [b"1", b"2", b"3"]),
        (1, "q", [b"44"]),
        (1, "r", [b"5"]),
        (2, "q", [b"6"]),
        (2, "q", [b"7"]),
    ]


def test_a_wrong_end_octet_behind_a_publish_is_found() -> None:
    connection = running_connection(1)
    good, bad = publish(1, b"1"), publish(1, b"2")[:-1] + b"\0"
    first, failed = connection.receive_data(good + bad)
    assert first[-1] == [b"1"]
    assert failed[0] == FAILED
