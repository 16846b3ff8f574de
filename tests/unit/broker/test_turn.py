"""The end of a turn: whatever has gathered, others get theirs."""

from whole_broker import WholeBroker

from leveret.storage.memory import MemoryEngine


async def test_a_backlog_that_expires_at_once_is_buried_over_several_turns() -> None:
    engine = MemoryEngine()
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("dead")
    client.declare("q", x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.publish("q", *([b"body"] * 1000))
    await broker.commit()
    broker.timers.advance(1000)
    dead = broker.broker.vhosts["/"].queues["dead"]
    for turn in range(1, 6):
        broker._scheduled.pop(0)()
        assert dead.enqueued_total <= 100 * turn
    broker.end_turn()
    assert dead.enqueued_total == 1000


async def test_a_chain_of_dead_letter_exchanges_is_walked_in_one_turn() -> None:
    engine = MemoryEngine()
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q5")
    for number in range(5):
        client.declare(
            f"q{number}",
            x_max_length=0,
            x_dead_letter_exchange="",
            x_dead_letter_routing_key=f"q{number + 1}",
        )
    client.publish("q0", b"body")
    broker._scheduled.pop(0)()
    assert client.get("q5") == (b"body", False)
