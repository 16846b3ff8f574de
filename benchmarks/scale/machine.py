"""How late this machine wakes a process that has nothing to do: what no broker on it can be better than.

A machine that is shared, or virtual, stops processes for a while whenever it likes. `python -m
benchmarks.scale.machine` sleeps and looks at the clock until its input ends; `Machine` runs it beside a
scenario.
"""

import json
import select
import subprocess
import sys
import time
from typing import Self

from .claims import Report
from .lag import LAG_MAX_MS

SLEEP_S = 0.005


class Machine:
    """A context manager; report after it has ended."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        output = self._process.communicate()[0]  # which ends its input
        self._seen = json.loads(output)

    def report(self, report: Report) -> None:
        report.note(
            "an idle process is late",
            f"worst {self._seen['worst_ms']:.1f} ms; {self._seen['late']:,} of {self._seen['sleeps']:,}"
            f" times above {LAG_MAX_MS:g} ms",
        )


def main() -> None:
    worst_s, late, sleeps = 0.0, 0, 0
    is_over = False
    while not is_over:
        before = time.perf_counter()
        is_over = bool(select.select([sys.stdin], [], [], SLEEP_S)[0])
        lag_s = time.perf_counter() - before - SLEEP_S
        worst_s = max(worst_s, lag_s)
        late += lag_s * 1e3 > LAG_MAX_MS
        sleeps += 1
    json.dump({"worst_ms": worst_s * 1e3, "late": late, "sleeps": sleeps}, sys.stdout)


if __name__ == "__main__":
    main()
