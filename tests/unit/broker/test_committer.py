"""When the committer commits: what it makes of a flow of messages."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from whole_broker import Client, WholeBroker

from leveret.broker.durability import committer
from leveret.storage.engine import Append, EngineError, Position
from leveret.storage.memory import MemoryEngine


class SlowEngine(MemoryEngine):
    """An append takes some turns of the loop."""

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        for _ in range(3):
            await asyncio.sleep(0)
        return await super().append(items, urgent=urgent)


class Flow:
    """A broker whose committer runs, and a client that publishes."""

    def __init__(self, broker: WholeBroker, client: Client) -> None:
        self._broker = broker
        self._client = client

    async def publish(self, count: int, *, size: int = 1) -> None:
        self._client.publish("q", *[bytes(size)] * count)
        self._broker.end_turn()
        assert self._broker._committer is not None
        self._broker._committer.kick()
        await asyncio.sleep(0)

    @property
    def commits(self) -> int:
        return self._broker.broker.counters.commits

    async def commits_of(self, *turns: int, size: int = 1) -> int:
        """How many commits these numbers of messages get, published in a turn of the loop each."""
        before = self.commits
        for count in turns:
            await self.publish(count, size=size)
        for _ in range(2000):
            if not self._broker.broker.journal.has_pending:
                break
            await asyncio.sleep(0.001)
        else:
            raise AssertionError("it has not committed everything")
        return self.commits - before


@pytest.fixture
async def flow() -> AsyncIterator[Flow]:
    engine = SlowEngine()
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    await broker.commit()
    assert broker._committer is not None
    committing = asyncio.create_task(broker._committer.run())
    yield Flow(broker, client)
    committing.cancel()


async def test_messages_that_come_few_at_a_time_share_commits(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "PAUSE_S", 0.1)  # longer than the flow
    assert await flow.commits_of(3, *[1] * 20) <= 3


async def test_nobody_else_waits_for_a_timer(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "PAUSE_S", 3600)
    for _ in range(20):
        assert await flow.commits_of(1) == 1, "the next one comes when this one is confirmed"
    assert await flow.commits_of(*[40] * 20) >= 4
    assert await flow.commits_of(*[3] * 20, size=committer.TRICKLE_BYTES) >= 4
