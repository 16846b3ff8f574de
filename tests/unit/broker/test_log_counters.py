"""What is counted of the log and of what is read back from it."""

import pytest
from cold_messages import drain, get, let_go, queue_of
from whole_broker import WholeBroker

from leveret.broker.durability import cleaner
from leveret.broker.queues.windows import Windows
from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


async def with_backlog(engine: MemoryEngine, *bodies: bytes) -> WholeBroker:
    """A broker on the queue "q", each of whose messages lies in a blob of its own, on the disk only."""
    broker = await WholeBroker(engine, windows=Windows(0)).start()
    client = broker.client()
    client.declare("q")
    for body in bodies:
        client.publish("q", body)
        await broker.commit()
    let_go(broker)
    return broker


async def test_a_head_on_the_disk_is_one_miss_however_often_it_is_asked_for(engine: MemoryEngine) -> None:
    broker = await with_backlog(engine, b"1", b"2")
    counters = broker.broker.counters
    queue = queue_of(broker, "q")
    assert (queue.cold_count, counters.window_misses) == (2, 0)
    client = broker.client()
    client.consume("q")
    await broker.commit()  # nothing is delivered before the delivery mark is durable
    for _ in range(3):
        queue.dispatch()
    await broker.read()
    assert client.wire.bodies == [b"1", b"2"]
    assert queue.cold_count == 0
    assert (counters.window_misses, counters.blobs_read, counters.copies_read) == (1, 2, 2)


async def test_what_is_in_memory_is_no_miss(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1", b"2")
    await broker.commit()
    assert await drain(broker, client, "q") == [(b"1", False), (b"2", False)]
    counters = broker.broker.counters
    assert (counters.window_misses, counters.blobs_read) == (0, 0)


async def test_what_was_read_ahead_is_no_miss(engine: MemoryEngine) -> None:
    broker = await with_backlog(engine, b"1", b"2")
    await broker.read_everything()
    assert await drain(broker, broker.client(), "q") == [(b"1", False), (b"2", False)]
    counters = broker.broker.counters
    assert (counters.window_misses, counters.blobs_read, counters.copies_read) == (0, 2, 2)


async def test_the_index_grows_with_the_backlog(engine: MemoryEngine) -> None:
    broker = await with_backlog(engine, *(b"%d" % number for number in range(10)))
    queue = queue_of(broker, "q")
    assert 10 * 28 <= queue.index_bytes < 10 * 32


async def test_checkpoints_are_counted(engine: MemoryEngine) -> None:
    broker = await with_backlog(engine, b"1", b"2")
    counters, latest = broker.broker.counters, broker.broker.latest
    assert (counters.checkpoints, latest.checkpoint_bytes, latest.checkpoint_at_s) == (0, 0, 0)
    client = broker.client()
    await get(broker, client, "q")
    client.channel.ack(1, multiple=False)
    await broker.commit()
    await broker.stop()
    found = await engine.last_checkpoint(0)
    assert found is not None
    assert counters.checkpoints == 1
    assert latest.checkpoint_bytes == counters.checkpointed_bytes == len(found[1])
    assert latest.checkpoint_at_s == broker.clock.now_ms() / 1000
    assert [count for bound, count in counters.checkpoint_seconds.buckets() if bound == "+Inf"] == [1]
    assert counters.blobs_dropped == 2  # that of the acked message, and that which says so


async def test_cleaning_is_counted(engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 0)
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", *[b"x" * 100] * 10)
    await broker.commit()
    for _ in range(9):
        client.channel.get("q", no_ack=True)
    await broker.stop()  # with a checkpoint, after which the cleaner has a look
    counters = broker.broker.counters
    assert (counters.blobs_cleaned, counters.copies_moved) == (1, 1)


async def test_a_recovery_says_what_it_did(engine: MemoryEngine) -> None:
    before = await with_backlog(engine, b"1", b"2")
    await before.stop()
    found = await engine.last_checkpoint(0)
    assert found is not None
    broker = await WholeBroker(engine).start()
    latest = broker.broker.latest
    assert (latest.recovery_messages, latest.recovery_blobs, latest.recovery_records) == (2, 0, 0)
    assert (latest.checkpoint_bytes, latest.checkpoint_at_s) == (len(found[1]), 0)
    client = broker.client()
    client.declare("other")
    client.publish("other", b"3")
    await broker.commit()
    latest = (await WholeBroker(engine).start()).broker.latest
    assert (latest.recovery_messages, latest.recovery_blobs, latest.recovery_records) == (3, 1, 2)
    assert latest.recovery_bytes == (await engine.blobs(0))[-1][1]
