"""The ack timeout of deliveries that were extended: it starts anew with each extension."""

import pytest
from native_house import F, Peer, entry
from whole_broker import WholeBroker


async def delivered(house: WholeBroker, count: int, timeout_ms: int = 10_000) -> Peer:
    """A client with so many deliveries, made now; time is noted."""
    peer = Peer(house).open()
    peer.request(F.QUEUE_DECLARE, "q", False, True, False, False, {"x-consumer-timeout": timeout_ms})
    await peer.durable()
    peer.publish(*(entry("q", b"%d" % number) for number in range(1, count + 1)))
    peer.request(F.CONSUME, "q", 1, "", False, False, None, {})
    answers = await peer.durable()
    assert [len(frame[2]) for frame in answers if frame[0] == F.DELIVER] == [count]
    pass_time(house, 0)
    return peer


def pass_time(house: WholeBroker, seconds: int) -> None:
    house.clock.advance(seconds * 1000)
    for connection in house.broker.connections:
        connection.take_back_overdue(house.clock.monotonic_s())


def cancelled(peer: Peer) -> bool:
    frames = [frame for frame in peer.exchange() if frame[0] == F.CONSUMER_CANCELLED]
    assert not any(queue_is_gone for _, _, _, queue_is_gone in frames)
    return bool(frames)


async def test_the_timeout_starts_anew(house: WholeBroker) -> None:
    peer = await delivered(house, 1)
    for _ in range(3):
        pass_time(house, 9)
        [reply] = peer.request(F.EXTEND, [1])
        assert reply[0] == F.REPLY
    pass_time(house, 9)
    assert not cancelled(peer)
    pass_time(house, 1)
    assert cancelled(peer)


async def test_what_was_not_extended_is_taken_back_all_the_same(house: WholeBroker) -> None:
    peer = await delivered(house, 3)
    pass_time(house, 9)
    peer.request(F.EXTEND, [1, [3, 3]])
    pass_time(house, 1)
    assert cancelled(peer)
    assert peer.request(F.ACK, [1, 3])[0][0] == F.REPLY
    [reply] = peer.request(F.GET, "q") or await peer.durable()
    assert reply[2][5] == b"2"


@pytest.mark.parametrize("tags", [[[0, 2]], [[0, 0]], [[1, 2]], [1, 2]])
async def test_any_set_of_tags_will_do(house: WholeBroker, tags: list[int | list[int]]) -> None:
    peer = await delivered(house, 2)
    pass_time(house, 9)
    assert peer.request(F.EXTEND, tags)[0][0] == F.REPLY
    pass_time(house, 9)
    assert not cancelled(peer)


async def test_an_unknown_tag_is_an_error_and_so_is_one_that_was_taken_back(house: WholeBroker) -> None:
    peer = await delivered(house, 1)
    for tags in ([2], [[0, 2]]):
        [error] = peer.request(F.EXTEND, tags)
        assert error[2:4] == [406, "PRECONDITION_FAILED - unknown delivery tag 2"]
    pass_time(house, 10)
    assert cancelled(peer)
    [error] = peer.request(F.EXTEND, [1])
    assert error[2:4] == [406, "PRECONDITION_FAILED - unknown delivery tag 1"]
