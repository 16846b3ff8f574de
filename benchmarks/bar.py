"""How far a series of runs is: a bar on a terminal, a line per run elsewhere."""

import sys
import time
from typing import TextIO

WIDTH = 30
REDRAW_S = 0.2
CLEAR_LINE = "\r\x1b[K"


class Bar:
    """On stderr, so that stdout has the result alone."""

    def __init__(self, steps: int, stream: TextIO = sys.stderr) -> None:
        self._steps = steps
        self._done = 0
        self._what = ""
        self._began = self._drawn = 0.0
        self._stream = stream
        self._is_terminal = stream.isatty()

    def begin(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._drawn = 0.0
        self.watch()

    def watch(self) -> None:
        """Call often."""
        now = time.monotonic()
        if not self._is_terminal or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        filled = WIDTH * self._done // self._steps
        bar = "#" * filled + "." * (WIDTH - filled)
        text = f"[{bar}] {self._done}/{self._steps}  {self._what}  {now - self._began:.0f} s"
        print(f"{CLEAR_LINE}{text}", end="", file=self._stream, flush=True)

    def end(self, result: str) -> None:
        self._done += 1
        before = CLEAR_LINE if self._is_terminal else ""
        print(f"{before}{self._done}/{self._steps} {self._what}: {result}", file=self._stream, flush=True)
