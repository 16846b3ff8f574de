"""ACK of a range on the native wire: as if each of its tags were acked by itself, in order."""

import pytest
from native_house import F, Peer, entry
from whole_broker import WholeBroker

from leveret.broker.queues.queue import Queue

UNKNOWN = "PRECONDITION_FAILED - unknown delivery tag "


@pytest.fixture
def peer(house: WholeBroker) -> Peer:
    return Peer(house).open()


def consume(
    peer: Peer,
    queue: str,
    count: int,
    *,
    number: int = 1,
    prefetch: int | None = None,
    arguments: dict[str, int] | None = None,
) -> Queue:
    """Have so many messages delivered."""
    peer.request(F.QUEUE_DECLARE, queue, False, False, False, False, arguments or {})
    peer.request(F.CHANNEL_OPEN, False, channel=9)
    peer.publish(*(entry(queue) for _ in range(count)), channel=9)
    peer.request(F.CHANNEL_CLOSE, channel=9)
    peer.request(F.CONSUME, queue, number, "", False, False, prefetch)
    return peer.house.broker.vhosts["/"].queues[queue]


async def test_all_of_it_is_settled_and_nothing_else(peer: Peer) -> None:
    queue = consume(peer, "t", 10)
    assert peer.request(F.ACK, [[3, 6]])[0][0] == F.REPLY
    assert (queue.unacked_count, queue.settled_total) == (6, 4)
    assert peer.house.broker.counters.acked == 4
    assert [frame[0] for frame in peer.request(F.ACK, [[1, 2], [7, 10]])] == [F.REPLY]
    assert queue.unacked_count == 0


async def test_up_to_a_gap_it_is_settled(peer: Peer) -> None:
    queue = consume(peer, "t", 6)
    peer.request(F.ACK, [4])
    [error] = peer.request(F.ACK, [[2, 6]])
    assert error[2:4] == [406, f"{UNKNOWN}4"]
    assert (queue.unacked_count, queue.settled_total) == (3, 3)
    [error] = peer.request(F.ACK, [[2, 3]])
    assert error[2:4] == [406, f"{UNKNOWN}2"]
    assert [frame[0] for frame in peer.request(F.ACK, [1, [5, 6]])] == [F.REPLY]


async def test_beyond_the_last_delivery_there_is_nothing_to_ack(peer: Peer) -> None:
    queue = consume(peer, "t", 2)
    [error] = peer.request(F.ACK, [[1, 60_000]])
    assert error[2:4] == [406, f"{UNKNOWN}3"]
    assert queue.unacked_count == 0


async def test_without_an_answer_an_unknown_tag_in_it_closes_the_channel(peer: Peer) -> None:
    consume(peer, "t", 2)
    frames = peer.send(F.ACK, 0, 1, [[2, 3]])
    assert [frame[:4] for frame in frames] == [[F.CHANNEL_CLOSED, 1, 406, f"{UNKNOWN}3"]]


async def test_it_settles_in_every_queue_that_it_came_from(peer: Peer) -> None:
    one, two = consume(peer, "one", 2), consume(peer, "two", 2, number=2)
    peer.request(F.ACK, [[2, 3]])
    assert (one.unacked_count, two.unacked_count) == (1, 1)


async def test_it_gives_the_credit_back(peer: Peer) -> None:
    queue = consume(peer, "t", 9, prefetch=3)
    assert queue.unacked_count == 3
    deliver = next(frame for frame in peer.request(F.ACK, [[1, 3]]) if frame[0] == F.DELIVER)
    assert [delivery[1] for delivery in deliver[2]] == [4, 5, 6]


async def test_a_rollback_takes_it_back(peer: Peer) -> None:
    peer.request(F.CHANNEL_CLOSE)
    peer.request(F.CHANNEL_OPEN, False)
    queue = consume(peer, "t", 3)
    peer.request(F.TX_SELECT)
    peer.request(F.ACK, [[1, 3]])
    peer.request(F.TX_ROLLBACK)
    assert queue.unacked_count == 3
    peer.request(F.ACK, [[2, 3]])
    peer.request(F.TX_COMMIT)
    assert queue.unacked_count == 1


async def test_what_was_taken_back_for_taking_too_long_is_no_gap(peer: Peer, house: WholeBroker) -> None:
    first = consume(peer, "first", 1)
    late = consume(peer, "late", 2, number=2, arguments={"x-consumer-timeout": 1000})
    last = consume(peer, "last", 1, number=3)
    [connection] = house.broker.connections
    connection.take_back_overdue(house.clock.monotonic_s())
    house.clock.advance(2000)
    connection.take_back_overdue(house.clock.monotonic_s())
    assert [queue.unacked_count for queue in (first, late, last)] == [1, 0, 1]
    assert F.ERROR not in [frame[0] for frame in peer.request(F.ACK, [[1, 4]])]
    assert [queue.unacked_count for queue in (first, late, last)] == [0, 0, 0]
