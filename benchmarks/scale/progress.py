"""How far the load is, in memory that all its processes share: a small mapped file of counters.

Each counter has one writer.
"""

import mmap
from pathlib import Path

COUNTERS = 4
CONFIRMED, TAKEN, SETTLED, FINISHED = range(COUNTERS)
"""Publishes confirmed; deliveries that came; deliveries acked; 1 when the consumer has seen everything."""


class Progress:
    """Every process opens it by the path."""

    def __init__(self, path: Path) -> None:
        """Counts go on where the file's last user left them."""
        self.path = path
        with path.open("a+b") as file:
            file.truncate(COUNTERS * 8)
            self._counters = memoryview(mmap.mmap(file.fileno(), COUNTERS * 8)).cast("Q")

    def __getitem__(self, counter: int) -> int:
        return self._counters[counter]

    def __setitem__(self, counter: int, value: int) -> None:
        self._counters[counter] = value

    @property
    def live(self) -> int:
        """Messages that the broker must keep: confirmed, and not acked yet."""
        return max(0, self[CONFIRMED] - self[SETTLED])
