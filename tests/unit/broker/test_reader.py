"""Reading back: one pass over a blob for all who want it; nothing is lost meanwhile, nothing guessed."""

import asyncio

import pytest
from cold_messages import bodies, cold_count, let_go, queue_of, settle_down
from watched_engine import WatchedEngine
from whole_broker import GROUP, PERSISTENT, Client, WholeBroker

from leveret.broker.durability.reader import BLOBS_AT_ONCE
from leveret.broker.durability.records import RecordType
from leveret.broker.queues.lane import Lane
from leveret.broker.queues.windows import TIGHT_READ_COPIES, Windows
from leveret.storage.blob import decode_blob, iter_records, pack_record
from leveret.storage.engine import Corrupt, Position


@pytest.fixture
async def engine() -> WatchedEngine:
    engine = WatchedEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: WatchedEngine) -> WholeBroker:
    return await WholeBroker(engine).start()


@pytest.fixture
def client(broker: WholeBroker) -> Client:
    return broker.client()


def want(broker: WholeBroker, *names: str) -> list[Lane]:
    """The heads of these queues are wanted."""
    lanes = [lane for name in names for lane in queue_of(broker, name).lanes]
    for lane in lanes:
        lane.want_more()
    return lanes


def position_of(broker: WholeBroker, name: str) -> int:
    """Of the first blob that a queue has messages in, all of them on the disk only."""
    (lane,) = queue_of(broker, name).lanes
    assert lane.cold is not None
    return lane.cold.head(1)[0].position


def in_memory(broker: WholeBroker, name: str) -> list[bytes]:
    return [copy.message.body for lane in queue_of(broker, name).lanes for copy in lane]


async def cold_queue(broker: WholeBroker, client: Client, *some: bytes, name: str = "q") -> int:
    """A queue with these messages in one blob; returns where."""
    client.declare(name)
    client.publish(name, *some)
    await broker.commit()
    let_go(broker)
    return position_of(broker, name)


async def to_all(broker: WholeBroker, client: Client, body: bytes, *names: str) -> None:
    for name in names:
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [body])
    await broker.commit()
    let_go(broker)


async def test_a_missing_blob_ends_the_broker(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    position = await cold_queue(broker, client, b"1")
    engine.lost = {position}
    want(broker, "q")
    with pytest.raises(Corrupt, match=f"position {position}, which holds live messages, is missing"):
        await broker.read()


async def test_a_damaged_blob_ends_the_broker(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    position = await cold_queue(broker, client, b"1")
    data = await engine.read_one(GROUP, Position(position))
    assert data is not None
    engine.changed[position] = data[:-1] + b"2"
    want(broker, "q")
    with pytest.raises(Corrupt, match=f"group 0, position {position}: the blob's CRC"):
        await broker.read()


async def test_a_blob_with_fewer_messages_than_it_must_have_ends_the_broker(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    position = await cold_queue(broker, client, b"1", b"2", b"3")
    data = await engine.read_one(GROUP, Position(position))
    assert data is not None
    payload = decode_blob(data).payload
    *_, (_, last, _) = [record for record in iter_records(payload) if record[0] == RecordType.PUBLISH]
    engine.change_payload(position, payload[: last - 5])
    want(broker, "q")
    with pytest.raises(
        Corrupt, match=f"position {position}: 3 messages of queue 'q' .* must be there, 2 are"
    ):
        await broker.read()
    assert in_memory(broker, "q") == []


async def test_a_blob_that_several_want_is_read_once(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    client.declare("other")
    client.publish("other", b"a", b"b")
    position = await cold_queue(broker, client, b"1", b"2")
    want(broker, "q", "other")
    await broker.read()
    assert engine.reads == [[position]]
    assert (in_memory(broker, "q"), in_memory(broker, "other")) == ([b"1", b"2"], [b"a", b"b"])


async def test_a_message_of_several_queues_is_one_message(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    """Its body is in memory once, also when the queues want it one after the other."""
    await to_all(broker, client, b"x" * 1000, "a", "b", "c")
    want(broker, "a", "b")
    await broker.read()
    want(broker, "c")
    await broker.read()
    assert len(engine.reads) == 2
    copies = [copy for name in "abc" for lane in queue_of(broker, name).lanes for copy in lane]
    assert len(copies) == 3
    assert len({id(copy.message) for copy in copies}) == 1
    assert [copy.queue.name for copy in copies] == ["a", "b", "c"]


async def test_only_those_who_want_it_get_it(broker: WholeBroker, client: Client) -> None:
    await to_all(broker, client, b"body", "a", "b")
    want(broker, "b")
    await broker.read()
    assert (cold_count(broker, "a"), cold_count(broker, "b")) == (1, 0)
    assert in_memory(broker, "a") == []


async def test_so_many_blobs_at_once(engine: WatchedEngine, broker: WholeBroker, client: Client) -> None:
    names = [f"q{number}" for number in range(BLOBS_AT_ONCE + 3)]
    for name in names:
        await cold_queue(broker, client, b"body of " + name.encode(), name=name)
    want(broker, *names)
    await broker.read()
    assert [len(positions) for positions in engine.reads] == [BLOBS_AT_ONCE, 3]
    assert [in_memory(broker, name) for name in names] == [[b"body of " + name.encode()] for name in names]


async def test_while_memory_is_tight_a_few_at_a_time(engine: WatchedEngine) -> None:
    broker = await WholeBroker(engine, windows=Windows(-1)).start()
    client = broker.client()
    client.declare("q")
    expected = [b"%d" % number for number in range(2 * TIGHT_READ_COPIES + 5)]
    client.publish("q", *expected)
    await broker.commit()
    for count in (TIGHT_READ_COPIES, 2 * TIGHT_READ_COPIES, len(expected)):
        want(broker, "q")
        await broker.read()
        assert in_memory(broker, "q") == expected[:count]
    assert queue_of(broker, "q").message_count == len(expected)


async def test_what_is_purged_meanwhile_stays_purged(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    """Its blob may be gone already."""
    engine.lost = {await cold_queue(broker, client, b"1", b"2")}

    async def purge() -> None:
        client.channel.queue_purge("q")
        client.publish("q", b"3")

    engine.meanwhile = purge
    want(broker, "q")
    await broker.read()
    assert not broker.broker.reader.is_wanted
    assert await bodies(broker, client, "q") == [b"3"]
    await settle_down(broker)
    assert broker.live_copies == 1


async def test_what_is_deleted_meanwhile_stays_deleted(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    await to_all(broker, client, b"both", "a", "b")

    async def delete() -> None:
        client.channel.queue_delete("a", if_unused=False, if_empty=False)

    engine.meanwhile = delete
    lane_a, lane_b = want(broker, "a", "b")
    await broker.read()
    assert (list(lane_a), lane_a.count) == ([], 0)
    assert [copy.message.body for copy in lane_b] == [b"both"]
    await settle_down(broker)
    assert broker.live_copies == 1


async def test_what_is_moved_meanwhile_is_read_where_it_lies_now(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    client.declare("other")
    client.publish("other", *([b"pads"] * 5))
    old = await cold_queue(broker, client, b"1", b"2")
    data = await engine.read_one(GROUP, Position(old))
    assert data is not None
    client.channel.queue_purge("other")
    await broker.commit()

    async def move() -> None:
        broker.broker.journal.move(broker.broker.journal.blobs[old], decode_blob(data).payload)
        await broker.commit_batch()

    engine.meanwhile = move
    engine.lost = {old}
    want(broker, "q")
    await broker.read()
    assert len(engine.reads) == 2
    assert engine.reads[0] == [old]
    assert engine.reads[1] != [old]
    assert in_memory(broker, "q") == [b"1", b"2"]


async def test_what_is_published_meanwhile_comes_behind(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    await cold_queue(broker, client, b"1", b"2")

    async def publish() -> None:
        client.publish("q", b"3")
        await broker.commit_batch()
        let_go(broker)

    engine.meanwhile = publish
    want(broker, "q")
    await broker.read()
    assert await bodies(broker, client, "q") == [b"1", b"2", b"3"]


async def test_the_task_reads_whenever_something_is_wanted(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    await cold_queue(broker, client, b"1")
    await cold_queue(broker, client, b"2", name="r")
    task = asyncio.create_task(broker.broker.reader.run(engine, GROUP))
    for name in ("q", "r"):
        called = asyncio.Event()
        queue_of(broker, name).when_read(called.set)
        want(broker, name)
        await asyncio.wait_for(called.wait(), 5)
        assert cold_count(broker, name) == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_task_ends_with_what_it_cannot_read(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    engine.lost = {await cold_queue(broker, client, b"1")}
    want(broker, "q")
    with pytest.raises(Corrupt):
        await asyncio.wait_for(broker.broker.reader.run(engine, GROUP), 5)


async def test_a_large_message_is_joined(engine: WatchedEngine, broker: WholeBroker, client: Client) -> None:
    size = (BLOBS_AT_ONCE + 2) * engine.caps.blob_max_bytes
    body = bytes(range(256)) * (size // 256)
    await cold_queue(broker, client, body)
    want(broker, "q")
    await broker.read()
    assert in_memory(broker, "q") == [body]
    assert max(len(positions) for positions in engine.reads) <= BLOBS_AT_ONCE


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_large_message_without_one_of_its_parts_ends_the_broker(
    engine: WatchedEngine, broker: WholeBroker, client: Client, is_lost: bool
) -> None:
    position = await cold_queue(broker, client, bytes(3 * engine.caps.blob_max_bytes))
    part = broker.broker.journal.blobs[position].parts[1]
    if is_lost:
        engine.lost = {part}
    else:
        engine.change_payload(part, pack_record(RecordType.TOPOLOGY, b"\x80"))
    want(broker, "q")
    with pytest.raises(Corrupt, match=f"position {part} (with|is not) a part of its body"):
        await broker.read()
    assert in_memory(broker, "q") == []
