"""What happens to messages while they are spilled, when the disk is in trouble, and when too many come."""

import asyncio
import logging

import pytest
from cold_messages import bodies, drain, get, queue_of
from spilled_messages import OddSpill, numbered, publish
from whole_broker import Client, WholeBroker

from leveret.broker.durability import spiller
from leveret.broker.queues.lane import WINDOW_BYTES
from leveret.broker.queues.windows import TIGHT_READ_COPIES, Windows
from leveret.storage.blob import CHAIN_START, decode_blob, encode_blob, iter_records
from leveret.storage.engine import Corrupt, Unavailable
from leveret.storage.memory import MemoryEngine


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


class TestWhileTheyAreWritten:
    """Five messages were packed, and are being written."""

    @pytest.fixture
    async def client(self, broker: WholeBroker, spill: OddSpill) -> Client:
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", *numbered(5))
        broker.end_turn()
        spill.may_write.clear()
        self.writing = asyncio.create_task(broker.broker.spiller.spill())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not self.writing.done()
        return client

    async def finish(self, spill: OddSpill) -> None:
        spill.may_write.set()
        await self.writing

    async def test_they_are_handed_out(self, broker: WholeBroker, spill: OddSpill, client: Client) -> None:
        assert [client.get("q"), client.get("q")] == [(b"0", False), (b"1", False)]
        await self.finish(spill)
        assert broker.spilled_copies == 3
        client.channel.nack(1, multiple=False, requeue=True)
        client.channel.ack(2, multiple=False)
        assert await drain(broker, client, "q") == [
            (b"0", True),
            (b"2", False),
            (b"3", False),
            (b"4", False),
        ]
        assert spill.stats.blobs == 0

    async def test_they_are_given_back(self, broker: WholeBroker, spill: OddSpill, client: Client) -> None:
        client.get("q")
        client.get("q")
        client.channel.nack(2, multiple=True, requeue=True)
        await self.finish(spill)
        assert broker.spilled_copies == 5
        assert await drain(broker, client, "q") == [(body, body in (b"0", b"1")) for body in numbered(5)]

    @pytest.mark.parametrize("how", ["purge", "delete", "take"])
    async def test_they_end(self, broker: WholeBroker, spill: OddSpill, client: Client, how: str) -> None:
        if how == "purge":
            client.channel.queue_purge("q")
        elif how == "delete":
            client.channel.queue_delete("q", if_unused=False, if_empty=False)
        else:
            client.drain("q")
        await self.finish(spill)
        assert spill.stats.blobs == broker.spilled_copies == 0

    async def test_more_come(self, broker: WholeBroker, spill: OddSpill, client: Client) -> None:
        publish(client, "q", b"5")
        broker.end_turn()
        await self.finish(spill)
        await broker.spill()
        assert broker.spilled_copies == 6
        assert await bodies(broker, client, "q") == numbered(6)


class TestTroubleWithTheDisk:
    async def test_messages_stay_in_memory(
        self, broker: WholeBroker, spill: OddSpill, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "leveret.broker.durability.spiller")
        client = broker.client()
        client.declare("q", durable=False)
        spill.write_error = Unavailable("the disk burns")
        publish(client, "q", *numbered(3))
        broker.end_turn()
        for _ in range(3):
            await broker.broker.spiller.spill()
        assert [record.getMessage() for record in caplog.records] == [
            "the transient messages of long backlogs stay in memory: the disk burns"
        ]
        assert client.get("q") == (b"0", False)
        assert queue_of(broker, "q").message_count == 2
        spill.write_error = None
        await broker.spill()
        assert "again" in caplog.records[-1].getMessage()
        assert broker.spilled_copies == 2
        assert await bodies(broker, client, "q") == [b"1", b"2"]

    async def test_a_full_disk_takes_what_it_can(self, engine: MemoryEngine) -> None:
        spill = OddSpill(capacity_bytes=600_000)
        broker = await WholeBroker(engine, windows=Windows(0), spill=spill).start()
        client = broker.client()
        client.declare("q", durable=False)
        some = [b"%d" % number + bytes(9_000) for number in range(100)]
        publish(client, "q", *some)
        broker.end_turn()
        await broker.broker.spiller.spill()
        assert spill.stats.blobs == 2
        (lane,) = queue_of(broker, "q").lanes
        assert lane.count_in_memory > 40
        assert await bodies(broker, client, "q") == some

    async def test_it_is_tried_again_later(
        self, broker: WholeBroker, spill: OddSpill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        is_written = asyncio.Event()

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                spill.write_error = None
                broker.broker.spiller.when_caught_up(is_written.set)

        monkeypatch.setattr(spiller.asyncio, "sleep", sleep)
        client = broker.client()
        client.declare("q", durable=False)
        spill.write_error = Unavailable("the disk burns")
        publish(client, "q", b"1")
        broker.end_turn()
        spilling = asyncio.create_task(broker.broker.spiller.run())
        async with asyncio.timeout(60):
            await is_written.wait()
        spilling.cancel()
        assert pauses == [spiller.RETRY_S] * 3
        assert broker.spilled_copies == 1

    async def test_what_cannot_be_read_ends_the_broker(self, broker: WholeBroker, spill: OddSpill) -> None:
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", b"1")
        await broker.spill()
        spill.read_error = Unavailable("the disk burns")
        with pytest.raises(Unavailable):
            await get(broker, client, "q")

    async def test_what_is_damaged_ends_the_broker(self, broker: WholeBroker, spill: OddSpill) -> None:
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", b"one message")
        await broker.spill()
        ((handle, blob),) = spill._blobs.items()
        spill._blobs[handle] = blob.replace(b"one", b"two")
        with pytest.raises(Corrupt, match=r"^spill, .*CRC"):
            await get(broker, client, "q")

    async def test_what_is_missing_ends_the_broker(self, broker: WholeBroker, spill: OddSpill) -> None:
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", b"1", b"2")
        await broker.spill()
        publish(client, "q", b"3")
        await broker.spill()
        (longer, shorter) = spill._blobs
        spill._blobs[longer] = spill._blobs[shorter]
        with pytest.raises(Corrupt, match="2 messages of queue 'q' in vhost '/' must be there, 0 are"):
            await get(broker, client, "q")

    async def test_what_is_missing_of_the_rest_ends_the_broker(
        self, engine: MemoryEngine, spill: OddSpill
    ) -> None:
        broker = await WholeBroker(engine, windows=Windows(-1), spill=spill).start()
        client = broker.client()
        client.declare("q", durable=False)
        publish(client, "q", *numbered(TIGHT_READ_COPIES + 1))
        await broker.spill()
        ((handle, blob),) = spill._blobs.items()
        payload = decode_blob(blob).payload
        *_, (_, _, end), _ = iter_records(payload)
        spill._blobs[handle] = encode_blob(0, 0, 0, CHAIN_START, payload[:end])
        with pytest.raises(Corrupt, match="17 messages"):
            await get(broker, client, "q")


class TestBehind:
    """More comes than the spiller can take."""

    @pytest.fixture(autouse=True)
    def low(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spiller, "BEHIND_BYTES", 10_000)
        monkeypatch.setattr(spiller, "AT_ONCE_BYTES", 5_000)

    async def test_publishers_wait_until_it_has_caught_up(self, broker: WholeBroker, spill: OddSpill) -> None:
        client, calls = broker.client(), []
        client.declare("q", durable=False)
        publish(client, "q", *([bytes(1000)] * 6))
        broker.end_turn()
        assert not broker.broker.spiller.is_behind
        publish(client, "q", *([bytes(1000)] * 6))
        broker.end_turn()
        assert broker.broker.spiller.is_behind
        broker.broker.spiller.when_caught_up(lambda: calls.append(broker.broker.spiller.is_behind))
        await broker.broker.spiller.spill()
        (lane,) = queue_of(broker, "q").lanes
        assert broker.broker.windows.total == lane.bytes_in_memory < 17_000
        assert calls == []
        await broker.spill()
        publish(client, "q", b"more")
        await broker.spill()
        assert calls == [False]

    async def test_they_do_not_wait_for_a_disk_that_fails(self, broker: WholeBroker, spill: OddSpill) -> None:
        client, calls = broker.client(), []
        client.declare("q", durable=False)
        publish(client, "q", *([bytes(1000)] * 20))
        broker.end_turn()
        broker.broker.spiller.when_caught_up(lambda: calls.append(1))
        spill.write_error = Unavailable("the disk burns")
        await broker.broker.spiller.spill()
        assert calls == [1]
        assert not broker.broker.spiller.is_behind


class TestPublishersThatAreFasterThanConsumers:
    """While what consumers are to get is spilled, more comes in at a measured pace."""

    async def waiting(self, broker: WholeBroker, *, with_consumer: bool) -> spiller.Spiller:
        """One of two messages, or both, have to be spilled."""
        client = broker.client()
        client.declare("q", durable=False)
        if with_consumer:
            client.channel.qos(0, 1, False)
            client.consume("q")
        publish(client, "q", b"1", b"2")
        broker.end_turn()
        assert broker.broker.spiller.is_wanted
        return broker.broker.spiller

    async def test_they_wait_for_one_another(self, broker: WholeBroker) -> None:
        waited_for = await self.waiting(broker, with_consumer=True)
        second = spiller.INTAKE_BYTES_PER_S
        assert waited_for.hold_s(second // 4, 100.0) == pytest.approx(0.25)
        assert waited_for.hold_s(second // 2, 100.0) == pytest.approx(0.75)
        assert waited_for.hold_s(second // 2, 100.5) == pytest.approx(0.75)
        assert waited_for.hold_s(second // 2, 200.0) == pytest.approx(0.5)

    async def test_they_do_not_when_nobody_is_to_get_it(self, broker: WholeBroker) -> None:
        assert (await self.waiting(broker, with_consumer=False)).hold_s(1 << 20, 100.0) == 0

    async def test_they_do_not_when_nothing_is_spilled(self, broker: WholeBroker) -> None:
        waited_for = await self.waiting(broker, with_consumer=True)
        await broker.spill()
        assert not waited_for.is_wanted
        assert waited_for.hold_s(1 << 20, 100.0) == 0

    async def test_they_do_not_for_a_disk_that_fails(self, broker: WholeBroker, spill: OddSpill) -> None:
        waited_for = await self.waiting(broker, with_consumer=True)
        spill.write_error = Unavailable("the disk burns")
        await waited_for.spill()
        assert waited_for.is_wanted
        assert waited_for.hold_s(1 << 20, 100.0) == 0


async def test_what_the_log_has_need_not_be_spilled(engine: MemoryEngine) -> None:
    """A consumer with a window's worth of durable messages goes: all of it comes back in one turn."""
    broker = await WholeBroker(engine, checkpoint_every_bytes=1 << 40).start()
    client, consumer = broker.client(), broker.client()
    client.declare("q")
    consumer.consume("q")
    for number in range(30):
        client.publish("q", bytes([number]) * 1_000_000)
        await broker.commit()
    (lane,) = broker.broker.vhosts["/"].queues["q"].lanes
    consumer.connection.close()
    assert lane.bytes_in_memory > 30_000_000
    await broker.spill()
    assert lane.bytes_in_memory <= WINDOW_BYTES
    assert broker.spilled_copies == 0
