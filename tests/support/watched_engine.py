"""An engine in memory that notes what is read back one by one, loses or changes it, or lets something happen
meanwhile.
"""

from collections.abc import Awaitable, Callable, Sequence

from leveret.storage.blob import encode_blob
from leveret.storage.engine import Position
from leveret.storage.memory import MemoryEngine


class WatchedEngine(MemoryEngine):
    """A test sets what is to happen before it lets the reader or the cleaner read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[list[int]] = []
        """The positions of each `read_many`."""
        self.lost: set[int] = set()
        self.changed: dict[int, bytes] = {}
        """What is read at a position in the place of what was written."""
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Happens once, after the next `read_many` has read and before it answers."""

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        self.reads.append(list(positions))
        found = await super().read_many(group, positions)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return [
            None if position in self.lost else self.changed.get(position, data)
            for position, data in zip(positions, found, strict=True)
        ]

    def change_payload(self, position: int, payload: bytes) -> None:
        """A sound blob with other records."""
        self.changed[position] = encode_blob(0, 1, position, bytes(16), payload)
