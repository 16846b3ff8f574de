"""What a load is put on: a broker that runs, over one of its wires, for so long."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .brokers import Broker
from .load.actor import Report
from .load.hand import Hand
from .load.worker import Task


@dataclass(frozen=True)
class Timing:
    """How long a flow is under load before it is measured, and how long it is measured."""

    warm_up_s: float = 2.0
    seconds: float = 5.0


@dataclass(frozen=True)
class Subject:
    """The broker must be fresh: what it holds of an earlier load would count."""

    contestant: str  # how the run is told apart from others
    broker: Broker
    wire: str
    timing: Timing
    watch: Callable[[], None] = lambda: None
    """Called several times a second: for whoever shows progress."""

    def hand(self, tasks: Sequence[Task]) -> Hand:
        """A process of the load."""
        return Hand(tasks, self.watch)


def problems(reports: Iterable[Report], surplus: int = 0) -> str:
    """What must not have happened, in words; empty if it did not."""
    faults = {
        "refused": 0,
        "never confirmed": 0,
        "lost": 0,
        "doubled": 0,
        "too many left in the queues": max(0, surplus),
        "too few left in the queues": max(0, -surplus),
    }
    for report in reports:
        faults["refused"] += report.refused
        faults["never confirmed"] += report.unconfirmed
        faults["lost"] += report.lost
        faults["doubled"] += report.doubled
    return ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)
