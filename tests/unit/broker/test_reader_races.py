"""What others do while the reader reads, or while a commit is on its way."""

import asyncio
from collections.abc import Sequence

import pytest
from cold_messages import bodies, cold_count, let_go, queue_of, settle_down
from watched_engine import WatchedEngine
from whole_broker import GROUP, Client, WholeBroker

from leveret.broker.durability import cleaner
from leveret.broker.durability.reader import PENDING_MAX_BYTES
from leveret.broker.queues.queue import HeadNotInMemory
from leveret.storage.blob import decode_blob
from leveret.storage.engine import Append, EngineError, Position


class SlowEngine(WatchedEngine):
    """What is appended can be read only when the append has returned, and that waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.is_done = asyncio.Event()
        self.is_done.set()

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        await self.is_done.wait()
        return await super().append(items, urgent=urgent)


@pytest.fixture
async def engine() -> SlowEngine:
    engine = SlowEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: SlowEngine) -> WholeBroker:
    return await WholeBroker(engine).start()


@pytest.fixture
def client(broker: WholeBroker) -> Client:
    return broker.client()


async def turns() -> None:
    """Let everybody go on until they wait for something."""
    for _ in range(20):
        await asyncio.sleep(0)


async def make_cold(broker: WholeBroker, client: Client, **some: Sequence[bytes]) -> None:
    """Queues with these messages, all of them in one blob."""
    for name, messages in some.items():
        client.declare(name)
        client.publish(name, *messages)
    await broker.commit()
    let_go(broker)


def want_heads(broker: WholeBroker, *names: str) -> None:
    for name in names:
        for lane in queue_of(broker, name).lanes:
            lane.want_more()


async def test_who_waited_may_purge_what_was_read_for_another_queue(
    broker: WholeBroker, client: Client
) -> None:
    await make_cold(broker, client, q=[b"1"], r=[b"2", b"3"])
    purged: list[int] = []
    queue_of(broker, "q").when_read(lambda: purged.append(client.channel.queue_purge("r")))
    want_heads(broker, "q", "r")
    await broker.read()
    assert purged == [2]
    assert await bodies(broker, client, "q") == [b"1"]
    assert queue_of(broker, "r").message_count == 0
    await settle_down(broker)
    assert broker.live_copies == 1


@pytest.mark.parametrize("is_dropped", [False, True])
async def test_a_large_message_may_be_purged_while_its_parts_are_read(
    engine: SlowEngine, broker: WholeBroker, client: Client, is_dropped: bool
) -> None:
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.publish("q", bytes(3 * engine.caps.blob_max_bytes))
    await broker.commit()
    let_go(broker)
    (lane,) = queue_of(broker, "q").lanes
    assert lane.cold is not None
    parts = broker.broker.journal.blobs[lane.cold.head(1)[0].position].parts

    async def purge() -> None:
        assert client.channel.queue_purge("q") == 1
        if is_dropped:
            engine.lost = set(parts)

    async def wait_for_the_parts() -> None:
        engine.meanwhile = purge

    engine.meanwhile = wait_for_the_parts
    want_heads(broker, "q")
    await broker.read()
    assert engine.reads[1:] == [list(parts)]
    broker.timers.advance(1000)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert queue_of(broker, "dead").message_count == 0, "it was purged, it cannot expire"


async def test_what_is_being_moved_is_read_when_the_move_is_on_the_disk(
    engine: SlowEngine, broker: WholeBroker, client: Client
) -> None:
    await make_cold(broker, client, other=[b"pads"] * 5, q=[b"1", b"2"])
    (lane,) = queue_of(broker, "q").lanes
    assert lane.cold is not None
    old = lane.cold.head(1)[0].position
    data = await engine.read_one(GROUP, Position(old))
    assert data is not None
    client.channel.queue_purge("other")
    await broker.commit()
    engine.is_done.clear()
    broker.broker.journal.move(broker.broker.journal.blobs[old], decode_blob(data).payload)
    committing = asyncio.create_task(broker.commit_batch())
    await turns()
    with pytest.raises(HeadNotInMemory):
        client.get("q")
    await broker.read()
    assert cold_count(broker, "q") == 2
    engine.is_done.set()
    await committing
    assert await bodies(broker, client, "q") == [b"1", b"2"]


async def test_what_is_only_just_being_written_is_not_cleaned(
    engine: SlowEngine, broker: WholeBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 0)
    for name in ("q", "r"):
        client.declare(name)
    await broker.commit()
    client.publish("r", b"1", b"2", b"3")
    client.publish("q", b"kept")
    engine.is_done.clear()
    committing = asyncio.create_task(broker.commit_batch())
    await turns()
    client.channel.queue_delete("r", if_unused=False, if_empty=False)
    assert broker._committer is not None
    assert broker.broker.journal.blobs.sparse
    await broker._committer._clean()
    engine.is_done.set()
    await committing
    await settle_down(broker)
    assert await bodies(broker, client, "q") == [b"kept"]


async def test_the_reader_waits_for_a_disk_that_is_behind(
    engine: SlowEngine, broker: WholeBroker, client: Client
) -> None:
    """What it reads may be dead-lettered and so be written again at once."""
    await make_cold(broker, client, q=[b"1"])
    client.declare("other")
    client.publish("other", bytes(PENDING_MAX_BYTES))
    want_heads(broker, "q")
    reading = asyncio.create_task(broker.broker.reader.run(engine, GROUP))
    await turns()
    assert cold_count(broker, "q") == 1
    await broker.commit_batch()
    await turns()
    assert cold_count(broker, "q") == 0
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
