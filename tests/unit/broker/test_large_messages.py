"""Messages larger than a blob lie in parts: whole or not at all, and gone with all their parts."""

from collections.abc import Sequence

import pytest
from cold_messages import bodies, chills, cold_count, drain, let_go, queue_of, settle_down
from whole_broker import GROUP, PERSISTENT, WholeBroker

from leveret.broker.durability.committer import PARTS_AT_ONCE
from leveret.storage.engine import Append, EngineError, Position, Unavailable
from leveret.storage.memory import BLOB_MAX_BYTES, MemoryEngine

LARGE = bytes(range(256)) * (5 * BLOB_MAX_BYTES // 2 // 256)
HUGE = LARGE * 10  # more parts than go into one append


class MortalEngine(MemoryEngine):
    """Dies before the append with this number, counted from when the test says."""

    appends_left: int | None = None

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        if self.appends_left is not None:
            if not self.appends_left:
                return [Unavailable("the engine died")] * len(items)
            self.appends_left -= 1
        return await super().append(items, urgent=urgent)


@pytest.fixture
async def engine() -> MortalEngine:
    engine = MortalEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: MortalEngine) -> WholeBroker:
    return await WholeBroker(engine).start()


async def restarted(engine: MemoryEngine) -> WholeBroker:
    return await WholeBroker(engine).start(read_back=False)


async def size_of_log(engine: MemoryEngine) -> int:
    return sum(size for _, size in await engine.blobs(GROUP))


@pytest.mark.parametrize("body", [LARGE, HUGE, LARGE[: BLOB_MAX_BYTES // 2 + 1], LARGE[:BLOB_MAX_BYTES]])
@pytest.mark.parametrize("how", ["windows", "kill", "stop"])
async def test_they_come_back_whole_and_in_order(
    engine: MortalEngine, broker: WholeBroker, body: bytes, how: str
) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", b"before", body, b"after", body + b"!")
    broker = await chills(engine)[how](broker)
    assert cold_count(broker, "q") == 4
    assert queue_of(broker, "q").ready_bytes == 12 + 2 * len(body)
    assert await bodies(broker, broker.client(), "q") == [b"before", body, b"after", body + b"!"]
    assert queue_of(broker, "q").ready_bytes == 0


async def test_no_blob_is_larger_than_the_engine_likes(engine: MortalEngine, broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    for size in (BLOB_MAX_BYTES // 2, BLOB_MAX_BYTES // 2 + 1, BLOB_MAX_BYTES, 3 * BLOB_MAX_BYTES):
        client.publish("q", bytes(size), b"small")
    await broker.commit()
    assert max(size for _, size in await engine.blobs(GROUP)) <= BLOB_MAX_BYTES + 100


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_they_are_dropped_with_all_their_parts(
    engine: MortalEngine, broker: WholeBroker, is_restarted: bool
) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", LARGE)
    await broker.commit()
    assert await size_of_log(engine) > len(LARGE)
    if is_restarted:
        await broker.stop()
        broker = await WholeBroker(engine).start()
        client = broker.client()
    client.channel.get("q", no_ack=True)
    await settle_down(broker)
    blobs = broker.broker.journal.blobs
    assert blobs.dead_size == blobs.size > len(LARGE)
    await broker.stop()
    assert await size_of_log(engine) < 1000
    assert await bodies(await restarted(engine), (await restarted(engine)).client(), "q") == []


async def test_parts_are_kept_while_one_queue_still_has_it(engine: MortalEngine) -> None:
    broker = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = broker.client()
    for name in ("a", "b"):
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [LARGE])
    await broker.commit()
    client.channel.queue_purge("a")
    for _ in range(3):
        client.publish("a", b"small")
        await broker.commit()
    broker = await WholeBroker(engine, checkpoint_every_bytes=1).start(read_back=False)
    assert await bodies(broker, broker.client(), "b") == [LARGE]


@pytest.mark.parametrize("appends_left", [0, 1])
async def test_a_crash_before_the_last_piece_leaves_nothing(engine: MortalEngine, appends_left: int) -> None:
    """Parts may go ahead, and then nobody ever asks for them."""
    before = await WholeBroker(engine).start()
    client = before.client()
    client.declare("q")
    client.publish("q", b"kept")
    await before.commit()
    small = await size_of_log(engine)
    client.channel.confirm_select()
    client.publish("q", HUGE, b"same batch")
    assert len(HUGE) > PARTS_AT_ONCE * BLOB_MAX_BYTES
    engine.appends_left = appends_left
    with pytest.raises(Unavailable):
        await before.commit()
    assert client.wire.confirms == []
    assert (await size_of_log(engine) > small) == bool(appends_left)
    engine.appends_left = None
    after = await restarted(engine)
    assert await bodies(after, after.client(), "q") == [b"kept"]
    await after.stop()
    assert await size_of_log(engine) < small + 1000
    again = await restarted(engine)
    assert await bodies(again, again.client(), "q") == [b"kept"]


async def test_the_log_goes_on_behind_parts_that_nobody_asks_for(engine: MortalEngine) -> None:
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    await broker.commit()
    client.publish("q", HUGE)
    engine.appends_left = 1
    with pytest.raises(Unavailable):
        await broker.commit()
    engine.appends_left = None
    for number in range(3):
        broker = await restarted(engine)
        client = broker.client()
        client.publish("q", b"%d" % number + LARGE)
        await broker.commit()
    broker = await restarted(engine)
    assert await bodies(broker, broker.client(), "q") == [b"%d" % number + LARGE for number in range(3)]


async def test_they_are_purged_expired_and_dead_lettered(engine: MortalEngine, broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("purged")
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.publish("purged", LARGE)
    client.publish("q", LARGE)
    await broker.commit()
    let_go(broker)
    assert cold_count(broker, "purged") == cold_count(broker, "q") == 1
    assert client.channel.queue_purge("purged") == 1
    broker.timers.advance(1000)
    await settle_down(broker)
    assert broker.live_copies == 1
    await broker.stop()
    assert len(LARGE) < await size_of_log(engine) < 1.1 * len(LARGE)
    after = await restarted(engine)
    assert await bodies(after, after.client(), "dead") == [LARGE]


async def test_a_large_message_that_comes_back_is_redelivered(
    engine: MortalEngine, broker: WholeBroker
) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", LARGE)
    await broker.commit()
    client.get("q")
    client.channel.nack(1, multiple=False, requeue=True)
    await broker.commit()
    let_go(broker)
    assert await drain(broker, client, "q") == [(LARGE, True)]
