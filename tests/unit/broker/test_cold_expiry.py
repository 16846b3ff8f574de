"""Messages with a TTL that come and go between memory and disk: no trace of them stays in memory."""

import pytest
from cold_messages import bodies, cold_count, get, let_go, queue_of, settle_down
from whole_broker import GROUP, TRANSIENT, Client, WholeBroker

from leveret.broker.queues.expiry import CLEAN_UP_AT, CLEAN_UP_BYTES, COLD_RUNS_MAX
from leveret.broker.queues.queue import BURYING_AT_BYTES, Queue
from leveret.broker.queues.windows import Windows
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.storage.memory import MemoryEngine

HOUR_MS = 3_600_000
NOW_OR_NEVER, SHORT, LONG = (
    encode_properties(BasicProperties(delivery_mode=2, expiration=expiration))
    for expiration in ("0", "1000", "1000000")
)


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


@pytest.fixture
async def broker(engine: MemoryEngine) -> WholeBroker:
    """One that lets go of everything after each commit."""
    return await WholeBroker(engine, windows=Windows(0)).start()


@pytest.fixture
def client(broker: WholeBroker) -> Client:
    return broker.client()


async def publish(broker: WholeBroker, client: Client, body: bytes, *, expiration: str | None = None) -> None:
    """In a blob of its own."""
    properties = encode_properties(BasicProperties(delivery_mode=2, expiration=expiration))
    client.publish("q", body, properties=properties)
    await broker.commit()


def bodies_remembered(queue: Queue) -> int:
    """How many bytes of bodies the expiry keeps in memory."""
    return sum(len(copy.message.body) for *_, copy in queue._message_expiry._heap)


async def test_what_was_let_go_of_can_be_read_back_while_an_older_one_waits(
    broker: WholeBroker, client: Client
) -> None:
    """The expiry may still know the copy that was in memory before."""
    client.declare("q", x_message_ttl=HOUR_MS)
    some = [b"%d" % number for number in range(10)]
    client.publish("q", *some)
    broker.end_turn()
    assert client.get("q") == (b"0", False)
    await broker.commit()
    client.channel.nack(0, multiple=True, requeue=True)
    await publish(broker, client, b"last")
    let_go(broker)
    assert cold_count(broker, "q") == 11
    await broker.read_everything()
    assert [body for body, _ in client.drain("q")] == [*some, b"last"]


async def test_bodies_that_were_let_go_of_do_not_stay(broker: WholeBroker, client: Client) -> None:
    client.declare("q", x_message_ttl=HOUR_MS)
    await publish(broker, client, b"oldest")
    assert await get(broker, client, "q") == (b"oldest", False)
    for _ in range(30):
        await publish(broker, client, bytes(100_000))
    assert cold_count(broker, "q") == 30
    assert bodies_remembered(queue_of(broker, "q")) <= CLEAN_UP_BYTES + 100_000


async def test_bodies_that_were_acked_do_not_stay(broker: WholeBroker, client: Client) -> None:
    client.declare("q", x_message_ttl=HOUR_MS)
    client.publish("q", b"oldest", properties=TRANSIENT)
    client.consume("q")
    await broker.commit()
    for tag in range(2, 32):
        client.publish("q", bytes(100_000), properties=TRANSIENT)
        broker.end_turn()
        client.channel.ack(tag, multiple=False)
    assert bodies_remembered(queue_of(broker, "q")) <= CLEAN_UP_BYTES + 100_000


async def test_transient_ones_expire_on_the_disk_too(broker: WholeBroker, client: Client) -> None:
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    some = [b"%d" % number for number in range(50)]
    client.publish("q", *some, properties=TRANSIENT)
    await broker.spill()
    assert queue_of(broker, "q").cold_count == 50
    broker.timers.advance(1000)
    await settle_down(broker)
    assert queue_of(broker, "q").message_count == 0
    assert (broker.spilled_copies, broker.spilled_bytes) == (0, 0)
    assert await bodies(broker, client, "dead") == some


async def test_runs_that_were_read_are_not_remembered_until_they_expire(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("q", x_message_ttl=HOUR_MS)
    for _ in range(CLEAN_UP_AT + 10):
        await publish(broker, client, b"body")
        await get(broker, client, "q")
        client.channel.ack(0, multiple=True)
    assert len(queue_of(broker, "q")._message_expiry._cold) <= CLEAN_UP_AT


async def test_a_backlog_that_expired_on_the_disk_is_asked_for_little_by_little(
    engine: MemoryEngine, broker: WholeBroker, client: Client
) -> None:
    client.declare("q", x_message_ttl=1000)
    for _ in range(3 * COLD_RUNS_MAX):
        await publish(broker, client, b"body")
    queue = queue_of(broker, "q")
    broker.clock.advance(1000)
    assert queue._message_expiry.take_due() == []
    assert len(queue._message_expiry._cold) == 2 * COLD_RUNS_MAX
    for _ in range(3):
        broker.timers.advance(0)
        await settle_down(broker)
    assert queue.message_count == 0
    assert broker.live_copies == 0


async def test_what_expired_before_the_log_held_it_keeps_nothing_else_in_memory(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("q")
    for number in range(10):
        client.publish("q", b"%d" % number)
        client.publish("q", b"gone at once", properties=NOW_OR_NEVER)
        client.publish("q", b"and %d" % number)
        await broker.commit()
    assert cold_count(broker, "q") == 20
    expected = [b"%b%d" % (prefix, number) for number in range(10) for prefix in (b"", b"and ")]
    assert await bodies(broker, client, "q") == expected


async def test_what_has_not_expired_yet_goes_back_to_the_disk(broker: WholeBroker, client: Client) -> None:
    """Of many runs one message each has expired."""
    client.declare("q")
    for _ in range(50):
        for number in range(20):
            client.publish("q", b"body", properties=SHORT if number == 10 else LONG)
        await broker.commit()
    broker.timers.advance(1000)
    await settle_down(broker)
    for _ in range(5):
        broker.broker.windows.weigh_some()  # as the server does every now and then
    queue = queue_of(broker, "q")
    assert queue.message_count == 50 * 19
    assert queue.message_count - cold_count(broker, "q") < 3 * 19
    assert await bodies(broker, client, "q") == [b"body"] * 50 * 19


async def test_large_bodies_that_expire_are_not_all_in_memory_at_once(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    size = BURYING_AT_BYTES // 20
    for _ in range(100):
        await publish(broker, client, bytes(size))
    queue = queue_of(broker, "q")
    broker.timers.advance(1000)
    queue.dispatch()
    reader = broker.broker.reader
    while reader.is_wanted:
        await reader.read(broker._engine, GROUP)
        assert sum(len(death.copy.message.body) for death in queue._dying) < 2 * BURYING_AT_BYTES
    await settle_down(broker)
    assert queue_of(broker, "dead").message_count == 100
