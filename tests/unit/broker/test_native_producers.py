"""Producers on the native wire: what was accepted is not enqueued twice, and what was not is never confirmed
for nothing, whichever end the first try came to.
"""

from collections.abc import AsyncIterator

import pytest
from native_house import F, Peer, entry
from whole_broker import PERSISTENT, TRANSIENT, WholeBroker

from leveret.broker.channels import producers
from leveret.broker.channels.producers import WINDOW
from leveret.protocol.reply_codes import ReplyCode
from leveret.storage.memory import MemoryEngine

ID = b"me"
LARGE = bytes(600_000)


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
    """A producer on channel 1, and a durable queue."""
    peer = await Peer(house).produce(ID)
    await peer.declare("q")
    return peer


def bodies(house: WholeBroker, queue: str = "q") -> list[bytes]:
    """What is ready in the queue, without disturbing it."""
    found = house.broker.vhosts["/"].queues.get(queue)
    return [] if found is None else sorted(copy.message.body for lane in found.lanes for copy in lane)


def jobs(*numbers: int, properties: bytes = PERSISTENT) -> list[list[object]]:
    return [entry("q", b"%d" % number, properties=properties) for number in numbers]


async def restart(house: WholeBroker, engine: MemoryEngine, *, how: str = "crash") -> WholeBroker:
    """What was committed comes back; a checkpoint is before it, over all of it, or everywhere."""
    if how == "stop":
        await house.stop()
    elif how == "checkpoint":
        assert house._committer is not None
        await house._committer.checkpoint()
    return await WholeBroker(engine).start()


HOW = ("crash", "stop", "checkpoint")


class TestInOneLife:
    async def test_the_reply_has_the_last_tag(self, house: WholeBroker, peer: Peer) -> None:
        peer.publish(*jobs(5, 6, 7), tag=5)
        await Peer(house).produce(ID, last_tag=7)
        await Peer(house).produce(b"somebody else")

    async def test_and_waits_until_that_is_durable(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        """Or a client begins anew with an id that a crash makes the broker remember."""
        peer.publish(*jobs(1, 2))
        await peer.durable()
        peer.request(F.CHANNEL_CLOSE)
        house.clock.advance(86_400_000)
        house.broker.producers.forget_old()
        assert peer.request(F.CHANNEL_OPEN, True, ID) == []
        await Peer(await restart(house, engine)).produce(ID, last_tag=2)

    async def test_what_is_committed_is_confirmed_again_and_there_once(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1, 2))
        assert await peer.durable() == [[F.CONFIRM, 1, [[0, 2]]]]
        again = await Peer(house).produce(ID, last_tag=2)
        again.publish(*jobs(1, 2, 3))
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 3]]]]
        assert bodies(house) == [b"1", b"2", b"3"]
        counters = house.broker.counters
        assert (counters.published, counters.sent_again, counters.confirmed) == (3, 2, 5)

    async def test_what_waits_for_its_commit_is_confirmed_with_it(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1, 2))
        again = Peer(house).open(2)
        again.request(F.CHANNEL_OPEN, True, ID)
        assert again.publish(*jobs(1, 2)) == []
        assert [frame[0] for frame in await again.durable()] == [F.REPLY, F.CONFIRM]
        assert bodies(house) == [b"1", b"2"]

    async def test_only_what_is_unanswered_needs_to_be_sent_again(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1, 2, 3, 4, 5))
        again = await Peer(house).produce(ID, last_tag=5)
        again.publish(*jobs(2), tag=2)
        again.publish(*jobs(4), tag=4)
        again.publish(*jobs(6), tag=6)
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 6]]]]
        assert house.broker.counters.confirmed == 3, "tags that were left out are no publishes"
        assert bodies(house) == [b"1", b"2", b"3", b"4", b"5", b"6"]

    async def test_confirms_that_come_later_do_not_count_what_was_left_out(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        for tag in (10, 20):
            peer.publish(*jobs(tag), tag=tag)
            assert await peer.durable() == [[F.CONFIRM, 1, [[0, tag]]]]
        peer.publish(*jobs(21), tag=21)
        assert await peer.durable() == [[F.CONFIRM, 1, [21]]]
        assert house.broker.counters.confirmed == 3

    async def test_what_was_refused_is_tried_again(self, house: WholeBroker, peer: Peer) -> None:
        nowhere = ["nowhere", "q", 0, PERSISTENT, b"2"]
        [refuse] = peer.publish(*jobs(1), nowhere, *jobs(3))
        assert refuse[:4] == [F.REFUSE, 1, [2], 404]
        peer.request(F.EXCHANGE_DECLARE, "nowhere", "fanout", False, False, False, False, {})
        peer.request(F.QUEUE_BIND, "q", "nowhere", "", {})
        await peer.durable()
        again = await Peer(house).produce(ID, last_tag=3)
        again.publish(*jobs(1), nowhere, *jobs(3))
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 3]]]]
        assert bodies(house) == [b"1", b"2", b"3"]
        again = await Peer(house).produce(ID, last_tag=3)
        again.publish(nowhere, tag=2)
        await again.durable()
        assert bodies(house) == [b"1", b"2", b"3"]

    async def test_what_was_too_large_is_refused_again(self, house: WholeBroker, peer: Peer) -> None:
        large = entry("q", bytes((1 << 20) + 1))
        for sender in (peer, Peer(house).open(2)):
            sender.request(F.CHANNEL_OPEN, True, ID, channel=3)
            [refuse] = sender.publish(large, channel=3)
            assert refuse[:4] == [F.REFUSE, 3, [1], 406]

    async def test_what_was_returned_is_tried_again(self, house: WholeBroker, peer: Peer) -> None:
        lost = entry("later", b"1", mandatory=1)
        peer.publish(lost)
        assert [frame[0] for frame in await peer.durable()] == [F.CONFIRM]
        await peer.declare("later")
        again = await Peer(house).produce(ID)
        again.publish(lost)
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house, "later") == [b"1"]

    async def test_what_no_queue_wanted_was_accepted(self, house: WholeBroker, peer: Peer) -> None:
        peer.publish(entry("later"))
        await peer.declare("later")
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(entry("later"))
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house, "later") == []

    async def test_what_was_consumed_meanwhile_does_not_come_again(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1))
        peer.request(F.GET, "q", True)
        await peer.durable()
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(*jobs(1))
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house) == []

    async def test_beyond_the_window_nobody_knows(self, house: WholeBroker, peer: Peer) -> None:
        peer.publish(*jobs(1))
        peer.publish(*jobs(WINDOW + 1), tag=WINDOW + 1)
        again = await Peer(house).produce(ID, last_tag=WINDOW + 1)
        [refuse] = again.publish(*jobs(1, 2))
        assert refuse[:4] == [F.REFUSE, 1, [1], 406]
        assert refuse[4].endswith(
            "publish tag 1 is more than 65536 behind: nobody knows whether it was accepted"
        )
        assert [frame[2] for frame in await again.durable()] == [[2]]
        assert bodies(house) == [b"1", b"2", b"%d" % (WINDOW + 1)]

    async def test_an_empty_batch_is_nothing(self, house: WholeBroker, peer: Peer) -> None:
        for tag in range(1, 100):
            assert peer.publish(tag=tag) == []
        await Peer(house).produce(ID)

    async def test_a_bug_in_the_middle_of_a_batch_does_not_make_what_went_before_come_twice(
        self, house: WholeBroker, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vhost = house.broker.vhosts["/"]
        route = vhost.route_publish

        def fail_at_two(exchange: str, routing_key: str, *rest: object) -> object:
            if routing_key == "bug":
                raise RuntimeError("a bug")
            return route(exchange, routing_key, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(vhost, "route_publish", fail_at_two)
        [close] = peer.publish(*jobs(1), entry("bug"), *jobs(3))
        assert close[:2] == [F.CLOSE, ReplyCode.INTERNAL_ERROR]
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(*jobs(1, 2, 3))
        await again.durable()
        assert bodies(house) == [b"1", b"2", b"3"]


class TestTakingOver:
    async def test_the_other_channel_is_closed_and_counts_no_more(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1))
        await Peer(house).produce(ID, last_tag=1)
        text = "RESOURCE_LOCKED - producer 6d65 was taken over by another channel"
        assert peer.publish(*jobs(2), tag=2) == [[F.CHANNEL_CLOSED, 1, 405, text, 0]]
        assert await peer.durable() == [], "what it had not heard it never will"
        assert bodies(house) == [b"1"]

    async def test_within_one_connection(self, house: WholeBroker, peer: Peer) -> None:
        peer.publish(*jobs(1))
        await peer.produce(ID, 2, last_tag=1)
        peer.publish(*jobs(1, 2), channel=2)
        assert await peer.durable() == [[F.CONFIRM, 2, [[0, 2]]]]
        assert bodies(house) == [b"1", b"2"]

    async def test_an_opening_that_was_long_under_way_comes_too_late(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        """It and what is behind it were sent over a connection that its client has left meanwhile."""
        present = await Peer(house).produce(ID, opening=3)
        late = Peer(house).open(2)
        text = "RESOURCE_LOCKED - producer 6d65 was taken over by another channel"
        assert late.request(F.CHANNEL_OPEN, True, ID, 2) == [[F.ERROR, 2, 405, text, F.CHANNEL_OPEN]]
        [close] = late.publish(*jobs(1))
        assert close[:2] == [F.CLOSE, ReplyCode.CHANNEL_ERROR]
        present.publish(*jobs(1))
        assert await present.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house) == [b"1"]

    async def test_it_comes_too_late_also_when_the_channel_is_closed(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        peer.publish(*jobs(1))
        (await Peer(house).produce(ID, last_tag=1, opening=3)).session.connection_lost()
        late = Peer(house).open(2)
        [error] = late.request(F.CHANNEL_OPEN, True, ID, 2)
        assert error[:3] == [F.ERROR, 2, 405]
        late.open(1)
        await Peer(house).produce(ID, last_tag=1, opening=4)

    async def test_the_end_of_the_other_channel_does_not_matter_any_more(
        self, house: WholeBroker, peer: Peer
    ) -> None:
        await Peer(house).produce(ID)
        peer.session.connection_lost()
        house.clock.advance(10**9)
        house.broker.producers.forget_old()
        assert len(house.broker.producers) == 1


class TestPartlyRefused:
    """By a fanout to a queue that takes it and one that is full."""

    @pytest.fixture
    async def fanout(self, house: WholeBroker) -> Peer:
        peer = await Peer(house).produce(ID)
        await peer.declare("takes")
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        peer.request(F.QUEUE_DECLARE, "full", False, True, False, False, full)
        for queue in ("takes", "full"):
            peer.request(F.QUEUE_BIND, queue, "amq.fanout", "", {})
        await peer.durable()
        return peer

    @pytest.mark.parametrize("how", ["not at all", *HOW])
    async def test_it_is_refused_again_and_not_enqueued_again(
        self, house: WholeBroker, engine: MemoryEngine, fanout: Peer, how: str
    ) -> None:
        message = ["amq.fanout", "", 0, PERSISTENT, b"1"]
        fanout.publish(message)
        [refuse] = await fanout.durable()
        assert refuse[:4] == [F.REFUSE, 1, [1], 506]
        if how != "not at all":
            house = await restart(house, engine, how=how)
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(message)
        assert await again.durable() == [refuse]
        assert bodies(house, "takes") == [b"1"]

    async def test_what_nobody_took_is_tried_again(self, house: WholeBroker, fanout: Peer) -> None:
        fanout.publish(entry("full"))
        [refuse] = await fanout.durable()
        assert refuse[:4] == [F.REFUSE, 1, [1], 506]
        fanout.request(F.QUEUE_DELETE, "full", False, False)
        await fanout.declare("full")
        again = await Peer(house).produce(ID)
        again.publish(entry("full"))
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]


class TestAfterARestart:
    @pytest.mark.parametrize("how", HOW)
    async def test_what_was_accepted_is_there_once(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, how: str
    ) -> None:
        peer.publish(*jobs(1, 2, 3))
        await peer.durable()
        house = await restart(house, engine, how=how)
        again = await Peer(house).produce(ID, last_tag=3)
        again.publish(*jobs(2, 3, 4), tag=2)
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 4]]]]
        assert bodies(house) == [b"1", b"2", b"3", b"4"]

    async def test_what_was_not_committed_is_enqueued(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        peer.publish(*jobs(1, 2))
        await peer.durable()
        peer.publish(*jobs(3, 4), tag=3)
        house = await restart(house, engine)
        again = await Peer(house).produce(ID, last_tag=2)
        again.publish(*jobs(3, 4), tag=3)
        assert bodies(house) == [b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize("how", HOW)
    async def test_what_the_restart_has_lost_is_enqueued_anew(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, how: str
    ) -> None:
        """Transient messages, queues that are not durable, what went nowhere; between others that stay."""
        peer.request(F.QUEUE_DECLARE, "t", False, False, False, False, {})
        batch = [
            *jobs(1),
            *jobs(2, properties=TRANSIENT),
            entry("t", b"3"),
            entry("nowhere", b"4"),
            *jobs(5),
            *jobs(6, properties=TRANSIENT),
        ]
        peer.publish(*batch)
        assert await peer.durable() == [[F.CONFIRM, 1, [[0, 6]]]]
        assert bodies(house) == [b"1", b"2", b"5", b"6"]
        house = await restart(house, engine, how=how)
        assert bodies(house) == [b"1", b"5"]
        again = await Peer(house).produce(ID, last_tag=5)
        again.request(F.QUEUE_DECLARE, "t", False, False, False, False, {})
        again.publish(*batch)
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 6]]]]
        assert bodies(house) == [b"1", b"2", b"5", b"6"]
        assert bodies(house, "t") == [b"3"]

    async def test_a_message_of_a_fanout_counts_when_one_queue_keeps_it(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        peer.request(F.QUEUE_DECLARE, "t", False, False, False, False, {})
        for queue in ("q", "t"):
            peer.request(F.QUEUE_BIND, queue, "amq.fanout", "", {})
        peer.publish(["amq.fanout", "", 0, PERSISTENT, b"1"])
        await peer.durable()
        house = await restart(house, engine)
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(["amq.fanout", "", 0, PERSISTENT, b"1"])
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house) == [b"1"]

    @pytest.mark.parametrize("how", HOW)
    async def test_what_was_consumed_before_it_was_even_written_does_not_come_again(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, how: str
    ) -> None:
        peer.request(F.GET, "q")
        await peer.durable()
        peer.publish(*jobs(1))
        peer.request(F.GET, "q", True)
        await peer.durable()
        house = await restart(house, engine, how=how)
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(*jobs(1))
        assert await again.durable() == [[F.CONFIRM, 1, [1]]]
        assert bodies(house) == []

    @pytest.mark.parametrize("how", HOW)
    async def test_a_large_message_is_one_like_any_other(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, how: str
    ) -> None:
        peer.publish(entry("q", LARGE))
        await peer.durable()
        house = await restart(house, engine, how=how)
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(entry("q", LARGE), entry("q", b"2"))
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 2]]]]
        assert bodies(house) == [LARGE, b"2"]

    async def test_many_runs_take_several_records(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("leveret.broker.durability.journal.STRETCHES_MAX", 10)
        mixed = [*jobs(0), *jobs(0, properties=TRANSIENT)] * 64
        peer.publish(*mixed)
        await peer.durable()
        [before] = house.broker.producers.images()
        house = await restart(house, engine)
        assert list(house.broker.producers.images()) == [before]
        again = await Peer(house).produce(ID, last_tag=127)
        again.publish(*mixed)
        assert len(bodies(house)) == 128

    async def test_a_producer_that_published_nothing_lasting_is_unknown(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        peer.publish(*jobs(1, properties=TRANSIENT))
        await peer.durable()
        house = await restart(house, engine, how="checkpoint")
        await Peer(house).produce(ID)


class TestForgetting:
    async def test_after_its_time_without_a_channel(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        peer.publish(*jobs(1))
        await peer.durable()
        peer.request(F.CHANNEL_CLOSE)
        house.clock.advance(86_399_000)
        house.broker.producers.forget_old()
        assert len(house.broker.producers) == 1
        house.clock.advance(1_000)
        house.broker.producers.forget_old()
        assert len(house.broker.producers) == 0

    @pytest.mark.parametrize("how", HOW)
    async def test_whoever_has_the_id_next_begins_anew_also_after_a_restart(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer, how: str
    ) -> None:
        peer.publish(*jobs(1, 2, 3))
        await peer.durable()
        peer.publish(*jobs(4), tag=4)
        peer.request(F.CHANNEL_CLOSE)
        house.clock.advance(86_400_000)
        house.broker.producers.forget_old()
        await peer.produce(ID)
        peer.publish(*jobs(11))
        await peer.durable()
        house = await restart(house, engine, how=how)
        again = await Peer(house).produce(ID, last_tag=1)
        again.publish(*jobs(11, 12))
        assert await again.durable() == [[F.CONFIRM, 1, [[0, 2]]]]
        assert bodies(house) == [b"1", b"11", b"12", b"2", b"3", b"4"]

    async def test_time_counts_from_the_restart(
        self, house: WholeBroker, engine: MemoryEngine, peer: Peer
    ) -> None:
        peer.publish(*jobs(1))
        await peer.durable()
        house = await restart(house, engine)
        house.clock.advance(86_400_000)
        house.broker.producers.forget_old()
        await house.commit()
        house = await restart(house, engine)
        await Peer(house).produce(ID)

    async def test_beyond_their_number_the_one_that_left_first_goes(
        self, house: WholeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(producers, "PRODUCERS_MAX", 2)
        peer = Peer(house).open(5)
        await peer.declare("q")
        for channel, name in ((1, b"a"), (2, b"b"), (3, b"c")):
            await peer.produce(name, channel)
            peer.publish(*jobs(channel), channel=channel)
        assert len(house.broker.producers) == 3, "all have a channel"
        for channel in (2, 1, 3):
            peer.request(F.CHANNEL_CLOSE, channel=channel)
            assert len(house.broker.producers) == 2
        await peer.produce(b"d", 4)
        await peer.produce(b"c", 3, last_tag=1)
        await peer.produce(b"a", 1)

    async def test_one_that_never_published_leaves_nothing(self, house: WholeBroker) -> None:
        peer = await Peer(house).produce(ID)
        assert len(house.broker.producers) == 1
        peer.session.connection_lost()
        assert len(house.broker.producers) == 0
        assert not house.broker.journal.has_pending
