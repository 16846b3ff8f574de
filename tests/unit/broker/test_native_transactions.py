"""Transactions on the native wire: kept until the commit, all or nothing, on the disk when it is answered."""

from collections.abc import AsyncIterator

import pytest
from native_house import F, Peer, entry
from whole_broker import PERSISTENT, WholeBroker

from leveret.broker.queues.queue import Queue
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
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


def committed(peer: Peer) -> list[list[object]]:
    """The answer to an all-or-nothing commit, with the frames before it; the publishes begin at tag 1."""
    return peer.request(F.TX_COMMIT, True)


async def test_all_or_nothing_commits_what_arrives(peer: Peer) -> None:
    await take_one(peer)
    peer.publish(entry("q", mandatory=1), entry("nowhere"), tag=2)
    peer.send(F.ACK, 0, 1, [1])
    assert committed(peer) == []
    assert [frame[0] for frame in await peer.durable()] == [F.REPLY]
    assert (ready(peer), peer.house.broker.vhosts["/"].queues["q"].unacked_count) == (1, 0)


async def test_all_or_nothing_undoes_all_when_a_mandatory_message_has_no_queue(peer: Peer) -> None:
    await take_one(peer)
    peer.request(F.QUEUE_DECLARE, "soon gone", False, False, False, False, {})
    peer.publish(entry("q"), entry("soon gone", mandatory=1), entry("nowhere", mandatory=1), tag=2)
    peer.send(F.ACK, 0, 1, [1])
    peer.request(F.QUEUE_DELETE, "soon gone")
    returned, error = committed(peer)
    assert returned == [F.RETURN, 1, [[3, 312, "NO_ROUTE"], [4, 312, "NO_ROUTE"]]]
    text = "NO_ROUTE - exchange '' has no queue for routing key 'soon gone'"
    assert error[2:] == [312, text, F.TX_COMMIT]
    assert (ready(peer), peer.house.broker.vhosts["/"].queues["q"].unacked_count) == (0, 1)
    assert peer.house.broker.counters.returned == 0
    peer.publish(entry("q"), tag=5)
    committed(peer)
    await peer.durable()
    assert ready(peer) == 1  # the next one is not spoiled, and nothing of this one is in it


def limited(peer: Peer, name: str, **limits: object) -> Queue:
    """A queue that rejects publishes; `length=1` is `x-max-length`, and so on."""
    arguments = {f"x-max-{limit.replace('_', '-')}": value for limit, value in limits.items()}
    arguments = {"x-overflow": "reject-publish", **arguments}
    peer.request(F.QUEUE_DECLARE, name, False, False, False, False, arguments)
    return peer.house.broker.vhosts["/"].queues[name]


@pytest.mark.parametrize(
    ("limits", "sizes", "refused"),
    [
        ({"length": 3}, (1, 1), []),
        ({"length": 3}, (1, 1, 1), [3]),
        ({"length": 3}, (1, 1, 1, 1), [3, 4]),
        ({"length_bytes": 10}, (4, 5), []),
        ({"length_bytes": 10}, (4, 6, 5), [2]),
        ({"length_bytes": 10}, (10, 1), [1]),
        ({"length": 3, "length_bytes": 10}, (1, 9, 8), [2]),
        ({"length": 3, "priority": 5}, (1, 1, 1), [3]),
    ],
)
async def test_all_or_nothing_needs_room_for_all_of_its_messages(
    peer: Peer, limits: dict[str, object], sizes: tuple[int, ...], refused: list[int]
) -> None:
    full = limited(peer, "full", **limits)
    peer.publish(entry("full", b"1"))
    peer.request(F.TX_COMMIT)
    await peer.durable()
    peer.publish(*(entry("full", bytes(size)) for size in sizes), entry("q"), tag=2)
    frames = committed(peer) + await peer.durable()
    if not refused:
        assert [frame[0] for frame in frames] == [F.REPLY]
        assert (full.message_count, ready(peer)) == (1 + len(sizes), 1)
        return
    text = "RESOURCE_ERROR - queue 'full' in vhost '/' has no room for all of the transaction"
    assert frames[0] == [F.REFUSE, 1, [1 + position for position in refused], 506, text]
    assert frames[1][2:] == [506, text, F.TX_COMMIT]
    assert (full.message_count, ready(peer)) == (1, 0)


async def test_what_all_or_nothing_refuses_is_in_no_other_queue_and_not_dead_lettered(peer: Peer) -> None:
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": ""}
    peer.request(
        F.QUEUE_DECLARE, "full", False, False, False, False, arguments | {"x-dead-letter-routing-key": "q"}
    )
    for queue in ("full", "q"):
        peer.request(F.QUEUE_BIND, queue, "amq.fanout", "", {})
    peer.publish(["amq.fanout", "", 0, PERSISTENT, b"1"])
    assert [frame[0] for frame in committed(peer)] == [F.REFUSE, F.ERROR]
    assert ready(peer) == 0


async def test_what_a_waiting_consumer_takes_first_takes_no_room(peer: Peer) -> None:
    """Published in the same turn by others, that is; of its own messages all need room at once."""
    full = limited(peer, "full", length=2)
    taker = Peer(peer.house).open()
    taker.request(F.CONSUME, "full", 1)
    for tag, others in ((1, 2), (3, 1)):
        peer.house.client().publish("full", *(b"other" for _ in range(others)))
        peer.publish(entry("full"), entry("full"), tag=tag)
        assert [frame[0] for frame in committed(peer)] == []
        assert [frame[0] for frame in await peer.durable()] == [F.REPLY]
    assert (full.message_count, full.unacked_count) == (0, 7)
    peer.publish(*(entry("full") for _ in range(3)), tag=5)
    assert [frame[0] for frame in committed(peer)] == [F.REFUSE, F.ERROR]


async def test_messages_without_time_to_live_need_room_as_well(peer: Peer) -> None:
    full = limited(peer, "full", length=1)
    at_once = encode_properties(BasicProperties(expiration="0"))
    peer.publish(*(entry("full", properties=at_once) for _ in range(2)))
    assert [frame[0] for frame in committed(peer)] == [F.REFUSE, F.ERROR]
    peer.publish(entry("full", properties=at_once), tag=3)
    committed(peer)
    assert (full.message_count, full.enqueued_total) == (0, 1)


async def test_an_answer_by_direct_reply_to_counts_as_routed(peer: Peer) -> None:
    peer.publish(entry("amq.rabbitmq.reply-to.of-somebody-who-left", mandatory=1))
    assert [frame[0] for frame in committed(peer) + await peer.durable()] == [F.REPLY]


async def test_an_alternate_exchange_counts_as_route_while_its_queue_is_there(peer: Peer) -> None:
    peer.request(
        F.EXCHANGE_DECLARE, "x", "direct", False, False, False, False, {"alternate-exchange": "amq.fanout"}
    )
    peer.request(F.QUEUE_BIND, "q", "amq.fanout", "", {})
    lost = ["x", "no such key", 1, PERSISTENT, b"1"]
    peer.publish(lost)
    assert committed(peer) == []
    await peer.durable()
    peer.publish(lost, tag=2)
    peer.request(F.QUEUE_DELETE, "q")
    await peer.durable()
    assert [frame[0] for frame in committed(peer)] == [F.RETURN, F.ERROR]


async def test_all_that_is_wrong_is_told_and_what_came_first_is_the_answer(peer: Peer) -> None:
    peer.publish(entry("nowhere", mandatory=1), ["nope", "q", 0, PERSISTENT, b""])
    returned, error = committed(peer)
    assert returned == [F.RETURN, 1, [[1, 312, "NO_ROUTE"]]]
    assert error[2] == 404


async def test_a_channel_with_confirms_has_none(house: WholeBroker) -> None:
    peer = Peer(house).open()
    [error] = peer.request(F.TX_SELECT)
    assert error[2:4] == [406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"]
    for end in ((F.TX_COMMIT,), (F.TX_COMMIT, True), (F.TX_ROLLBACK,)):
        assert peer.request(*end)[0][3] == "PRECONDITION_FAILED - channel is not transactional"


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
