"""What a queue promises, it keeps for messages that are on the disk only, too."""

import pytest
from cold_messages import Chill, bodies, chills, cold_count, drain, get, let_go, queue_of, settle_down
from whole_broker import GROUP, WholeBroker

from leveret.broker.queues.lane import READ_RUNS_MAX
from leveret.broker.queues.queue import BURYING_AT, HeadNotInMemory
from leveret.broker.queues.windows import Windows
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: MemoryEngine) -> WholeBroker:
    return await WholeBroker(engine).start()


@pytest.fixture(params=["windows", "kill", "stop"])
def chill(request: pytest.FixtureRequest, engine: MemoryEngine) -> Chill:
    return chills(engine)[request.param]


async def restarted(engine: MemoryEngine) -> WholeBroker:
    return await WholeBroker(engine).start(read_back=False)


def properties(*, priority: int | None = None, expiration: str | None = None) -> bytes:
    return encode_properties(BasicProperties(delivery_mode=2, priority=priority, expiration=expiration))


async def publish_in_blobs(broker: WholeBroker, queue: str, *some: bytes, **of_message: int | str) -> None:
    """Each message in a commit of its own."""
    client = broker.client()
    for body in some:
        client.publish(queue, body, properties=properties(**of_message))  # type: ignore[arg-type]
        await broker.commit()
    client.connection.close()


async def test_they_are_counted_and_come_in_order(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q")
    await publish_in_blobs(broker, "q", b"1", b"22", b"333")
    broker = await chill(broker)
    queue = queue_of(broker, "q")
    assert cold_count(broker, "q") == 3
    assert (queue.message_count, queue.ready_bytes) == (3, 6)
    client = broker.client()
    client.publish("q", b"new")
    with pytest.raises(HeadNotInMemory):
        client.get("q")
    assert await bodies(broker, client, "q") == [b"1", b"22", b"333", b"new"]
    assert (queue.message_count, queue.ready_bytes) == (0, 0)


async def test_a_consumer_gets_them(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q")
    await publish_in_blobs(broker, "q", b"1", b"2", b"3")
    broker = await chill(broker)
    client = broker.client()
    client.consume("q", no_ack=True)
    client.publish("q", b"4")
    await settle_down(broker)
    assert client.wire.bodies == [b"1", b"2", b"3", b"4"]
    assert broker.live_copies == 0


async def test_what_was_delivered_goes_back_in_front_of_them(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q")
    await publish_in_blobs(broker, "q", b"1", b"2", b"3")
    broker = await chill(broker)
    client = broker.client()
    await get(broker, client, "q")
    await broker.commit()
    let_go(broker)
    client.channel.nack(1, multiple=False, requeue=True)
    await broker.commit()
    let_go(broker)
    assert await drain(broker, client, "q") == [(b"1", True), (b"2", False), (b"3", False)]


async def test_a_purge_of_them_is_durable(broker: WholeBroker, chill: Chill, engine: MemoryEngine) -> None:
    broker.client().declare("q")
    await publish_in_blobs(broker, "q", b"1", b"2", b"3")
    broker = await chill(broker)
    client = broker.client()
    client.publish("q", b"in memory")
    assert client.channel.queue_purge("q") == 4
    client.publish("q", b"later")
    await broker.commit()
    assert broker.live_copies == 1
    after = await restarted(engine)
    assert queue_of(after, "q").message_count == 1
    assert after.live_copies == 1
    assert await bodies(after, after.client(), "q") == [b"later"]


async def test_a_purge_ends_what_is_left_of_a_run_whose_first_message_was_acked(
    broker: WholeBroker, engine: MemoryEngine
) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1", b"2", b"3")
    await broker.commit()
    client.get("q")
    client.channel.ack(1, multiple=False)
    await broker.commit()
    let_go(broker)
    assert client.channel.queue_purge("q") == 2
    await broker.commit()
    assert await bodies(await restarted(engine), (await restarted(engine)).client(), "q") == []


async def test_a_purge_ends_a_part_of_what_was_one_run(broker: WholeBroker, engine: MemoryEngine) -> None:
    """When memory is tight, a run is read back a part at a time; the log does not know of the cut."""
    client = broker.client()
    client.declare("q")
    client.publish("q", *(b"%d" % number for number in range(40)))
    await broker.commit()
    broker = await WholeBroker(engine, windows=Windows(-1)).start(read_back=False)
    client = broker.client()
    await get(broker, client, "q")
    assert 0 < cold_count(broker, "q") < 39
    assert client.channel.queue_purge("q") == 39
    await broker.commit()
    assert broker.live_copies == 1
    after = await restarted(engine)
    assert after.live_copies == 1
    assert await drain(after, after.client(), "q") == [(b"0", True)]


async def test_a_purge_lets_those_go_on_who_wait_for_the_head(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    await publish_in_blobs(broker, "q", b"1")
    let_go(broker)
    waiting = []
    with pytest.raises(HeadNotInMemory) as raised:
        client.get("q")
    raised.value.queue.when_read(lambda: waiting.append("goes on"))
    client.channel.queue_purge("q")
    await broker.read()
    assert waiting == ["goes on"]
    assert client.get("q") is None


async def test_a_purge_forgets_what_came_back_once(broker: WholeBroker, engine: MemoryEngine) -> None:
    """Else a queue that is purged every day would remember more every day."""
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1", b"2", b"3")
    await broker.commit()
    client.get("q")
    client.get("q")
    client.channel.nack(2, multiple=True, requeue=True)
    await broker.commit()
    client.get("q")  # comes back after the purge
    await publish_in_blobs(broker, "q", b"4", b"5")
    let_go(broker)
    assert queue_of(broker, "q").returned.keys() == {1, 2}
    client.channel.nack(3, multiple=False, requeue=True)
    await broker.commit()
    let_go(broker)
    assert cold_count(broker, "q") == 5
    client.channel.queue_purge("q")
    await broker.commit()
    assert queue_of(broker, "q").returned == {}
    assert queue_of(await restarted(engine), "q").returned == {}


async def test_a_purge_forgets_what_came_back_to_any_priority(broker: WholeBroker) -> None:
    """Sequences of one priority lie between those of the other."""
    client = broker.client()
    client.declare("q", x_max_priority=1)
    for _ in range(3):
        for priority in (0, 1):
            client.publish("q", b"body", properties=properties(priority=priority))
    await broker.commit()
    for _ in range(6):
        client.get("q")
    client.channel.nack(0, multiple=True, requeue=True)
    await broker.commit()
    queue = queue_of(broker, "q")
    next(iter(queue.lanes)).let_go(0)
    assert (cold_count(broker, "q"), len(queue.returned)) == (3, 6)
    client.channel.queue_purge("q")
    await broker.commit()
    assert queue.returned == {}


async def test_a_purge_forgets_what_has_only_just_come_back(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", b"body")
    await broker.commit()
    client.get("q")
    await broker.commit()
    client.channel.nack(0, multiple=True, requeue=True)
    let_go(broker)
    assert cold_count(broker, "q") == 1
    client.channel.queue_purge("q")
    await broker.commit()
    assert queue_of(broker, "q").returned == {}


async def test_a_deleted_queue_takes_them_along(
    broker: WholeBroker, chill: Chill, engine: MemoryEngine
) -> None:
    client = broker.client()
    for name in ("q", "other"):
        client.declare(name)
        client.channel.queue_bind(name, "amq.fanout", "", {})
    client.channel.publish("amq.fanout", "", False, False, properties(), [b"both"])
    broker = await chill(broker)
    client = broker.client()
    assert client.channel.queue_delete("q", if_unused=False, if_empty=False) == 1
    await broker.commit()
    assert broker.live_copies == 1
    after = await restarted(engine)
    assert set(after.broker.vhosts["/"].queues) == {"other"}
    assert after.live_copies == 1
    assert await bodies(after, after.client(), "other") == [b"both"]


async def test_what_was_delivered_of_a_queue_deleted_at_once_can_be_settled(broker: WholeBroker) -> None:
    """Published, delivered and deleted before anything was written."""
    client = broker.client()
    client.declare("q")
    client.consume("q")
    await broker.commit()
    client.publish("q", b"1", b"2", b"3")
    broker.end_turn()
    assert client.wire.bodies == [b"1", b"2", b"3"]
    client.channel.queue_delete("q", if_unused=False, if_empty=False)
    await broker.commit()
    client.channel.ack(1, multiple=False)
    client.channel.nack(2, multiple=False, requeue=True)
    client.channel.reject(3, requeue=False)
    await broker.commit()
    assert broker.live_copies == 0


async def test_they_expire_on_time(broker: WholeBroker, chill: Chill, engine: MemoryEngine) -> None:
    broker.client().declare("q", x_message_ttl=1000)
    await publish_in_blobs(broker, "q", b"1", b"2")
    await publish_in_blobs(broker, "q", b"3", expiration="500")
    broker = await chill(broker)
    assert cold_count(broker, "q") == 3
    broker.timers.advance(499)
    await broker.commit()
    assert cold_count(broker, "q") == 3
    broker.timers.advance(1)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 2
    broker.timers.advance(500)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert broker.live_copies == 0
    assert queue_of(await restarted(engine), "q").message_count == 0


async def test_expired_ones_are_dead_lettered(broker: WholeBroker, chill: Chill) -> None:
    client = broker.client()
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    await publish_in_blobs(broker, "q", *(b"%d" % number for number in range(20)))
    broker = await chill(broker)
    broker.timers.advance(1000)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert await bodies(broker, broker.client(), "dead") == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("surplus", [0, 1, 7])
async def test_a_cold_backlog_that_expires_is_buried_to_the_end(
    broker: WholeBroker, engine: MemoryEngine, surplus: int
) -> None:
    """While very many are dying, others wait on the disk; nobody may forget them there."""
    client = broker.client()
    client.declare("q", x_message_ttl=1000)
    client.publish("q", *([b"x"] * surplus))
    for _ in range(20):
        await broker.commit()
        client.publish("q", *([b"x"] * BURYING_AT))
    await broker.commit()
    let_go(broker)
    assert cold_count(broker, "q") == 20 * BURYING_AT + surplus
    broker.timers.advance(1000)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert broker.live_copies == 0


async def test_what_had_to_wait_for_the_burials_is_read_after_them(
    broker: WholeBroker, engine: MemoryEngine
) -> None:
    """Turn by turn: the reader looks when it may not bring anything yet."""
    client = broker.client()
    client.declare("q", x_message_ttl=1000)
    client.publish("q", b"odd")  # so that burials, some at a time, do not end just where others may go on
    for _ in range(READ_RUNS_MAX + 1):
        client.publish("q", *([b"x"] * 101))
        await broker.commit()
    let_go(broker)
    broker.timers.advance(1000)
    broker.end_turn()
    reader, queue = broker.broker.reader, queue_of(broker, "q")
    await reader.read(engine, GROUP)
    broker._scheduled.pop(0)()
    assert queue.is_burying
    while reader.is_wanted:
        await reader.read(engine, GROUP)
    assert cold_count(broker, "q") == 101
    broker.end_turn()
    assert reader.is_wanted
    await settle_down(broker)
    assert queue.message_count == broker.live_copies == 0


async def test_a_run_that_expires_while_it_is_the_head_is_read_once(
    broker: WholeBroker, chill: Chill
) -> None:
    broker.client().declare("q", x_message_ttl=1000)
    await publish_in_blobs(broker, "q", b"1", b"2")
    broker = await chill(broker)
    client = broker.client()
    broker.timers.advance(1000)
    with pytest.raises(HeadNotInMemory):
        client.get("q")
    await broker.commit()
    assert client.get("q") is None


async def test_a_lower_limit_drops_the_oldest(
    broker: WholeBroker, chill: Chill, engine: MemoryEngine
) -> None:
    client = broker.client()
    client.declare("dead")
    client.declare("q", x_max_length=3, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    await publish_in_blobs(broker, "q", b"1", b"2", b"3")
    broker = await chill(broker)
    await publish_in_blobs(broker, "q", b"4", b"5")
    assert queue_of(broker, "q").message_count == 3
    assert await bodies(broker, broker.client(), "dead") == [b"1", b"2"]
    after = await restarted(engine)
    assert await bodies(after, after.client(), "q") == [b"3", b"4", b"5"]


async def test_a_limit_in_bytes_drops_the_oldest(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q", x_max_length_bytes=6)
    await publish_in_blobs(broker, "q", b"111", b"222")
    broker = await chill(broker)
    await publish_in_blobs(broker, "q", b"3333")
    assert queue_of(broker, "q").ready_bytes == 4
    assert await bodies(broker, broker.client(), "q") == [b"3333"]


async def test_a_full_queue_refuses_whatever_is_in_memory(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q", x_max_length=2, x_overflow="reject-publish")
    await publish_in_blobs(broker, "q", b"1", b"2")
    broker = await chill(broker)
    await publish_in_blobs(broker, "q", b"3")
    assert await bodies(broker, broker.client(), "q") == [b"1", b"2"]


async def test_the_highest_priority_comes_first(broker: WholeBroker, chill: Chill) -> None:
    broker.client().declare("q", x_max_priority=5)
    for body, priority in ((b"low 1", 1), (b"high 1", 9), (b"low 2", 1), (b"high 2", 5), (b"none", 0)):
        await publish_in_blobs(broker, "q", body, priority=priority)
    broker = await chill(broker)
    assert cold_count(broker, "q") == 5
    client = broker.client()
    client.publish("q", b"middle", properties=properties(priority=3))
    await broker.commit()
    assert await bodies(broker, client, "q") == [b"high 1", b"high 2", b"middle", b"low 1", b"low 2", b"none"]


async def test_messages_of_one_blob_go_to_their_priorities(broker: WholeBroker, chill: Chill) -> None:
    client = broker.client()
    client.declare("q", x_max_priority=5)
    for body, priority in ((b"a", 1), (b"b", 4), (b"c", 1), (b"d", 4)):
        client.publish("q", body, properties=properties(priority=priority))
    broker = await chill(broker)
    assert await bodies(broker, broker.client(), "q") == [b"b", b"d", b"a", b"c"]


async def test_failed_deliveries_are_counted_while_a_message_is_cold(
    broker: WholeBroker, chill: Chill, engine: MemoryEngine
) -> None:
    client = broker.client()
    client.declare("dead")
    arguments = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
    client.declare("q", x_queue_type="quorum", x_delivery_limit=2, **arguments)
    await publish_in_blobs(broker, "q", b"1")
    for _ in range(3):
        broker = await chill(broker)
        client = broker.client()
        assert await get(broker, client, "q") is not None
        client.connection.close()  # what it had has failed
    await broker.commit()
    assert queue_of(broker, "q").message_count == 0
    assert await bodies(broker, broker.client(), "dead") == [b"1"]


async def test_a_transient_message_is_not_lost_between_those_on_the_disk(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1")
    client.publish("q", b"2", properties=encode_properties(BasicProperties(delivery_mode=1)))
    client.publish("q", b"3")
    await broker.commit()
    let_go(broker)
    assert cold_count(broker, "q") == 2
    assert await bodies(broker, client, "q") == [b"1", b"2", b"3"]


async def test_the_log_is_given_back_when_they_are_gone(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine, checkpoint_every_bytes=1, windows=Windows(0)).start()
    client = broker.client()
    client.declare("q")
    for number in range(30):
        client.publish("q", b"%d" % number)
        await broker.commit()
    assert cold_count(broker, "q") == 30
    for number in range(30):
        assert await get(broker, client, "q") == (b"%d" % number, False)
        client.channel.ack(number + 1, multiple=False)
        await broker.commit()
    await broker.stop()
    assert (await engine.stats()).blobs < 5
