"""The engine that keeps everything in memory: for tests, and for a broker that promises no durability.

It holds the whole contract but durability: `caps.durability` is MEMORY, and a closed engine has forgotten
everything.
"""

from collections.abc import AsyncIterator, Sequence

from .engine import (
    Append,
    Caps,
    Durability,
    EngineError,
    EngineStats,
    Full,
    Lease,
    Position,
    Revision,
    Unavailable,
)
from .tables import RESERVE_BYTES, Tables

BLOB_MAX_BYTES = 256 * 1024
"""About LMDB's, so that a broker on this engine splits its batches alike."""


class MemoryEngine:
    """A `LogEngine` on `Tables`; every call takes effect at once."""

    def __init__(self, capacity_bytes: int = 2**62) -> None:
        """Appends that would reach beyond `capacity_bytes` answer Full.

        Urgent ones may reach RESERVE_BYTES beyond it.
        """
        self._capacity_bytes = capacity_bytes
        self._open_tables: Tables | None = None

    @property
    def caps(self) -> Caps:
        return Caps(Durability.MEMORY, BLOB_MAX_BYTES, inflight_max=64, multi_group_atomic=True)

    @property
    def _tables(self) -> Tables:
        if self._open_tables is None:
            raise Unavailable("the memory engine is not open")
        return self._open_tables

    async def open(self) -> None:
        self._open_tables = Tables()

    async def close(self) -> None:
        self._open_tables = None

    async def acquire(self, group: int, node: str) -> Lease:
        return self._tables.acquire(group)

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        capacity = self._capacity_bytes + (RESERVE_BYTES if urgent else 0)
        try:
            return [self._append_one(self._tables, item, capacity) for item in items]
        except Unavailable as error:
            return [error for _ in items]

    def _append_one(self, tables: Tables, item: Append, capacity: int) -> Position | EngineError:
        if tables.used_bytes + len(item.blob) > capacity:
            return Full(
                f"the memory engine is full: {tables.used_bytes} of {self._capacity_bytes} bytes used"
            )
        return tables.append(item)

    async def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        end = self._tables.last_position(group) if upto is None else upto
        for found in self._tables.between(group, after, end):
            yield found

    async def read_one(self, group: int, position: Position) -> bytes | None:
        return self._tables.read_one(group, position)

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        return [self._tables.read_one(group, position) for position in positions]

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        return self._tables.sizes(group)

    async def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        self._tables.drop(group, epoch, positions)

    async def checkpoint(self, group: int, epoch: int, position: Position, pieces: Sequence[bytes]) -> None:
        self._tables.checkpoint(group, epoch, position, b"".join(pieces))

    async def last_checkpoint(self, group: int) -> tuple[Position, bytes] | None:
        return self._tables.last_checkpoint(group)

    async def meta_get(self, key: bytes) -> tuple[bytes, Revision] | None:
        return self._tables.meta_get(key)

    async def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        return self._tables.meta_cas(key, value, revision)

    async def stats(self) -> EngineStats:
        return self._tables.stats(self._capacity_bytes)
