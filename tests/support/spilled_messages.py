"""Spilled messages for tests: a spill that can be held up or fail, and short words."""

import asyncio
from collections.abc import Sequence

from cold_messages import queue_of
from whole_broker import TRANSIENT, Client, WholeBroker

from leveret.storage.engine import EngineError
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.spill import SpillHandle


class OddSpill(MemorySpill):
    """Writes when it may, or fails; remembers what it was given."""

    def __init__(self, capacity_bytes: int = 2**62) -> None:
        super().__init__(capacity_bytes)
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.write_error: EngineError | None = None
        self.read_error: EngineError | None = None
        self.written: list[bytes] = []

    async def write(self, blob: bytes) -> SpillHandle:
        await self.may_write.wait()
        if self.write_error is not None:
            raise self.write_error
        self.written.append(blob)
        return await super().write(blob)

    async def read(self, handles: Sequence[SpillHandle]) -> list[bytes]:
        if self.read_error is not None:
            raise self.read_error
        return await super().read(handles)


def publish(client: Client, queue: str, *some: bytes) -> None:
    client.publish(queue, *some, properties=TRANSIENT)


def spilled_count(broker: WholeBroker, name: str) -> int:
    return sum(lane.spilled.copies for lane in queue_of(broker, name).lanes if lane.spilled is not None)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]
