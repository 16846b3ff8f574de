"""When this machine stopped a process that only computes a little: what no broker on it can be better than.

A machine that is virtual, or shared, may take tens of milliseconds to hand out a page of memory, and counts
that as the CPU time of whoever asked. `python -m benchmarks.scale.machine` does the same small piece of work
every few milliseconds until its input ends, with a megabyte that it takes and gives back each time, and says
when it took far more CPU time than it needs; `Machine` runs it beside a scenario. To be kept waiting for a
core is not meant: that takes no CPU time.
"""

import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SLEEP_S = 0.005
WORK = 6000
MEMORY = bytearray(1 << 20)  # copied to pages that the process does not have: with WORK some 0.4 ms
STOPPED_S = 0.005  # of CPU time for it


@dataclass(frozen=True)
class Stop:
    """A while in which the machine did not run what it should."""

    began_s: float  # seconds since the epoch
    ended_s: float


class Machine:
    """A context manager: the witness, and what it saw."""

    def __init__(self, directory: Path) -> None:
        self._seen = directory / "machine.txt"

    def __enter__(self) -> Self:
        with self._seen.open("w") as seen:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=seen
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # which ends its input

    def stops(self) -> list[Stop]:
        """So far."""
        lines = self._seen.read_text().split("\n")[:-1]  # the last one may be half
        return [Stop(*map(float, line.split())) for line in lines]


def main() -> None:
    while not select.select([sys.stdin], [], [], SLEEP_S)[0]:
        began_s, cpu_s = time.time(), time.thread_time()
        for _ in range(WORK):
            pass
        bytes(MEMORY)
        if time.thread_time() - cpu_s > STOPPED_S:
            print(began_s, time.time(), flush=True)


if __name__ == "__main__":
    main()
