"""What a worker drives: one connection that publishes or consumes, and what it has to report."""

# ruff: noqa: B027 -- no actor has something to do on every occasion

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from ..histogram import Histogram


@dataclass
class Report:
    """What a worker's actors saw. `messages` to `histogram` are of the measured time only."""

    messages: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    histogram: Histogram = field(default_factory=Histogram)
    published: dict[int, int] = field(default_factory=dict)
    """By lane, from first to last. Of publishers."""
    received: int = 0
    """From first to last. Of consumers."""
    refused: int = 0
    unconfirmed: int = 0
    lost: int = 0
    doubled: int = 0

    @property
    def rate(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """Per message."""
        return self.cpu_seconds / self.messages * 1e6 if self.messages else 0.0


class Actor(ABC):
    """Subclasses publish or consume. The worker calls `read` when bytes are there, `pump` when it is due."""

    is_driven = False
    """It does something by itself, not only when bytes have come."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.is_recording = False
        """The measured time runs: times go into the histogram."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many messages it is done with."""

    @property
    @abstractmethod
    def is_done(self) -> bool: ...

    def fileno(self) -> int | None:
        """What bytes come from; None: nothing that the worker could wait for."""
        return None

    def go(self, now: float) -> None:
        """Begin."""

    def read(self) -> None:
        """Bytes are there."""

    def due(self) -> float:
        """If it is driven: when to call `pump`."""
        return math.inf

    def pump(self, now: float) -> None:
        """Do what is due, without anything having come."""

    def stop(self) -> None:
        """The measured time is over."""

    def expect(self, published: dict[int, int] | None) -> None:
        """So many messages were published, by lane; None: leave what is not consumed yet."""

    @abstractmethod
    def report(self, report: Report) -> None:
        """Close the connection and add what was seen."""
