"""Messages that are on the disk only, for tests: how they get there, and how a client gets them back."""

from typing import Protocol

from whole_broker import Client, WholeBroker

from leveret.broker.queues.queue import HeadNotInMemory, Queue
from leveret.broker.queues.windows import Windows
from leveret.storage.memory import MemoryEngine


class Chill(Protocol):
    """Commits, brings everything to the disk only, and returns the broker that goes on."""

    async def __call__(self, broker: WholeBroker) -> WholeBroker: ...


def let_go(broker: WholeBroker) -> None:
    """All lanes let go of what they may."""
    for queue in broker.broker.vhosts["/"].queues.values():
        for lane in queue.lanes:
            lane.let_go(0)


def chills(engine: MemoryEngine) -> dict[str, Chill]:
    """By name: the windows were tight, the broker was killed, it was stopped."""

    async def by_windows(broker: WholeBroker) -> WholeBroker:
        await broker.commit()
        let_go(broker)
        return broker

    async def by_kill(broker: WholeBroker) -> WholeBroker:
        await broker.commit()
        return await WholeBroker(engine, windows=Windows(0)).start(read_back=False)

    async def by_stop(broker: WholeBroker) -> WholeBroker:
        await broker.stop()
        return await WholeBroker(engine, windows=Windows(0)).start(read_back=False)

    return {"windows": by_windows, "kill": by_kill, "stop": by_stop}


async def settle_down(broker: WholeBroker) -> None:
    """Commit and read until nothing is left to be done."""
    await broker.commit()
    while broker.broker.journal.has_pending:
        await broker.commit()


def queue_of(broker: WholeBroker, name: str) -> Queue:
    return broker.broker.vhosts["/"].queues[name]


def cold_count(broker: WholeBroker, name: str) -> int:
    """How many messages of a queue are on the disk only."""
    return sum(0 if lane.cold is None else lane.cold.copies for lane in queue_of(broker, name).lanes)


async def get(broker: WholeBroker, client: Client, queue: str) -> tuple[bytes, bool] | None:
    """Body and redelivered of the head, waiting for it as sessions do; it stays unacked."""
    try:
        return client.get(queue)
    except HeadNotInMemory:
        await broker.read()
        return client.get(queue)


async def drain(broker: WholeBroker, client: Client, queue: str) -> list[tuple[bytes, bool]]:
    """Everything ready, as `get` gives it."""
    found = []
    while (got := await get(broker, client, queue)) is not None:
        found.append(got)
    return found


async def bodies(broker: WholeBroker, client: Client, queue: str) -> list[bytes]:
    """Of everything ready."""
    return [body for body, _ in await drain(broker, client, queue)]
