"""The blobs of the spill in which something is still needed. For runs they are like the log's; but a copy
that is read back leaves its blob, and a blob that nobody needs is dropped at once.
"""

from collections.abc import Callable, Iterator, Sequence

from leveret.storage.spill import Spill, SpillHandle

from ..queues.runs import SPILLED_FROM
from .blobs import BlobIndex


class SpilledBlob:
    """One blob of the spill, shared by the runs that lie in it."""

    __slots__ = ("blobs", "handle", "live_copies", "position")

    def __init__(self, blobs: "SpilledBlobs", position: int, handle: SpillHandle) -> None:
        self.blobs = blobs
        self.position = position
        self.handle = handle
        self.live_copies = 0  # those that are nowhere else

    def add(self, count: int) -> None:
        """So many copies lie only here now."""
        self.live_copies += count

    def release(self, count: int) -> None:
        """So many of them have ended, or are in memory again."""
        self.live_copies -= count
        if not self.live_copies:
            self.blobs.drop(self)


class SpilledBlobs(BlobIndex[SpilledBlob]):
    """See the module's docstring. One per broker; the spiller writes, the reader reads."""

    def __init__(self, spill: Spill, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something to be released: `release_more` must be, then."""
        super().__init__()
        self._spill = spill
        self._wake = wake
        self._next_position = SPILLED_FROM

    async def write(self, data: bytes) -> SpilledBlob:
        """A new blob, with no copies yet: the caller adds some or drops it. Raises EngineError."""
        return self.enter(await self._spill.write(data))

    def enter(self, handle: SpillHandle) -> SpilledBlob:
        """What was written under this handle is a blob from now on."""
        position = self._next_position
        self._next_position += 1
        blob = self._by_position[position] = SpilledBlob(self, position, handle)
        return blob

    async def read(self, positions: Sequence[int]) -> list[bytes]:
        """What was written; the blobs may be dropped meanwhile. Raises EngineError."""
        return await self._spill.read([self._by_position[position].handle for position in positions])

    def release_all(self, live_by_position: Iterator[tuple[int, int]]) -> None:
        super().release_all(live_by_position)
        if self.is_releasing:
            self._wake()

    def drop(self, blob: SpilledBlob) -> None:
        """Nothing in it is needed."""
        del self._by_position[blob.position]
        self._spill.drop(blob.handle)
