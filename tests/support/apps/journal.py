"""A file to which the processes of an application write what they do, a line each, for the test to read.

It outlives whatever happens to the broker and to the processes: a line that is there was written before the
kill.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .patience import wait_until


@dataclass(frozen=True)
class Entry:
    event: str
    pid: int
    at: float


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str) -> None:
        """Append a line; `event` has no line break. One write, so lines of several processes do not mix."""
        line = f"{os.getpid()} {time.time()} {event}\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def entries(self) -> list[Entry]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        split = (line.split(" ", 2) for line in lines)
        return [Entry(event, int(pid), float(at)) for pid, at, event in split]

    def events(self) -> list[str]:
        return [entry.event for entry in self.entries()]

    def wait_for(self, *events: str) -> list[Entry]:
        """Wait until all of these were written (twice if named twice, in any order); return what was."""
        wanted = Counter(events)

        def missing() -> Counter[str]:
            return wanted - Counter(self.events())

        wait_until(lambda: not missing(), lambda: f"never happened: {missing()}; what did: {self.events()}")
        return [entry for entry in self.entries() if entry.event in wanted]
