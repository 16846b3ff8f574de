"""What only happens to a channel when others do something at the same time."""

import pytest
from whole_broker import PERSISTENT, WholeBroker

from leveret.broker.message import QueuedMessage
from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def broker() -> WholeBroker:
    engine = MemoryEngine()
    await engine.open()
    return await WholeBroker(engine).start()


async def test_a_get_waits_for_the_delivery_mark_that_another_channel_caused(broker: WholeBroker) -> None:
    consuming, getting = broker.client(), broker.client()
    consuming.declare("q")
    consuming.publish("q", b"body")
    await broker.commit()
    consuming.consume("q")
    changes = broker.broker.journal.changes
    assert getting.get("q") == (b"body", False)
    assert broker.broker.journal.changes > changes  # sessions hold the reply back
    await broker.commit()
    changes = broker.broker.journal.changes
    assert getting.get("q") is None
    assert broker.broker.journal.changes == changes


async def test_a_transaction_whose_queue_is_gone_at_the_commit(broker: WholeBroker) -> None:
    client, transactional = broker.client(), broker.client()
    client.declare("gone")
    client.declare("stays")
    client.channel.queue_bind("gone", "amq.fanout", "", {})
    client.channel.queue_bind("stays", "amq.fanout", "", {})
    transactional.channel.tx_select()
    transactional.channel.publish("", "gone", True, False, PERSISTENT, [b"1"])
    transactional.channel.publish("amq.fanout", "", True, False, PERSISTENT, [b"2"])
    client.channel.queue_delete("gone", if_unused=False, if_empty=False)
    transactional.channel.tx_commit()
    (stored,) = broker.broker.journal.take(1, dict).blobs
    assert stored.live_copies == 1  # else the blob would never be dropped
    assert transactional.wire.returned == [(b"1", 312, "NO_ROUTE")]
    assert client.get("stays") == (b"2", False)


async def test_a_channel_that_closes_is_given_nothing_more(broker: WholeBroker) -> None:
    """The end of one of its queues dead-letters into a full one, which then looks for consumers."""
    client, other = broker.client(), broker.client()
    client.declare("full", x_max_length=1, x_overflow="reject-publish")
    client.channel.queue_declare(
        "ends",
        passive=False,
        durable=True,
        exclusive=False,
        auto_delete=True,
        arguments={
            "x-message-ttl": 10,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "full",
        },
    )
    client.channel.qos(0, 1, False)
    client.consume("ends", "first")
    client.consume("full", "second")
    await broker.commit()
    other.publish("ends", b"unacked", b"expires")
    other.publish("full", b"1")
    broker.end_turn()
    other.publish("full", b"2")
    await broker.commit()
    broker.clock.advance(10)
    delivered = len(client.wire.delivered)
    client.connection.close_channel(1)
    await broker.commit()
    assert len(client.wire.delivered) == delivered
    assert broker.broker.vhosts["/"].queues["full"].unacked_count == 0
    assert other.drain("full")[:2] == [(b"1", True), (b"2", False)]


async def test_what_waits_for_the_disk_is_counted_whatever_it_is_made_of(broker: WholeBroker) -> None:
    client = broker.client()
    client.declare("q")
    client.publish("q", *[b""] * 1000)
    assert broker.broker.journal.pending_bytes > 100_000


async def test_a_queue_that_fails_does_not_take_the_others_along(
    broker: WholeBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(copy: QueuedMessage, reason: object) -> None:
        raise RuntimeError("for the test")

    client = broker.client()
    client.declare("bad", x_max_length=0)
    client.declare("good")
    client.channel.confirm_select()
    client.consume("good")
    await broker.commit()
    monkeypatch.setattr("leveret.broker.queues.queue.dead_letter", fail)
    client.publish("bad", b"1")
    client.publish("good", b"2")
    await broker.commit()
    assert client.wire.bodies == [b"2"]
    assert "queue 'bad' in vhost '/' could not do what was due" in caplog.text
