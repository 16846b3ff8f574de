"""A publisher: keeps a window of unconfirmed messages full, or a rate, or the socket."""

import math
import time
from dataclasses import dataclass

from .actor import Actor, Report
from .body import as_stamp
from .confirms import Confirms
from .link import Address, Link, LoadFailed, Route
from .ring import Ring
from .wires import WIRES

BURST = 100
"""Without confirms: how many messages a send carries, about."""


@dataclass(frozen=True)
class PublisherTask:
    """What one connection publishes."""

    address: Address
    wire: str
    routes: tuple[Route, ...]  # in turn
    size: int
    persistent: bool = True
    confirms: bool = True
    window: int = 500  # how many may wait for their confirm
    group: int = 1  # how many a frame carries, where the wire has batches
    rate: float = 0  # messages per second, whether they are confirmed or not; 0: as many as it can
    limit: int = 0  # how many; 0: until it is stopped

    def start(self) -> "Publisher":
        return Publisher(self, WIRES[self.wire].open(self.address, confirming=self.confirms))


class Publisher(Actor):
    """Times are counted from when a message was due, so a broker that stalls is charged for all that it held
    up: this is what corrects the coordinated omission."""

    def __init__(self, task: PublisherTask, link: Link) -> None:
        super().__init__()
        self._link = link
        burst = task.window if task.confirms else BURST
        self._task = task
        self._ring = Ring(
            self._link,
            task.routes,
            task.size,
            persistent=task.persistent,
            group=task.group,
            burst=1 if task.rate else burst,
        )
        self._confirms = Confirms()
        self._sent = 0
        self._began = 0.0
        self._left = task.limit or 1 << 62
        self._is_stopped = False
        self.is_driven = bool(task.rate) or not task.confirms

    @property
    def count(self) -> int:
        return self._confirms.settled if self._task.confirms else self._sent

    def fileno(self) -> int:
        return self._link.fileno()

    @property
    def is_done(self) -> bool:
        return (self._is_stopped or self._left <= 0) and self.count >= self._sent

    def go(self, now: float) -> None:
        self._began = now
        self.pump(now)

    def read(self) -> None:
        confirms = self._confirms
        for first, last, confirmed in self._link.confirms():
            confirms.settle(first, last, confirmed=confirmed)
        if confirms.waiting < 0:
            raise LoadFailed("the broker confirmed more than was published")
        now = time.monotonic()
        for due in confirms.answered():
            if self.is_recording:
                self.histogram.record(int((now - due) * 1e6))
        if not self._task.rate:
            self.pump(now)

    def due(self) -> float:
        if self._is_stopped or self._left <= 0:
            return math.inf
        return self._began + self._sent / self._task.rate if self._task.rate else 0.0

    def pump(self, now: float) -> None:
        if self._is_stopped:
            return
        if self._task.rate:
            while (due := self.due()) <= now:
                self._send(1, due)
        elif self._task.confirms:
            self._send(self._task.window - self._confirms.waiting, now)
        else:
            self._send(BURST, now)

    def stop(self) -> None:
        self._is_stopped = True

    def report(self, report: Report) -> None:
        self._link.close()
        report.refused += self._confirms.refused
        report.unconfirmed += self._sent - self.count
        for lane, number in self._ring.numbers.items():
            report.published[lane] = report.published.get(lane, 0) + number

    def _send(self, messages: int, due: float) -> None:
        groups = min(messages, self._left) // self._task.group
        if groups <= 0:
            return
        for some in self._ring.take(groups, as_stamp(due)):
            self._link.send(some)
        sent = groups * self._task.group
        self._sent += sent
        self._left -= sent
        if self._task.confirms:
            self._confirms.sent(sent, due)
