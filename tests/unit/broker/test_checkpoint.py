"""What a checkpoint holds comes back; what is damaged is refused; it may be made while the log goes on."""

import asyncio
from array import array

import pytest
from cold_messages import bodies, cold_count, drain, get, let_go, queue_of, settle_down
from whole_broker import GROUP, WholeBroker

from leveret.broker.alarms import Limits
from leveret.broker.durability import checkpointer, committer
from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.durability.checkpoint import Checkpoint, LoadedCheckpoint
from leveret.storage.engine import Corrupt, Position
from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: MemoryEngine) -> WholeBroker:
    """With a bit of everything: cold runs and others, history, expiries, priorities, a large message."""
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q", x_max_priority=3)
    client.declare("expires", x_message_ttl=1000)
    for number in range(4):
        client.publish("q", b"%d" % number)
        client.publish("expires", b"%d" % number)
        await broker.commit()
    client.get("q")
    client.channel.nack(1, multiple=False, requeue=True)
    client.get("q")
    client.channel.ack(2, multiple=False)
    await broker.commit()
    let_go(broker)
    client.publish("q", bytes(600_000))
    client.publish("expires", b"in memory")
    await broker.commit()
    return broker


async def checkpoint_of(broker: WholeBroker, engine: MemoryEngine) -> tuple[Position, bytes]:
    assert broker._committer is not None
    await broker._committer.checkpoint()
    found = await engine.last_checkpoint(GROUP)
    assert found is not None
    return found


async def test_it_says_where_everything_is(broker: WholeBroker, engine: MemoryEngine) -> None:
    position, data = await checkpoint_of(broker, engine)
    loaded = LoadedCheckpoint.unpack(data)
    assert loaded.checkpoint.position == position
    assert loaded.checkpoint.last_sequence == broker.broker.last_sequence == 10
    assert loaded.checkpoint.last_queue_id == 2
    queue, expires = loaded.queues
    assert (queue.queue_id, queue.delivering, queue.returned) == (1, True, {})
    assert {image.position for image in loaded.queues} == {position}
    (lane,) = queue.lanes
    assert lane.body_bytes == 3 + 600_000
    assert [row.live for row in lane.table] == [1, 1, 1, 1], "the first one was settled"
    (lane,) = expires.lanes
    assert lane.body_bytes == 4 + len(b"in memory")
    assert len(lane.table.expires) == 5, "those in memory expire, too"


async def test_of_a_large_message_it_knows_the_parts(broker: WholeBroker, engine: MemoryEngine) -> None:
    _, data = await checkpoint_of(broker, engine)
    ((position, (first, count)),) = LoadedCheckpoint.unpack(data).checkpoint.parts.items()
    sizes = dict(await engine.blobs(GROUP))
    assert sum(sizes[Position(first + number)] for number in range(count)) > 600_000
    assert Position(position) in sizes


def test_it_holds_what_is_put_in(engine: MemoryEngine) -> None:
    checkpoint = Checkpoint(7, 2**63, 2**32 - 1, b"hash", [b"one", b"two"])
    blobs = Blobs()
    for position, copies, parts in ((3, 5, range(0)), (4, 0, range(0)), (9, 1, range(5, 9))):
        blob = StoredBlob(blobs, position)
        blob.add(copies)
        blob.parts = parts
        checkpoint.add_blob(blob)
    loaded = LoadedCheckpoint.unpack(b"".join(checkpoint.pack()))
    assert loaded.checkpoint == Checkpoint(
        7,
        2**63,
        2**32 - 1,
        b"hash",
        [b"one", b"two"],
        blobs=array("Q", [3, 5, 9, 1]),
        parts={9: (5, 4)},
    )
    assert list(loaded.blob_copies()) == [(3, 5), (9, 1)]
    assert loaded.queues == []


async def test_cold_runs_and_others_are_all_the_same_to_it(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", *(b"%d" % number for number in range(20)))
    await broker.commit()
    for _ in range(9):
        client.get("q")
    for tag in (1, 3, 9):
        client.channel.ack(tag, multiple=False)
    await broker.commit()
    _, before = await checkpoint_of(broker, engine)
    client.channel.nack(8, multiple=True, requeue=True)
    await broker.commit()
    let_go(broker)
    assert cold_count(broker, "q") == 17
    _, after = await checkpoint_of(broker, engine)
    rows = [list(LoadedCheckpoint.unpack(data).queues[0].lanes[0].table) for data in (before, after)]
    assert rows[0] == rows[1]
    assert [(row.first, row.last, row.live, row.gone) for row in rows[0]] == [(1, 20, 17, 0b100000101)]
    assert LoadedCheckpoint.unpack(after).queues[0].returned.keys() == {2, 4, 5, 6, 7, 8}


async def test_cut_short_anywhere_it_is_refused(broker: WholeBroker, engine: MemoryEngine) -> None:
    _, data = await checkpoint_of(broker, engine)
    for size in range(len(data)):
        with pytest.raises(Corrupt):
            LoadedCheckpoint.unpack(data[:size])


async def test_damaged_anywhere_it_is_read_or_refused(broker: WholeBroker, engine: MemoryEngine) -> None:
    """The store's CRC finds damage long before; here nothing may fail in any other way."""
    position, data = await checkpoint_of(broker, engine)
    refused = 0
    for at in range(len(data)):
        for bit in range(8):
            damaged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                LoadedCheckpoint.unpack(damaged)
            except Corrupt:
                refused += 1
        lease = await engine.acquire(GROUP, "vandal")
        await engine.checkpoint(GROUP, lease.epoch, position, [damaged])
        try:
            await WholeBroker(engine).start(read_back=False)
        except Corrupt:
            refused += 1
    assert refused > len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93\x01\x02\x03",
        b"\xa6format",
        b"\xdd\x7f\xff\xff\xff",  # a list of two billion
        b"\xdb\xff\xff\xff\xff" + bytes(100),
    ],
)
def test_what_is_no_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        LoadedCheckpoint.unpack(data)


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One queue after each commit, and the next checkpoint as soon as one is made."""
    monkeypatch.setattr(checkpointer, "LOG_PER_CHECKPOINT", 0)
    monkeypatch.setattr(checkpointer, "SLICE_S", -1.0)


NAMES = [f"q{number}" for number in range(6)]


async def live(
    broker: WholeBroker, engine: MemoryEngine, steps: int, *, is_cold: bool
) -> dict[str, list[bytes]]:
    """So many commits of everything that can happen to queues; returns what they hold then."""
    client = broker.client()
    for name in NAMES:
        client.declare(name)
        client.publish(name, b"1", b"2", b"3")
    await broker.commit()
    expected = {name: [b"1", b"2", b"3"] for name in NAMES}
    for number in range(steps):
        name, other = NAMES[number % 6], NAMES[(number * 5 + 2) % 6]
        client.publish(name, b"new %d" % number)
        expected[name].append(b"new %d" % number)
        if number % 7 == 0:
            client.channel.queue_purge(other)
            expected[other] = []
        elif number % 11 == 0:
            client.channel.queue_delete(name, if_unused=False, if_empty=False)
            client.declare(name)
            client.publish(name, b"again")
            expected[name] = [b"again"]
        elif number % 3 == 0 and expected[other]:
            got = await get(broker, client, other)
            assert got is not None
            assert got[0] == expected[other].pop(0)
            client.channel.ack(0, multiple=True)
        await settle_down(broker)
        if is_cold:
            let_go(broker)
    return expected


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("is_cold", [False, True])
async def test_the_log_goes_on_while_it_is_made(is_cold: bool) -> None:
    """Every step of the walk finds the queues in another state; a crash after any of them loses nothing."""
    checkpoints = set()
    for steps in range(40):
        engine = MemoryEngine()
        await engine.open()
        before = await WholeBroker(engine, checkpoint_every_bytes=1).start()
        expected = await live(before, engine, steps, is_cold=is_cold)
        found = await engine.last_checkpoint(GROUP)
        if found is not None:
            checkpoints.add(found[0])
        after = await WholeBroker(engine).start(read_back=False)
        assert after.live_copies == sum(map(len, expected.values()))
        assert {name: cold_count(after, name) for name in NAMES} == {
            name: len(some) for name, some in expected.items()
        }
        client = after.client()
        assert {name: await bodies(after, client, name) for name in NAMES} == expected
        assert all(queue_of(after, name).ready_bytes == 0 for name in NAMES)
    assert len(checkpoints) > 3


@pytest.mark.usefixtures("slowly")
async def test_images_are_of_different_positions(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine, checkpoint_every_bytes=1).start()
    client = broker.client()
    for name in NAMES:
        client.declare(name)
        client.publish(name, b"1")
    await broker.commit()
    for number in range(3 * len(NAMES)):
        client.publish(NAMES[0], b"%d" % number)
        await broker.commit()
    found = await engine.last_checkpoint(GROUP)
    assert found is not None
    positions = [image.position for image in LoadedCheckpoint.unpack(found[1]).queues]
    assert positions == sorted(set(positions)), "each has seen one batch more"
    assert positions[0] > found[0]


async def test_while_the_disk_is_low_there_are_no_more_than_can_give_room_back(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last blob may be dead, too, such as one with very many acks."""
    monkeypatch.setattr(committer, "WORTH_RECLAIMING_BYTES", 1)
    limits = Limits(memory_bytes=1 << 60, disk_free_bytes=1 << 60)
    broker = await WholeBroker(engine, limits=limits).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1", b"2")
    client.consume("q", no_ack=True)
    await broker.commit()
    broker.broker.alarms.update(memory_bytes=0, disk_free_bytes=1 << 59)
    assert broker._committer is not None
    committing = asyncio.create_task(broker._committer.run())
    broker._committer.kick()
    for _ in range(500):
        await asyncio.sleep(0)
    assert len(broker.broker.journal.blobs) == 0
    assert broker.broker.counters.checkpoints <= 2
    broker._committer.stop()
    await committing
    assert queue_of(await WholeBroker(engine).start(), "q").message_count == 0


async def test_what_is_about_to_be_dropped_is_in_it(engine: MemoryEngine) -> None:
    """Its settle is not in the log yet."""
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q", x_max_length=1)
    client.publish("q", b"1")
    await broker.commit()
    client.get("q")
    client.publish("q", b"2")
    await broker.commit()
    client.channel.nack(1, multiple=False, requeue=True)
    assert queue_of(broker, "q").ready_bytes == 1
    await checkpoint_of(broker, engine)
    after = await WholeBroker(engine).start(read_back=False)
    assert cold_count(after, "q") == 2
    await settle_down(after)
    assert await drain(after, after.client(), "q") == [(b"2", True)]
