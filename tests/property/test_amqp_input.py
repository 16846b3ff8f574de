"""However the input is cut, and whatever it is, the connection reports the same and raises nothing."""

from collections.abc import Iterator

from amqp_peer import (
    LOGIN,
    answer_all,
    answers,
    new_connection,
    one_by_one,
    running_connection,
    tune_ok,
    vhost_open,
)
from amqp_strategies import client_frames
from hypothesis import given
from hypothesis import strategies as st

from leveret.protocol.amqp.connection import PROTOCOL_HEADER, ServerConnection
from leveret.protocol.amqp.events import CHANNEL_FAILED, CLOSE, FAILED, Event

client_bytes = st.lists(client_frames, max_size=12).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data cut at these positions."""
    previous = 0
    for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
        yield data[previous:cut]
        previous = cut
    yield data[previous:]


def shown(events: list[Event]) -> list[str]:
    """Errors compare by what they say."""
    return [
        str(event) if event[0] not in (FAILED, CHANNEL_FAILED) else f"{event[0]} {event[-1]}"
        for event in events
    ]


def run(connection: ServerConnection, data: Iterator[bytes]) -> list[Event]:
    """Feed everything, and answer as a session would."""
    events = []
    for piece in data:
        for event in one_by_one(connection.receive_data(piece)):
            events.append(event)
            if event[0] == FAILED:
                connection.send_close(event[1])
            elif event[0] == CHANNEL_FAILED:
                connection.close_channel(event[1], event[2])
            elif event[0] == CLOSE:
                connection.close_ok()
    return events


@given(client_bytes, st.lists(st.integers(0, 2**16), max_size=30))
def test_events_do_not_depend_on_the_cuts(data: bytes, cuts: list[int]) -> None:
    whole, cut = running_connection(1, 2), running_connection(1, 2)
    assert shown(run(whole, iter([data]))) == shown(run(cut, pieces(data, cuts)))
    assert answers(whole.data_to_send()) == answers(cut.data_to_send())


@given(client_bytes)
def test_nor_does_one_byte_at_a_time_change_them(data: bytes) -> None:
    whole, cut = running_connection(1, 2), running_connection(1, 2)
    assert shown(run(whole, iter([data]))) == shown(run(cut, pieces(data, list(range(len(data))))))


@given(st.lists(st.integers(0, 2**16), max_size=30))
def test_the_handshake_does_not_depend_on_the_cuts(cuts: list[int]) -> None:
    handshake = LOGIN + tune_ok() + vhost_open()
    assert answer_all(new_connection(), pieces(handshake, cuts)) == answer_all(new_connection(), [handshake])


@given(st.lists(st.binary(), max_size=5), st.sampled_from([b"", PROTOCOL_HEADER, LOGIN, LOGIN + tune_ok()]))
def test_arbitrary_bytes_raise_nothing(garbage: list[bytes], before: bytes) -> None:
    connection = new_connection()
    answer_all(connection, [before])
    fails = [event for event in answer_all(connection, garbage) if event[0] == FAILED]
    assert len(fails) <= 1


@given(client_bytes, st.binary(), st.integers(0, 2**16))
def test_arbitrary_bytes_in_the_middle_raise_nothing(data: bytes, garbage: bytes, position: int) -> None:
    position %= len(data) + 1
    connection = running_connection(1, 2)
    events = run(connection, iter([data[:position] + garbage + data[position:]]))
    assert sum(event[0] == FAILED for event in events) <= 1
    answers(connection.data_to_send())
