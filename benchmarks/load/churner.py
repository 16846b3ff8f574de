"""A client that comes and goes: connect, open a channel, publish one message, wait for its confirm, leave."""

import time
from dataclasses import dataclass

from .actor import Actor, Report
from .body import blank_body
from .link import Address, Route
from .wires import WIRES


@dataclass(frozen=True)
class ChurnerTask:
    """Where it goes, and what it leaves there."""

    address: Address
    wire: str
    route: Route
    size: int

    def start(self) -> "Churner":
        return Churner(self)


class Churner(Actor):
    """One visit after the other; it blocks, so it needs a process of its own."""

    is_driven = True

    def __init__(self, task: ChurnerTask) -> None:
        super().__init__()
        self._task = task
        self._body = blank_body(task.size)
        self._visits = self._refused = 0
        self._is_stopped = False

    @property
    def count(self) -> int:
        return self._visits

    @property
    def is_done(self) -> bool:
        return self._is_stopped

    def due(self) -> float:
        return 0.0

    def pump(self, now: float) -> None:
        """A visit. Its time is that until the confirm."""
        link = WIRES[self._task.wire].open(self._task.address, confirming=True)
        link.send(link.publishes([self._task.route], self._body, persistent=True))
        while not (answers := list(link.confirms())):
            continue
        if self.is_recording:
            self.histogram.record(int((time.monotonic() - now) * 1e6))
        link.close()
        self._refused += not all(confirmed for _, _, confirmed in answers)
        self._visits += 1

    def stop(self) -> None:
        self._is_stopped = True

    def report(self, report: Report) -> None:
        report.refused += self._refused
        report.published[self._task.route.lane] = self._visits
