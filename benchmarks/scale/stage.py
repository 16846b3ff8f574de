"""What all scenarios have in common: where they run, and what they report to."""

import shutil
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .broker import MB
from .claims import Report
from .lag import LAG_MAX_MS
from .machine import Machine
from .progress import Progress

DISK_RESERVE_MB = 1000
"""What must be free beyond the messages: the broker stops publishers before a disk is full."""


class NoRoom(Exception):
    """The disk is too small for what was asked."""


def option(default: float, about: str) -> Any:
    """A field of a scenario that can be set on the command line."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Stage:
    """A directory, the report of the one run in it, and who watches the machine meanwhile."""

    directory: Path
    report: Report
    machine: Machine

    def progress(self, name: str = "progress") -> Progress:
        """Counters that start at 0, if the name is new."""
        return Progress(self.directory / name)


@dataclass(frozen=True)
class Scenario(ABC):
    """A claim about a size. A subclass's fields are its command-line options, its docstring is its help."""

    lag_ms: float = option(LAG_MAX_MS, "the event loop is never blocked for longer")

    @property
    @abstractmethod
    def disk_mb(self) -> float:
        """How much it needs at most."""

    @abstractmethod
    def run(self, stage: Stage) -> None: ...

    @property
    def options(self) -> dict[str, float]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def check_room(self, directory: Path) -> None:
        free_mb = shutil.disk_usage(directory).free / MB
        if free_mb < self.disk_mb + DISK_RESERVE_MB:
            raise NoRoom(
                f"{directory} has {free_mb:,.0f} MB free; this takes {self.disk_mb + DISK_RESERVE_MB:,.0f} MB"
            )


def processes(workers: int) -> ProcessPoolExecutor:
    """For publishers and consumers: each has an interpreter of its own."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
