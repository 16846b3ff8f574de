"""The load says what it should on either wire, and notices what a broker must not do."""

import pytest
from load_wires import AmqpWire, NativeWire, Wire

from leveret.benchmarks.load.actor import Report
from leveret.benchmarks.load.body import HEAD
from leveret.benchmarks.load.consumer import Consumer, ConsumerTask
from leveret.benchmarks.load.link import Address, LoadFailed, Route
from leveret.benchmarks.load.publisher import Publisher, PublisherTask

ADDRESS = Address(0)
SIZE = 64


@pytest.fixture(params=[AmqpWire, NativeWire])
def wire(request: pytest.FixtureRequest) -> Wire:
    made: Wire = request.param()
    return made


def numbers(bodies: list[bytes]) -> list[tuple[int, int]]:
    """(lane, number) of each."""
    return [HEAD.unpack_from(body)[1:3] for body in bodies]


def publisher(wire: Wire, **task: object) -> Publisher:
    routes = (Route(7, "", "one"), Route(8, "", "two"))
    made = Publisher(PublisherTask(ADDRESS, "", routes, SIZE, **task), wire.link)  # type: ignore[arg-type]
    made.go(100.0)
    return made


def consumer(wire: Wire, size: int = SIZE, **task: object) -> Consumer:
    task = {"lanes": (7, 8), "is_early": False, "ack_every": 0, **task}
    return Consumer(ConsumerTask(ADDRESS, "", ("q",), size=size, **task), wire.link)  # type: ignore[arg-type]


def consume(wire: Wire, actor: Consumer, said: bytes, piece: int = 1 << 16) -> None:
    wire.socket.say(said, piece)
    while not wire.socket.has_said_everything:
        actor.read()


def report(actor: Consumer | Publisher) -> Report:
    found = Report()
    actor.report(found)
    return found


@pytest.mark.parametrize(("wire", "group"), [(AmqpWire(), 1), (NativeWire(), 1), (NativeWire(), 3)])
def test_a_publisher_keeps_its_window_full_and_numbers_each_lane(wire: Wire, group: int) -> None:
    actor = publisher(wire, window=6, group=group)
    assert numbers(wire.published()) == [(7, 0), (8, 0), (7, 1), (8, 1), (7, 2), (8, 2)]

    wire.socket.say(wire.confirm(0, 3))
    actor.read()

    assert numbers(wire.published())[6:] == [(8 if number % 2 else 7, number // 2) for number in range(6, 9)]
    assert actor.count == 3


def test_a_publisher_stops_at_its_limit_and_is_done_when_all_is_confirmed(wire: Wire) -> None:
    actor = publisher(wire, window=4, limit=5)
    wire.socket.say(wire.confirm(0, 4))
    actor.read()
    assert (len(wire.published()), actor.is_done) == (5, False)
    wire.socket.say(wire.confirm(5, 5))
    actor.read()
    assert actor.is_done
    assert report(actor).published == {7: 3, 8: 2}


def test_a_rate_is_kept_by_the_clock_not_by_the_confirms(wire: Wire) -> None:
    actor = publisher(wire, rate=1000, limit=100)
    sent = len(wire.published())
    actor.pump(100.0105)
    assert len(wire.published()) - sent == 10
    assert actor.due() == pytest.approx(100.011)


def test_what_is_due_while_the_broker_stalls_is_sent_with_the_time_at_which_it_was_due(wire: Wire) -> None:
    actor = publisher(wire, rate=1000)
    actor.pump(100.5)
    stamps = [HEAD.unpack_from(body)[3] for body in wire.published()]
    assert stamps[:3] == [100_000_000, 100_001_000, 100_002_000]
    assert stamps[-1] == 100_500_000


def test_a_refused_publish_is_reported(wire: Wire) -> None:
    actor = publisher(wire, window=2, limit=2)
    wire.socket.say(wire.confirm(1, 1) + wire.refuse(2))
    actor.read()
    assert report(actor).refused == 1


def test_a_broker_that_confirms_too_much_fails_the_run(wire: Wire) -> None:
    actor = publisher(wire, window=2, limit=2)
    wire.socket.say(wire.confirm(0, 3))
    with pytest.raises(LoadFailed, match="more than was published"):
        actor.read()


def test_a_publisher_notices_that_its_channel_was_closed(wire: Wire) -> None:
    actor = publisher(wire, window=2)
    wire.socket.say(wire.close_channel())
    with pytest.raises(LoadFailed, match="NOT_FOUND"):
        actor.read()


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 16])
@pytest.mark.parametrize("size", [16, 1000])
def test_a_consumer_finds_every_message_however_the_bytes_are_cut(wire: Wire, piece: int, size: int) -> None:
    actor = consumer(wire, size)
    sent = [(7, number) for number in range(20)] + [(8, number) for number in range(5)]
    consume(wire, actor, wire.deliver(sent, size), piece)
    actor.expect({7: 20, 8: 5, 9: 1})
    assert actor.is_done
    found = report(actor)
    assert (found.received, found.lost, found.doubled) == (25, 0, 0)


def test_a_body_of_many_frames_is_one_message() -> None:
    wire = AmqpWire()
    actor = consumer(wire, 1 << 20)
    consume(wire, actor, wire.deliver([(7, 0), (7, 1)], 1 << 20))
    actor.expect({7: 2})
    assert actor.is_done
    assert report(actor).lost == 0


def test_a_message_that_never_comes_is_lost(wire: Wire) -> None:
    actor = consumer(wire)
    consume(wire, actor, wire.deliver([(7, 0), (7, 1)], SIZE))
    actor.expect({7: 3})
    assert not actor.is_done
    assert report(actor).lost == 1


def test_a_gap_is_a_lost_message_even_if_the_count_is_right(wire: Wire) -> None:
    actor = consumer(wire)
    consume(wire, actor, wire.deliver([(7, 0), (7, 2), (7, 2)], SIZE))
    actor.expect({7: 3})
    found = report(actor)
    assert (found.lost, found.doubled) == (1, 1)


def test_what_comes_after_the_last_message_is_doubled(wire: Wire) -> None:
    actor = consumer(wire)
    consume(wire, actor, wire.deliver([(7, 0)], SIZE))
    actor.expect({7: 1})
    wire.socket.say(wire.deliver([(7, 0)], SIZE))
    assert report(actor).doubled == 1


def test_a_message_of_a_lane_of_another_queue_fails_the_run(wire: Wire) -> None:
    with pytest.raises(LoadFailed, match="lane 9"):
        consume(wire, consumer(wire), wire.deliver([(9, 0)], SIZE))


def test_a_consumer_notices_that_its_channel_was_closed(wire: Wire) -> None:
    actor = consumer(wire)
    with pytest.raises(LoadFailed, match="NOT_FOUND"):
        consume(wire, actor, wire.deliver([(7, 0)], SIZE) + wire.close_channel())


def test_each_delivery_is_acked_by_itself(wire: Wire) -> None:
    wire.socket.say(wire.answer())
    actor = consumer(wire, ack_every=1)
    consume(wire, actor, wire.deliver([(7, 0), (7, 1), (7, 2)], SIZE))
    assert wire.acked() in ([(1, 1), (2, 2), (3, 3)], [(1, 3)])  # the native framing has ranges


def test_many_deliveries_are_acked_at_once_and_the_rest_at_the_end(wire: Wire) -> None:
    wire.socket.say(wire.answer())
    actor = consumer(wire, ack_every=4)
    consume(wire, actor, wire.deliver([(7, number) for number in range(6)], SIZE))
    assert wire.acked() == [(0, 4)]
    actor.expect({7: 6})
    actor.report(Report())
    assert wire.acked() == [(0, 4), (0, 6)]
