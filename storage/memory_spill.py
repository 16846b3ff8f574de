"""The spill that keeps everything in memory: for tests."""

from collections.abc import Sequence

from .engine import Full, Unavailable
from .spill import SpillHandle, SpillStats


class MemorySpill:
    """A `Spill` without files."""

    def __init__(self, capacity_bytes: int = 2**62) -> None:
        self._capacity_bytes = capacity_bytes
        self._blobs: dict[SpillHandle, bytes] = {}
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._blobs, self._is_open = {}, False

    async def write(self, blob: bytes) -> SpillHandle:
        self._require_open()
        if self.stats.bytes + len(blob) > self._capacity_bytes:
            raise Full(f"the spill is full: {self.stats.bytes} of {self._capacity_bytes} bytes used")
        handle = SpillHandle(len(blob))
        self._blobs[handle] = blob
        return handle

    async def read(self, handles: Sequence[SpillHandle]) -> list[bytes]:
        self._require_open()
        try:
            return [self._blobs[handle] for handle in handles]
        except KeyError:
            raise Unavailable("a blob that was dropped cannot be used") from None

    def drop(self, handle: SpillHandle) -> None:
        if self._is_open and self._blobs.pop(handle, None) is None:
            raise Unavailable("a blob that was dropped cannot be used")

    @property
    def stats(self) -> SpillStats:
        size = sum(handle.size for handle in self._blobs)
        return SpillStats(size, len(self._blobs), size)

    def _require_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the spill is not open")
