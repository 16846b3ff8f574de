"""Who takes part: a broker over one of its wires, under the load of the raw generator."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .brokers import Broker
from .measure import measure
from .runs import Run
from .scenarios import Scenario
from .subject import Subject, Timing


class Contestant(Protocol):
    """What can be run again and again."""

    @property
    def name(self) -> str: ...

    def run(self, scenario: Scenario, timing: Timing, directory: Path, watch: Callable[[], None]) -> Run:
        """Once, from nothing, in a directory that does not exist yet."""


@dataclass(frozen=True)
class OnWire:
    """Each run has a new process of the broker on an empty directory."""

    name: str
    wire: str
    broker: Callable[[Path], Broker]

    def run(self, scenario: Scenario, timing: Timing, directory: Path, watch: Callable[[], None]) -> Run:
        with self.broker(directory) as broker:
            return measure(scenario, Subject(self.name, broker, self.wire, timing, watch))
