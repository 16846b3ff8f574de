"""What is durable comes back from the log, exactly; what is damaged is not guessed at."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from whole_broker import TRANSIENT, WholeBroker

from leveret.broker.durability import checkpoint, recovery
from leveret.broker.durability.checkpoint import LoadedCheckpoint
from leveret.storage.engine import Corrupt, Position
from leveret.storage.memory import MemoryEngine

GROUP = 0


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


async def restarted(engine: MemoryEngine) -> WholeBroker:
    """What the next process finds."""
    return await WholeBroker(engine).start()


async def test_an_empty_log_is_an_empty_broker(engine: MemoryEngine) -> None:
    broker = await restarted(engine)
    assert broker.broker.vhosts["/"].queues == {}


async def test_committed_messages_come_back_in_order(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"1", b"2", b"3")
    await before.commit()
    assert (await restarted(engine)).client().drain("q") == [(b"1", False), (b"2", False), (b"3", False)]


async def test_what_was_not_committed_is_gone(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"kept")
    await before.commit()
    client.publish("q", b"lost")
    assert (await restarted(engine)).client().drain("q") == [(b"kept", False)]


async def test_others_have_their_turns_while_many_queues_come_back(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health checks are answered meanwhile. Each of the parts gives way on its own: none takes long."""
    for module in (checkpoint, recovery):
        monkeypatch.setattr(module, "STEP_QUEUES", 10)
    monkeypatch.setattr(recovery, "STEP_ROWS", 10)
    before = await WholeBroker(engine).start()
    client = before.client()
    for number in range(100):
        client.declare(str(number))
        client.publish(str(number), b"x")
    await before.stop()
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(take_turns())
    after = await WholeBroker(engine).start(read_back=False)
    others.cancel()
    assert turns >= 4 * 9, "unpacked, declared, filled with images, counted, handed over: ten steps each"
    assert len(after.broker.vhosts["/"].queues) == 100


async def test_transient_messages_and_queues_are_gone(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("durable")
    client.declare("transient", durable=False)
    client.publish("durable", b"transient", properties=TRANSIENT)
    client.publish("transient", b"persistent")
    await before.commit()
    after = await restarted(engine)
    assert list(after.broker.vhosts["/"].queues) == ["durable"]
    assert after.client().drain("durable") == []


async def test_settled_messages_stay_gone(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"1", b"2", b"3")
    await before.commit()
    client.consume("q")
    await before.commit()
    client.channel.ack(2, multiple=True)
    await before.commit()
    assert (await restarted(engine)).client().drain("q") == [(b"3", True)]


async def test_after_a_crash_a_queue_that_had_a_consumer_gives_everything_as_redelivered(
    engine: MemoryEngine,
) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("consumed")
    client.declare("untouched")
    client.consume("consumed")
    await before.commit()
    client.publish("consumed", b"seen")
    client.publish("untouched", b"not seen")
    await before.commit()
    assert client.wire.bodies == [b"seen"]
    after = (await restarted(engine)).client()
    assert after.drain("consumed") == [(b"seen", True)]
    assert after.drain("untouched") == [(b"not seen", False)]


async def test_after_a_clean_stop_redelivered_is_exact(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.channel.qos(0, 1, False)
    client.consume("q")
    client.publish("q", b"delivered", b"waiting")
    await before.commit()
    assert client.wire.bodies == [b"delivered"]
    await before.stop()
    assert (await restarted(engine)).client().drain("q") == [(b"delivered", True), (b"waiting", False)]


async def test_nothing_is_delivered_before_the_delivery_mark_is_durable(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"body")
    client.consume("q")
    broker.end_turn()
    assert client.wire.bodies == []
    await broker.commit()
    assert client.wire.bodies == [b"body"]


async def test_a_checkpoint_and_the_tail_after_it_fold_to_the_same(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = before.client()
    client.declare("q")
    for number in range(20):
        client.publish("q", b"%d" % number)
        await before.commit()
    for _ in range(5):
        got = client.channel.get("q", no_ack=True)
        assert got is not None
        await before.commit()
    client.publish("q", b"last")
    await before.commit()
    after = await restarted(engine)
    assert [body for body, _ in after.client().drain("q")] == [b"%d" % n for n in range(5, 20)] + [b"last"]


async def test_blobs_without_live_messages_are_dropped(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = broker.client()
    client.declare("q")
    for number in range(50):
        client.publish("q", b"%d" % number)
        await broker.commit()
        client.channel.get("q", no_ack=True)
        await broker.commit()
    assert (await engine.stats()).blobs < 10


async def test_a_message_is_dropped_only_when_every_queue_has_settled_it(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = before.client()
    for name in ("a", "b"):
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, b"\x10\x00\x02", [b"both"])
    await before.commit()
    client.channel.get("a", no_ack=True)
    await before.commit()
    after = (await restarted(engine)).client()
    assert after.drain("a") == []
    assert [body for body, _ in after.drain("b")] == [b"both"]


async def test_topology_comes_back(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.channel.exchange_declare(
        "logs", "topic", passive=False, durable=True, auto_delete=False, internal=False, arguments={}
    )
    client.declare("q", x_max_length=2)
    client.channel.queue_bind("q", "logs", "a.*", {})
    client.channel.queue_bind("q", "logs", "b.#", {})
    client.channel.queue_unbind("q", "logs", "b.#", {})
    client.declare("short-lived")
    client.channel.queue_delete("short-lived", if_unused=False, if_empty=False)
    await before.commit()
    for _ in range(2):
        after = await restarted(engine)
        client = after.client()
        assert set(after.broker.vhosts["/"].queues) == {"q"}
        for key in ("a.1", "b.1", "a.2", "a.3"):
            client.channel.publish("logs", key, False, False, TRANSIENT, [key.encode()])
        after.end_turn()
        assert client.drain("q") == [(b"a.2", False), (b"a.3", False)]
        await after.stop()


async def test_queue_ids_are_not_used_twice(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("first")
    client.publish("first", b"of the first")
    await before.commit()
    client.channel.queue_delete("first", if_unused=False, if_empty=False)
    await before.stop()
    middle = await restarted(engine)
    client = middle.client()
    client.declare("second")
    await middle.commit()
    assert (await restarted(engine)).client().drain("second") == []


async def test_a_transaction_over_two_queues_is_one_batch(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    for name in ("in", "out"):
        client.declare(name)
    client.publish("in", b"job")
    await before.commit()
    client.channel.tx_select()
    got = client.channel.get("in", no_ack=False)
    assert got is not None
    client.publish("out", b"result")
    client.channel.ack(got.delivery_tag, multiple=False)
    await before.commit()
    halfway = (await restarted(engine)).client()
    assert [body for body, _ in halfway.drain("in")] == [b"job"]
    assert halfway.drain("out") == []


async def checkpointed(engine: MemoryEngine) -> WholeBroker:
    """A broker with live messages on both sides of its checkpoint."""
    broker = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"before")
    await broker.commit()
    broker = await restarted(engine)
    broker.client().publish("q", b"after 1")
    await broker.commit()
    broker.client().publish("q", b"after 2")
    await broker.commit()
    return broker


async def test_a_missing_blob_with_live_messages_is_not_passed_over(engine: MemoryEngine) -> None:
    await checkpointed(engine)
    found = await engine.last_checkpoint(GROUP)
    assert found is not None
    lease = await engine.acquire(GROUP, "vandal")
    await engine.drop(
        GROUP, lease.epoch, [Position(next(LoadedCheckpoint.unpack(found[1]).blob_copies())[0])]
    )
    with pytest.raises(Corrupt, match=r"position 1, which holds 1 messages of queue 'q' .* is missing"):
        await restarted(engine)


class Holey(MemoryEngine):
    """Loses what the test names when it is read."""

    lost = Position(0)
    is_read_whole = False  # lost is what nobody reads at a start

    async def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        async for at, blob in super().read(group, after, upto):
            if at != self.lost or self.is_read_whole:
                yield at, blob

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        return [(at, size) for at, size in await super().blobs(group) if at != self.lost]


@pytest.mark.parametrize(("lost", "complaint"), [(2, "position 3 instead of 2"), (3, "ends at position 2")])
async def test_a_gap_after_the_checkpoint_is_not_passed_over(lost: int, complaint: str) -> None:
    engine = Holey()
    await engine.open()
    await checkpointed(engine)
    engine.lost = Position(lost)
    with pytest.raises(Corrupt, match=complaint):
        await restarted(engine)


async def test_a_checkpoint_of_a_later_format_is_refused(engine: MemoryEngine) -> None:
    await checkpointed(engine)
    lease = await engine.acquire(GROUP, "from the future")
    found = await engine.last_checkpoint(GROUP)
    assert found is not None
    newer = found[1].replace(b"\xa6format\x03", b"\xa6format\x63")
    assert newer != found[1]
    await engine.checkpoint(GROUP, lease.epoch, found[0], [newer])
    with pytest.raises(Corrupt, match="format 99"):
        await restarted(engine)


async def test_what_came_back_is_forgotten_when_it_is_settled(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"1", b"2")
    await before.commit()
    client.drain("q")
    client.channel.nack(2, multiple=True, requeue=True)
    await before.commit()
    assert (await restarted(engine)).broker.vhosts["/"].queues["q"].returned == {1: 0, 2: 0}
    before = await restarted(engine)
    before.client().channel.get("q", no_ack=True)
    await before.commit()
    for _ in range(2):
        after = await restarted(engine)
        assert after.broker.vhosts["/"].queues["q"].returned == {2: 0}
        await after.stop()


async def test_how_much_of_a_blob_lives_is_known_again(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", *([b"x"] * 10))
    await before.commit()
    for _ in range(7):
        client.channel.get("q", no_ack=True)
    await before.commit()
    for _ in range(2):
        after = await WholeBroker(engine).start(read_back=False)
        blobs = after.broker.journal.blobs
        (blob,) = [blob for blob in blobs if blob.live_copies]
        assert (blob.copies, blob.live_copies) == (10, 3)
        assert list(blobs.sparse) == [blob]
        assert blobs.size == sum(size for _, size in await engine.blobs(GROUP))
        await after.stop()


@pytest.mark.parametrize("is_checkpointed", [False, True])
async def test_a_missing_part_of_a_large_message_is_not_passed_over(is_checkpointed: bool) -> None:
    engine = Holey()
    await engine.open()
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", bytes(3 * engine.caps.blob_max_bytes))
    await before.commit()
    (blob,) = [blob for blob in before.broker.journal.blobs if blob.parts]
    if is_checkpointed:
        await before.stop()
    engine.lost = Position(blob.parts[1])
    engine.is_read_whole = True
    with pytest.raises(Corrupt, match=f"a part of the large message in the blob at position {blob.position}"):
        await restarted(engine)


async def test_a_quorum_queue_keeps_transient_messages_too(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine).start()
    client = before.client()
    for name, type_ in (("quorum", "quorum"), ("classic", "classic")):
        client.declare(name, x_queue_type=type_)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, TRANSIENT, [b"transient"])
    await before.commit()
    client.channel.queue_purge("classic")
    after = (await restarted(engine)).client()
    assert after.drain("quorum") == [(b"transient", False)]
    assert after.drain("classic") == []


async def test_a_checkpoint_keeps_what_an_open_transaction_has_acked(engine: MemoryEngine) -> None:
    before = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"1")
    await before.commit()
    client.channel.tx_select()
    client.get("q")
    client.channel.ack(1, multiple=False)
    await before.commit()
    client.declare("other")  # so that one more commit writes a checkpoint
    await before.commit()
    assert (await restarted(engine)).client().drain("q") == [(b"1", True)]
