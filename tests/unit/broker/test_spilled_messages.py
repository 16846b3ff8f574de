"""What a queue promises, it keeps for spilled transient messages, too; and the log knows nothing of them."""

import asyncio

import pytest
from cold_messages import bodies, drain, get, queue_of, settle_down
from spilled_messages import OddSpill, numbered, publish, spilled_count
from whole_broker import GROUP, PERSISTENT, TRANSIENT, WholeBroker

from leveret.broker.durability import blobs, spiller
from leveret.broker.queues.lane import COPY_BYTES, LET_GO_AT_BYTES, WINDOW_BYTES
from leveret.broker.queues.queue import HeadNotInMemory
from leveret.broker.queues.windows import TIGHT_READ_COPIES, Windows
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.storage.blob import decode_blob
from leveret.storage.memory import MemoryEngine

EVERYTHING = b"all"


@pytest.fixture
def spill() -> OddSpill:
    return OddSpill()


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: MemoryEngine, spill: OddSpill) -> WholeBroker:
    """It spills all it can."""
    return await WholeBroker(engine, windows=Windows(0), spill=spill).start()


def properties(*, priority: int | None = None, expiration: str | None = None) -> bytes:
    return encode_properties(BasicProperties(delivery_mode=1, priority=priority, expiration=expiration))


async def a_few_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("durable", [True, False])
async def test_they_are_counted_and_come_in_order(
    broker: WholeBroker, spill: OddSpill, durable: bool
) -> None:
    client, queue_name = broker.client(), "q"
    client.declare(queue_name, durable=durable)
    publish(client, queue_name, b"1", b"22", b"333")
    await broker.spill()
    queue = queue_of(broker, queue_name)
    assert (queue.message_count, queue.ready_bytes) == (3, 6)
    assert spilled_count(broker, queue_name) == queue.cold_count == 3
    assert queue.index_bytes > 0
    publish(client, queue_name, b"new")
    with pytest.raises(HeadNotInMemory):
        client.get(queue_name)
    assert await bodies(broker, client, queue_name) == [b"1", b"22", b"333", b"new"]
    assert (queue.message_count, queue.ready_bytes, queue.cold_count) == (0, 0, 0)
    assert spill.stats.blobs == 0


async def test_a_persistent_message_in_a_transient_queue_is_one_of_them(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    client.publish("q", b"1", properties=PERSISTENT)
    await broker.spill()
    assert spilled_count(broker, "q") == 1
    assert await bodies(broker, client, "q") == [b"1"]


async def test_consumers_get_them(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    publish(client, "q", b"1", b"2", b"3")
    await broker.spill()
    client.consume("q", no_ack=True)
    publish(client, "q", b"4")
    await settle_down(broker)
    assert client.wire.bodies == [b"1", b"2", b"3", b"4"]
    assert spill.stats.blobs == 0


async def test_the_log_knows_nothing_of_them(engine: MemoryEngine, broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    for body in numbered(3):
        client.publish("q", b"durable " + body)
        publish(client, "q", b"transient " + body)
    await broker.commit()
    await broker.spill()
    assert spilled_count(broker, "q") == 3
    assert broker.live_copies == 3
    await get(broker, client, "q")
    await get(broker, client, "q")
    client.channel.nack(2, multiple=True, requeue=True)
    await broker.commit()
    await broker.spill()
    logged = [blob async for _, blob in engine.read(GROUP, 0)]  # type: ignore[arg-type]  # BEGINNING
    assert b"durable 2" in b"".join(logged)
    assert b"transient" not in b"".join(logged)
    await broker.stop()
    after = await WholeBroker(engine).start()
    assert await drain(after, after.client(), "q") == [
        (b"durable 0", True),
        (b"durable 1", False),
        (b"durable 2", False),
    ]
    assert after.live_copies == 3
    assert list(queue_of(after, "q").returned.values()) == [0]


async def test_they_lie_between_persistent_ones(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    for number, body in enumerate(numbered(40)):
        client.publish("q", body, properties=TRANSIENT if number % 3 else PERSISTENT)
    await broker.commit()
    await broker.spill()
    assert (spilled_count(broker, "q"), queue_of(broker, "q").cold_count) == (26, 40)
    assert await bodies(broker, client, "q") == numbered(40)


async def test_what_is_left_of_a_run_is_told_from_what_lies_in_between(engine: MemoryEngine) -> None:
    """Memory is tight, so a part of it is read; the rest begins with a copy of its own."""
    broker = await WholeBroker(engine, windows=Windows(-1)).start()
    client = broker.client()
    client.declare("q")
    publish(client, "q", *numbered(TIGHT_READ_COPIES))
    client.publish("q", b"persistent")
    client.publish("q", b"last", properties=properties(expiration="500"))
    await broker.commit()
    await broker.spill()
    (lane,) = queue_of(broker, "q").lanes
    assert [len(table) for table in lane.cold_tables] == [1, 1]
    await get(broker, client, "q")
    assert [table.copies for table in lane.cold_tables] == [1, 1]
    broker.timers.advance(500)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == TIGHT_READ_COPIES
    assert await bodies(broker, client, "q") == [*numbered(TIGHT_READ_COPIES)[1:], b"persistent"]


async def test_delivered_is_remembered(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("dead", durable=False)
    client.declare(
        "q", durable=False, x_delivery_limit=2, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    publish(client, "q", b"1", b"2")
    for _ in range(3):
        await broker.spill()
        assert spilled_count(broker, "q") == 2
        client = broker.client()
        assert (await get(broker, client, "q") or ())[0] == b"1"
        client.connection.close()  # what it had has failed
    await settle_down(broker)
    assert await drain(broker, broker.client(), "q") == [(b"2", False)]
    assert await bodies(broker, broker.client(), "dead") == [b"1"]


async def test_what_many_took_and_gave_back_is_spilled_again(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    publish(client, "q", b"1", b"2")
    client.publish("q", b"3", b"4")
    await broker.commit()
    for _ in range(4):
        await get(broker, client, "q")
    broker.broker.windows.weigh_some()
    client.channel.nack(4, multiple=True, requeue=True)
    await broker.spill()
    assert queue_of(broker, "q").cold_count == 4, "what the log holds is let go of, too"
    assert await drain(broker, client, "q") == [(body, True) for body in (b"1", b"2", b"3", b"4")]


async def test_they_expire_on_time(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    client.declare("dead", durable=False)
    client.declare(
        "q", durable=False, x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    publish(client, "q", b"1")
    client.publish("q", b"2", properties=properties(expiration="500"))
    publish(client, "q", b"3")
    await broker.spill()
    broker.timers.advance(499)
    await settle_down(broker)
    assert spilled_count(broker, "q") == 3
    broker.timers.advance(1)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 2
    await broker.spill()
    assert spilled_count(broker, "q") == 2, "what was read with it goes back"
    broker.timers.advance(500)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert await bodies(broker, client, "dead") == [b"2", b"1", b"3"]
    assert spill.stats.blobs == 0


async def test_a_limit_drops_the_oldest(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    client.declare("q", durable=False, x_max_length=3)
    publish(client, "q", b"1", b"2", b"3")
    await broker.spill()
    publish(client, "q", b"4", b"5")
    await settle_down(broker)
    await broker.spill()
    assert queue_of(broker, "q").message_count == 3
    assert await bodies(broker, client, "q") == [b"3", b"4", b"5"]
    assert spill.stats.blobs == 0


async def test_the_highest_priority_comes_first(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q", durable=False, x_max_priority=5)
    for body, priority in ((b"a", 1), (b"b", 4), (b"c", 1), (b"d", 9), (b"e", None)):
        client.publish("q", body, properties=properties(priority=priority))
    await broker.spill()
    assert spilled_count(broker, "q") == 5
    client.publish("q", b"middle", properties=properties(priority=3))
    assert await bodies(broker, client, "q") == [b"d", b"b", b"middle", b"a", b"c", b"e"]


@pytest.mark.parametrize("how", ["purge", "delete"])
async def test_the_end_of_a_backlog_is_the_end_of_its_files(
    broker: WholeBroker, spill: OddSpill, how: str
) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    publish(client, "q", b"1", b"2", b"3")
    await broker.spill()
    publish(client, "q", b"in memory")
    if how == "purge":
        assert client.channel.queue_purge("q") == 4
    else:
        assert client.channel.queue_delete("q", if_unused=False, if_empty=False) == 4
    assert spill.stats.blobs == 0
    client.declare("q", durable=False)
    publish(client, "q", b"later")
    await broker.spill()
    assert await bodies(broker, client, "q") == [b"later"]


async def test_the_end_of_a_very_long_backlog_takes_its_time(
    broker: WholeBroker, spill: OddSpill, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    for body in numbered(5):
        publish(client, "q", body)
        await broker.spill()
    spilling = asyncio.create_task(broker.broker.spiller.run())
    await a_few_turns()
    monkeypatch.setattr(blobs, "RELEASES_MAX", 2)
    client.channel.queue_purge("q")
    assert spill.stats.blobs == 3
    await a_few_turns()
    spilling.cancel()
    assert spill.stats.blobs == 0


async def test_what_lies_in_many_queues_is_written_once(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    names = [f"q{number}" for number in range(5)]
    for name in names:
        client.declare(name, durable=False)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    publish(client, names[1], b"own 1")
    for body in (b"1" * 1000, b"2" * 1000):
        client.channel.publish("amq.fanout", "", False, False, TRANSIENT, [body])
    publish(client, names[0], b"own 2")
    await broker.spill()
    assert broker.spilled_copies == 12
    assert spill.stats.bytes < 3000
    for number, name in enumerate(names):
        own_1, own_2 = [b"own 1"] * (number == 1), [b"own 2"] * (number == 0)
        assert await bodies(broker, client, name) == [*own_1, b"1" * 1000, b"2" * 1000, *own_2]
    assert spill.stats.blobs == 0


async def test_what_lies_in_several_queues_keeps_the_order_of_each(broker: WholeBroker) -> None:
    client = broker.client()
    for name, keys in {"a": "2", "b": "12", "c": "1"}.items():
        client.declare(name, durable=False)
        for key in keys:
            client.channel.queue_bind(name, "amq.direct", key, {})
    publish(client, "a", b"0")  # so that it is looked at first, and the second message comes before the first
    for key in "12":
        client.channel.publish("amq.direct", key, False, False, TRANSIENT, [key.encode()])
    await broker.spill()
    assert await bodies(broker, client, "a") == [b"0", b"2"]
    assert await bodies(broker, client, "b") == [b"1", b"2"]
    assert await bodies(broker, client, "c") == [b"1"]


async def test_they_need_not_wait_for_a_commit_that_is_under_way(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    publish(client, "q", b"1")
    await broker.spill()
    broker.broker.journal.blobs.under_way_from = 1
    assert await bodies(broker, client, "q") == [b"1"]


async def test_each_lane_has_its_messages_together(broker: WholeBroker, spill: OddSpill) -> None:
    """Else a lane that is read back would read those of all others, too."""
    client = broker.client()
    for name in "ab":
        client.declare(name, durable=False)
    for _ in range(2 * spiller.BLOB_BYTES // 10_000):
        for name in "ab":
            publish(client, name, name.encode() * 10_000)
    await broker.spill()
    both = sum(b"a" * 1000 in blob and b"b" * 1000 in blob for blob in spill.written)
    assert len(spill.written) >= 4
    assert both <= 1


async def test_blobs_have_a_size_that_is_good_to_read(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    large = bytes(2 * spiller.BLOB_BYTES)
    publish(client, "q", large, b"small", large, *([bytes(1000)] * 500))
    await broker.spill()
    sizes = [len(blob) for blob in spill.written]
    assert len(sizes) == 5
    assert sizes[0] > len(large) < sizes[2]
    assert all(100 < size < spiller.BLOB_BYTES + 1000 for size in (sizes[1], *sizes[3:]))
    assert await bodies(broker, client, "q") == [large, b"small", large, *([bytes(1000)] * 500)]


async def test_what_is_in_memory_is_left_alone_while_it_is_little(
    engine: MemoryEngine, spill: OddSpill
) -> None:
    broker = await WholeBroker(engine, spill=spill).start()
    client = broker.client()
    client.declare("q", durable=False)
    body = bytes(100_000 - COPY_BYTES)
    publish(client, "q", *([body] * (LET_GO_AT_BYTES // 100_000)))
    await broker.spill()
    assert spill.written == []
    publish(client, "q", body)
    await broker.spill()
    (lane,) = queue_of(broker, "q").lanes
    assert LET_GO_AT_BYTES - spiller.AT_ONCE_BYTES - 100_000 < lane.bytes_in_memory < LET_GO_AT_BYTES
    assert broker.broker.windows.total == lane.bytes_in_memory
    for _ in range(WINDOW_BYTES // 100_000):
        client.get("q")
    with pytest.raises(HeadNotInMemory):
        client.get("q")


async def test_the_disk_alarm_counts_what_is_written(broker: WholeBroker, spill: OddSpill) -> None:
    client = broker.client()
    client.declare("q", durable=False)
    free = broker.broker.alarms.disk_free_bytes
    publish(client, "q", bytes(5000))
    await broker.spill()
    assert 5000 < free - broker.broker.alarms.disk_free_bytes < 6000


def test_blobs_are_as_in_the_log(spill: OddSpill) -> None:
    """One format, one decoder, one check of what was read."""

    async def spilled() -> None:
        engine = MemoryEngine()
        await engine.open()
        broker = await WholeBroker(engine, windows=Windows(0), spill=spill).start()
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", EVERYTHING)
        await broker.spill()

    asyncio.run(spilled())
    assert EVERYTHING in decode_blob(spill.written[0]).payload
