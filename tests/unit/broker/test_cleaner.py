"""One old message never pins a blob: what is left of mostly dead ones moves, and survives every crash."""

import pytest
from cold_messages import bodies, cold_count, let_go, queue_of
from watched_engine import WatchedEngine
from whole_broker import GROUP, PERSISTENT, Client, WholeBroker

from leveret.broker.durability import cleaner
from leveret.broker.durability.blobs import StoredBlob
from leveret.broker.durability.records import RecordType
from leveret.storage.blob import decode_blob, iter_records
from leveret.storage.engine import BEGINNING, Corrupt, Position

pytestmark = pytest.mark.usefixtures("no_slack")


@pytest.fixture
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean for every dead byte."""
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 0)


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


async def upkeep(broker: WholeBroker) -> None:
    """A checkpoint, what is dead dropped, what is sparse cleaned."""
    assert broker._committer is not None
    await broker._committer.checkpoint()


async def restarted(engine: WatchedEngine, *, read_back: bool = False) -> WholeBroker:
    return await WholeBroker(engine).start(read_back=read_back)


async def moved(engine: WatchedEngine) -> int:
    """How many MOVED records the log holds."""
    count = 0
    async for _, data in engine.read(GROUP, BEGINNING):
        payload = decode_blob(data).payload
        count += sum(kind == RecordType.MOVED for kind, _, _ in iter_records(payload))
    return count


async def sparse_blob(broker: WholeBroker, client: Client, *some: bytes) -> StoredBlob:
    """A blob with these messages of `q`, and ballast that is dead by now."""
    for name in ("q", "ballast"):
        client.declare(name)
    half = len(some) // 2
    client.publish("q", *some[:half])
    client.publish("ballast", *([bytes(1000)] * 20))
    client.publish("q", *some[half:])
    await broker.commit()
    blob = max(broker.broker.journal.blobs, key=lambda blob: blob.position)
    assert blob.copies == 20 + len(some)
    client.channel.queue_purge("ballast")
    await broker.commit()
    return blob


async def test_what_is_left_moves_and_the_blob_goes_with_the_next_checkpoint(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    victim = await sparse_blob(broker, client, b"1", b"2")
    await upkeep(broker)
    assert victim.live_copies == 0
    assert await moved(engine) == 2
    assert await engine.read_one(GROUP, Position(victim.position)) is not None
    await upkeep(broker)
    assert await engine.read_one(GROUP, Position(victim.position)) is None
    assert broker.broker.journal.blobs.get(victim.position) is None
    assert broker.live_copies == 2
    assert broker.broker.journal.blobs.size < 2000
    assert await bodies(broker, client, "q") == [b"1", b"2"]


async def test_a_broker_that_is_told_to_stop_leaves_it_to_the_next_start(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    """There may be gigabytes of it."""
    await sparse_blob(broker, client, b"1", b"2")
    assert broker._committer is not None
    broker._committer.stop()
    await broker._committer.finish()
    assert await moved(engine) == 0
    after = await restarted(engine)
    await upkeep(after)
    assert await moved(engine) == 2


async def histories(engine: WatchedEngine) -> list[tuple[bytes, bool, int]]:
    """After a restart: body, redelivered and delivery count of all in `q`, in order."""
    after = await restarted(engine, read_back=True)
    return [
        (copy.message.body, copy.redelivered, copy.delivery_count)
        for lane in queue_of(after, "q").lanes
        for copy in lane
    ]


@pytest.mark.parametrize("upkeeps", [1, 2, 3])
@pytest.mark.parametrize("is_cold", [False, True])
@pytest.mark.parametrize("is_crash", [False, True])
async def test_order_and_history_survive(
    engine: WatchedEngine, broker: WholeBroker, client: Client, is_cold: bool, is_crash: bool, upkeeps: int
) -> None:
    """An end right after the move, after the victim was dropped, and after another checkpoint."""
    client.declare("q", x_queue_type="quorum")
    client.declare("ballast")
    for some in ((b"0",), (b"1", b"2", b"3"), (b"4",)):
        client.publish("q", *some)
        if len(some) > 1:
            client.publish("ballast", *([bytes(1000)] * 20))
        await broker.commit()
    assert len(await bodies(broker, client, "q")) == 5
    client.channel.ack(3, multiple=False)  # body 2
    client.channel.nack(2, multiple=False, requeue=True)
    client.connection.close()  # the others have failed
    client = broker.client()
    client.channel.queue_purge("ballast")
    client.publish("q", b"5")
    await broker.commit()
    if is_cold:
        let_go(broker)
        assert cold_count(broker, "q") == 5
    for _ in range(upkeeps):
        await upkeep(broker)
    assert await moved(engine) == 2
    if not is_crash:
        await broker.stop()
    assert await histories(engine) == [
        (b"0", True, 1),
        (b"1", True, 0),
        (b"3", True, 1),
        (b"4", True, 1),
        (b"5", is_crash, 0),  # after a crash nobody knows whether it was delivered
    ]


async def test_what_is_with_a_consumer_moves_and_can_be_acked(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    victim = await sparse_blob(broker, client, b"1", b"2", b"3")
    client.get("q")
    client.get("q")
    await upkeep(broker)
    await upkeep(broker)
    assert broker.broker.journal.blobs.get(victim.position) is None
    client.channel.ack(1, multiple=False)
    await broker.commit()
    assert broker.live_copies == 2
    after = await restarted(engine)
    assert await bodies(after, after.client(), "q") == [b"2", b"3"]


async def test_what_ends_while_it_is_about_to_move_does_not(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    await sparse_blob(broker, client, b"1", b"2", b"3")
    client.get("q")

    async def meanwhile() -> None:
        client.channel.ack(1, multiple=False)
        client.publish("q", b"4")

    engine.meanwhile = meanwhile
    await upkeep(broker)
    assert await moved(engine) == 2
    await broker.commit()
    assert broker.live_copies == 3
    after = await restarted(engine)
    assert await bodies(after, after.client(), "q") == [b"2", b"3", b"4"]


async def test_a_blob_that_dies_meanwhile_needs_no_move(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    victim = await sparse_blob(broker, client, b"1", b"2")
    let_go(broker)

    async def meanwhile() -> None:
        client.channel.queue_purge("q")
        engine.lost = {victim.position}

    engine.meanwhile = meanwhile
    await upkeep(broker)
    await upkeep(broker)
    assert await moved(engine) == 0
    assert broker.live_copies == 0


async def test_a_message_of_several_queues_moves_for_those_that_have_it(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    names = [f"q{number}" for number in range(8)]
    for name in names:
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.declare("ballast")
    client.publish("ballast", *([bytes(1000)] * 20))
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [b"body"])
    await broker.commit()
    for name in ("ballast", *names[:5]):
        client.channel.queue_purge(name)
    client.get("q5")
    queue_of(broker, "q6").lane(0).let_go(0)
    await broker.commit()
    await upkeep(broker)
    await upkeep(broker)
    assert (await moved(engine), broker.live_copies) == (1, 3)
    after = await restarted(engine)
    found = {name: await bodies(after, after.client(), name) for name in names}
    assert found == {name: [b"body"] if name in names[5:] else [] for name in names}
    assert await bodies(broker, client, "q6") == await bodies(broker, client, "q7") == [b"body"]


async def test_one_body_in_many_queues_is_not_moved_for_the_queues_that_are_done(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    """By copies little is alive, by bytes nearly all."""
    names = [f"q{number}" for number in range(10)]
    for name in names:
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [bytes(10_000)])
    await broker.commit()
    blobs = broker.broker.journal.blobs
    (blob,) = [blob for blob in blobs if blob.live_copies]
    for name in names[:7]:
        client.channel.queue_purge(name)
    await broker.commit()
    assert list(blobs.sparse) == [blob]
    for _ in range(2):
        await upkeep(broker)
        assert list(blobs.sparse) == []
    assert await moved(engine) == 0
    assert len(engine.reads) == 1, "it is not looked at again and again"
    assert blob.live_copies == 3
    client.channel.queue_purge("q7")
    client.channel.queue_purge("q8")
    await broker.commit()
    assert list(blobs.sparse) == [blob], "now perhaps"


async def test_a_large_message_stays_where_it_is(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    for name in "abc":
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    body = bytes(3 * engine.caps.blob_max_bytes)
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [body])
    await broker.commit()
    for name in "ab":
        client.channel.queue_purge(name)
    await broker.commit()
    for _ in range(2):
        await upkeep(broker)
    assert await moved(engine) == 0
    after = await restarted(engine)
    assert await bodies(after, after.client(), "c") == [body]


async def test_a_large_message_of_very_many_queues_stays_where_it_is(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    """What names it is long then, and what is left of that short."""
    names = [f"q{number}" for number in range(100)]
    for name in names:
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    body = bytes(3 * engine.caps.blob_max_bytes)
    client.channel.publish("amq.fanout", "", False, False, PERSISTENT, [body])
    await broker.commit()
    for name in names[1:]:
        client.channel.queue_purge(name)
    await broker.commit()
    for _ in range(2):
        await upkeep(broker)
    assert await moved(engine) == 0
    after = await restarted(engine)
    assert await bodies(after, after.client(), names[0]) == [body]


async def test_nothing_moves_while_little_is_dead(
    engine: WatchedEngine, broker: WholeBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 1 << 20)
    victim = await sparse_blob(broker, client, b"1", b"2")
    await upkeep(broker)
    assert victim.live_copies == 2
    assert engine.reads == []


async def test_a_missing_victim_ends_the_broker(
    engine: WatchedEngine, broker: WholeBroker, client: Client
) -> None:
    engine.lost = {(await sparse_blob(broker, client, b"1", b"2")).position}
    with pytest.raises(Corrupt, match="holds live messages, is missing"):
        await upkeep(broker)


async def test_one_old_message_among_many_never_pins_the_log(engine: WatchedEngine) -> None:
    """Every blob keeps one message alive; the log stays near to what they take."""
    broker = await WholeBroker(engine, checkpoint_every_bytes=10_000).start()
    client = broker.client()
    for name in ("old", "new"):
        client.declare(name)
    for number in range(300):
        client.publish("old", b"%d" % number)
        client.publish("new", *([bytes(300)] * 10))
        await broker.commit()
        client.channel.queue_purge("new")
        await broker.commit()
        if number % 3 == 0:
            let_go(broker)
    for _ in range(2):
        await upkeep(broker)
    assert broker.live_copies == 300
    assert sum(size for _, size in await engine.blobs(GROUP)) < 60_000
    after = await restarted(engine)
    assert await bodies(after, after.client(), "old") == [b"%d" % number for number in range(300)]


async def test_the_larger_the_log_the_longer_a_round(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that writes fast would never catch up with one step per checkpoint."""
    monkeypatch.setattr(cleaner, "AT_ONCE", 1)
    broker = await WholeBroker(engine, checkpoint_every_bytes=10_000_000).start()
    client = broker.client()
    victims = [await sparse_blob(broker, client, b"%d" % number, b"") for number in range(40)]
    assert broker._committer is not None
    await broker._committer._cleaner.clean(enough_bytes=1)
    still_alive = sum(victim.live_copies > 0 for victim in victims)
    assert 15 <= still_alive <= 21


async def test_publishers_wait_while_it_is_far_behind(
    engine: WatchedEngine, broker: WholeBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log would grow for as long as they write faster than it can clean."""
    monkeypatch.setattr(cleaner, "AT_ONCE", 1)
    monkeypatch.setattr(cleaner, "BEHIND_BYTES", 50_000)  # of about 80,000
    for number in range(4):
        await sparse_blob(broker, client, b"%d" % number, b"")
    blobs = broker.broker.journal.blobs
    waited, released = [], []

    async def meanwhile() -> None:
        waited.append(blobs.publishers_wait)
        if blobs.publishers_wait:
            blobs.when_released(lambda: released.append(blobs.dead_size))
        engine.meanwhile = meanwhile

    engine.meanwhile = meanwhile
    assert not blobs.publishers_wait
    await upkeep(broker)
    assert waited[:3] == [False, False, True]  # the first step shows whether it is of use
    assert not waited[-1]
    assert released
    assert min(released) < 60_000  # before all is done
    assert not blobs.publishers_wait


async def test_publishers_never_wait_for_one_that_has_failed(
    engine: WatchedEngine, broker: WholeBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "AT_ONCE", 1)
    monkeypatch.setattr(cleaner, "BEHIND_BYTES", 0)
    victims = [await sparse_blob(broker, client, b"%d" % number, b"") for number in range(2)]
    engine.lost = {victims[1].position}
    with pytest.raises(Corrupt):
        await upkeep(broker)
    assert not broker.broker.journal.blobs.publishers_wait
