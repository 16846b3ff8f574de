"""What one run found, and the medians of several."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Run:
    """One load on one broker, once. Rates are per second; times are in milliseconds, by percentile."""

    scenario: str
    contestant: str  # which broker, and over what
    rate: float  # messages through the broker: delivered; confirmed where nobody consumes
    published: float = 0.0  # confirmed, or sent where there are no confirms
    drained: float = 0.0  # consumed of a backlog that was there before
    confirm_ms: dict[str, float] = field(default_factory=dict)
    deliver_ms: dict[str, float] = field(default_factory=dict)
    deliver_counts: dict[int, int] = field(default_factory=dict)  # the histogram: messages by microseconds
    broker_cpu_s: float = 0.0  # in the measured time, all processes of the broker
    broker_messages: int = 0  # what that was spent on
    rss_mb: float = 0.0  # at the end of the measured time; of a backlog: when it was full
    rss_peak_mb: float = 0.0
    publisher_us: float = 0.0  # CPU time of the generator per message
    consumer_us: float = 0.0
    load_cores: float = 0.0  # how much of the machine the generator took
    messages: int = 0  # how many were published in all, warm-up included, and have been accounted for
    problem: str = ""  # what was wrong; nothing counts then
    sync_delay_ms: float = 0.0

    @property
    def broker_cpu_s_per_million(self) -> float:
        return self.broker_cpu_s / self.broker_messages * 1e6 if self.broker_messages else 0.0

    @property
    def deliver_p50_ms(self) -> float:
        return self.deliver_ms.get("p50", 0.0)

    @property
    def deliver_p99_ms(self) -> float:
        return self.deliver_ms.get("p99", 0.0)

    @property
    def confirm_p50_ms(self) -> float:
        return self.confirm_ms.get("p50", 0.0)

    @property
    def confirm_p99_ms(self) -> float:
        return self.confirm_ms.get("p99", 0.0)

    def is_of(self, scenario: str, contestant: str) -> bool:
        return (self.scenario, self.contestant) == (scenario, contestant)

    def figure(self, name: str) -> float:
        """One of the numbers above, by its name."""
        value: Any = getattr(self, name)
        return float(value)


@dataclass(frozen=True)
class Median:
    """Of a figure over several runs, with the least and the greatest."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, runs: Sequence[Run], figure: str) -> "Median":
        values = [run.figure(figure) for run in runs]
        return cls(median(values), min(values), max(values))

    @property
    def spread(self) -> float:
        """From the least to the greatest, as a share of the median."""
        return (self.greatest - self.least) / self.middle if self.middle else 0.0
