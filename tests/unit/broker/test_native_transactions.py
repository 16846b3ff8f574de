"""Transactions on the native wire: kept until the commit, all or nothing, on the disk when it is answered."""

from collections.abc import AsyncIterator

import pytest
from native_house import F, Peer, entry
from whole_broker import PERSISTENT, WholeBroker

from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def engine() -> AsyncIterator[MemoryEngine]:
    engine = MemoryEngine()
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
async def house(engine: MemoryEngine) -> WholeBroker:
    return await WholeBroker(engine).start()


@pytest.fixture
async def peer(house: WholeBroker) -> Peer:
    """A client with a durable queue `q` and a transaction open on channel 1."""
    peer = Peer(house, message_max=100).open(confirm=False)
    await peer.declare("q")
    assert peer.request(F.TX_SELECT)[0][0] == F.REPLY
    return peer


def ready(peer: Peer) -> int:
    return peer.house.broker.vhosts["/"].queues["q"].message_count


async def take_one(peer: Peer) -> None:
    """Publish one message and take it, unacked, as delivery 1."""
    peer.publish(entry("q", b"job"))
    peer.request(F.TX_COMMIT)
    peer.request(F.GET, "q")
    await peer.durable()


async def test_publishes_wait_for_the_commit_and_its_reply_for_the_disk(peer: Peer) -> None:
    assert peer.publish(entry("q"), entry("q")) == []
    assert ready(peer) == 0
    assert peer.request(F.TX_COMMIT) == []
    assert ready(peer) == 2
    assert [frame[0] for frame in await peer.durable()] == [F.REPLY]


async def test_a_rollback_forgets_publishes_and_takes_acks_back(peer: Peer) -> None:
    await take_one(peer)
    peer.publish(entry("q"), tag=2)
    peer.send(F.ACK, 0, 1, [1])
    assert peer.request(F.TX_ROLLBACK)[0][0] == F.REPLY
    peer.request(F.TX_COMMIT)
    await peer.durable()
    assert ready(peer) == 0
    assert peer.request(F.NACK, [1])[0][0] == F.REPLY  # it is unacked again, so it can be handed back
    peer.request(F.TX_COMMIT)
    assert ready(peer) == 1


async def test_the_end_of_the_channel_rolls_back(peer: Peer) -> None:
    await take_one(peer)
    peer.publish(entry("q"), tag=2)
    peer.send(F.ACK, 0, 1, [1])
    peer.request(F.CHANNEL_CLOSE)
    assert ready(peer) == 1


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (["nope", "q", 0, PERSISTENT, b""], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'"),
        (
            entry("q", bytes(101)),
            406,
            "PRECONDITION_FAILED - message size 101 is larger than configured max size 100",
        ),
    ],
)
async def test_a_refused_publish_spoils_the_whole_transaction_but_not_the_next(
    peer: Peer, bad: list[object], code: int, text: str
) -> None:
    await take_one(peer)
    assert peer.publish(entry("q"), bad, tag=2) == [[F.REFUSE, 1, [3], code, text]]
    peer.send(F.ACK, 0, 1, [1])
    [error] = peer.request(F.TX_COMMIT)
    assert error[2:] == [code, text, F.TX_COMMIT]
    assert (ready(peer), peer.house.broker.vhosts["/"].queues["q"].unacked_count) == (0, 1)
    peer.publish(entry("q"), tag=4)
    peer.request(F.TX_COMMIT)
    assert ready(peer) == 1


async def test_a_refusal_and_the_commit_in_one_turn_come_in_this_order(peer: Peer) -> None:
    peer.protocol.send(F.PUBLISH, 1, 1, [["nope", "q", 0, PERSISTENT, b""]])
    assert [frame[0] for frame in peer.request(F.TX_COMMIT)] == [F.REFUSE, F.ERROR]


async def test_what_does_not_arrive_at_the_commit_is_named_before_the_reply(peer: Peer) -> None:
    for_one = {"x-max-length": 1, "x-overflow": "reject-publish"}
    peer.request(F.QUEUE_DECLARE, "full", False, False, False, False, for_one)
    peer.publish(entry("full"), entry("nowhere", mandatory=1), entry("full"), entry("q"))
    frames = peer.request(F.TX_COMMIT) + await peer.durable()
    assert [frame[:3] for frame in frames[:2]] == [
        [F.RETURN, 1, [[2, 312, "NO_ROUTE"]]],
        [F.REFUSE, 1, [3]],
    ]
    assert frames[1][3] == 506
    assert frames[2][0] == F.REPLY
    assert ready(peer) == 1


async def test_a_channel_with_confirms_has_none(house: WholeBroker) -> None:
    peer = Peer(house).open()
    [error] = peer.request(F.TX_SELECT)
    assert error[2:4] == [406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"]
    for end in (F.TX_COMMIT, F.TX_ROLLBACK):
        assert peer.request(end)[0][3] == "PRECONDITION_FAILED - channel is not transactional"


async def test_a_commit_is_whole_after_a_crash_or_not_there(engine: MemoryEngine, peer: Peer) -> None:
    await take_one(peer)
    peer.publish(entry("q", b"1"), entry("q", b"2"), tag=2)
    peer.send(F.ACK, 0, 1, [1])
    peer.request(F.TX_COMMIT)
    await peer.durable()
    peer.publish(entry("q", b"never committed"), tag=4)
    await peer.durable()
    recovered = await WholeBroker(engine).start()
    assert [body for body, _ in recovered.client().drain("q")] == [b"1", b"2"]
