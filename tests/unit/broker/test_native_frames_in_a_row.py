"""Several PUBLISH frames in one read are published together; to the client it looks as if each came alone."""

import pytest
from native_house import F, Peer, entry
from whole_broker import WholeBroker


@pytest.fixture
async def peer(house: WholeBroker) -> Peer:
    """Channel 1 is open, and there is a durable queue `q`."""
    peer = Peer(house, message_max=100).open()
    await peer.declare("q")
    return peer


def put(peer: Peer, tag: int, *entries: list[object], channel: int = 1) -> None:
    """Have a frame sent with the next exchange."""
    peer.protocol.send(F.PUBLISH, channel, tag, list(entries))


def bodies(peer: Peer, queue: str = "q") -> list[bytes]:
    return [copy.message.body for lane in peer.house.broker.vhosts["/"].queues[queue].lanes for copy in lane]


async def test_they_are_confirmed_by_one_frame(peer: Peer) -> None:
    for tag in (1, 3, 5):
        put(peer, tag, entry("q", b"%d" % tag), entry("q", b"%d" % (tag + 1)))
    assert peer.exchange() == []
    assert await peer.durable() == [[F.CONFIRM, 1, [[0, 6]]]]
    assert bodies(peer) == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_each_is_returned_by_its_own_tag(peer: Peer) -> None:
    put(peer, 1, entry("nowhere", mandatory=1))
    put(peer, 2, entry("nowhere", mandatory=1), entry("q"))
    put(peer, 4, entry("nowhere", mandatory=1))
    assert peer.exchange() == [[F.RETURN, 1, [[tag, 312, "NO_ROUTE"] for tag in (1, 2, 4)]]]
    assert await peer.durable() == [[F.CONFIRM, 1, [[0, 4]]]]


async def test_each_that_fails_is_refused_by_its_own_tag(peer: Peer) -> None:
    missing = ["nope", *entry("q")[1:]]
    put(peer, 1, entry("q"), missing)
    put(peer, 3, missing)
    put(peer, 4, missing, entry("q", bytes(101)))
    put(peer, 6, entry("q"))
    refused, too_large = peer.exchange()
    assert refused[:4] == [F.REFUSE, 1, [2, 3, 4], 404]
    assert too_large[:4] == [F.REFUSE, 1, [5], 406]
    assert await peer.durable() == [[F.CONFIRM, 1, [1, 6]]]


async def test_one_that_is_too_large_does_not_spoil_those_around_it(peer: Peer) -> None:
    put(peer, 1, entry("q", b"1"))
    put(peer, 2, entry("q", bytes(101)))
    put(peer, 3, entry("q", b"3"))
    assert [frame[:4] for frame in peer.exchange()] == [[F.REFUSE, 1, [2], 406]]
    assert await peer.durable() == [[F.CONFIRM, 1, [1, 3]]]
    assert bodies(peer) == [b"1", b"3"]


async def test_a_queue_that_is_full_refuses_from_the_right_tag_on(peer: Peer) -> None:
    arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
    peer.request(F.QUEUE_DECLARE, "few", False, True, False, False, arguments)
    await peer.durable()
    put(peer, 1, entry("few"), entry("few"))
    put(peer, 3, entry("few"), entry("few"))
    put(peer, 5, entry("few"))
    peer.exchange()
    refusal, confirm = await peer.durable()
    assert (refusal[:4], confirm) == ([F.REFUSE, 1, [4, 5], 506], [F.CONFIRM, 1, [[0, 3]]])


async def test_what_is_between_two_of_them_is_done_between_them(peer: Peer) -> None:
    put(peer, 1, entry("q", b"1"))
    peer.protocol.send(F.QUEUE_PURGE, 90, 1, "q")
    put(peer, 2, entry("q", b"2"))
    assert [F.REPLY, 90, [1]] in peer.exchange()
    assert bodies(peer) == [b"2"]


async def test_what_came_before_a_broken_one_is_published_and_then_the_connection_ends(peer: Peer) -> None:
    put(peer, 1, entry("q", b"1"))
    put(peer, 2, entry("q", b"2"))
    put(peer, 9, entry("q", b"9"))
    [goodbye] = peer.exchange()
    assert goodbye == [
        F.CLOSE,
        502,
        "SYNTAX_ERROR - PUBLISH: publish_tag 9 on channel 1, 3 is next",
    ]
    assert bodies(peer) == [b"1", b"2"]


async def test_a_producer_gets_each_one_in_once(house: WholeBroker, peer: Peer) -> None:
    producer = await Peer(house).produce(b"me")
    put(producer, 5, entry("q", b"5"))
    put(producer, 6, entry("q", b"6"))
    put(producer, 9, entry("q", b"9"))
    producer.exchange()
    assert await producer.durable() == [[F.CONFIRM, 1, [[0, 9]]]]
    again = await Peer(house).produce(b"me", last_tag=9)
    for tag in range(5, 12):
        put(again, tag, entry("q", b"%d" % tag))
    again.exchange()
    assert await again.durable() == [[F.CONFIRM, 1, [[0, 11]]]]
    assert bodies(peer) == [b"5", b"6", b"9", b"7", b"8", b"10", b"11"]


async def test_a_transaction_returns_each_by_its_own_tag(house: WholeBroker, peer: Peer) -> None:
    peer.request(F.CHANNEL_OPEN, False, channel=2)
    peer.request(F.TX_SELECT, channel=2)
    put(peer, 1, entry("q", b"1"), entry("nowhere", mandatory=1), channel=2)
    put(peer, 3, entry("nowhere", mandatory=1), channel=2)
    put(peer, 4, entry("q", b"4"), channel=2)
    peer.exchange()
    assert bodies(peer) == []
    [returned, *_] = peer.request(F.TX_COMMIT, channel=2)
    assert returned == [F.RETURN, 2, [[tag, 312, "NO_ROUTE"] for tag in (2, 3)]]
    assert bodies(peer) == [b"1", b"4"]


async def test_a_consumer_gets_all_of_them_in_one_frame(peer: Peer) -> None:
    peer.request(F.QUEUE_DECLARE, "t")
    peer.request(F.CONSUME, "t", 7)
    for tag in range(1, 5):
        put(peer, tag, entry("t", b"%d" % tag))
    deliveries = [frame[2] for frame in peer.exchange() if frame[0] == F.DELIVER]
    assert [[(entry[0], entry[1], entry[6]) for entry in some] for some in deliveries] == [
        [(7, tag, b"%d" % tag) for tag in range(1, 5)]
    ]
