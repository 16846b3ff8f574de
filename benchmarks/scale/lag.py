"""How long the broker's event loop was held up in each phase, from the broker's own metrics.

The broker counts the lag of its probes in histograms and keeps the worst since its start
(broker/daemon/loop_lag.py); here that becomes one figure per phase.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .claims import Report

LAG_MAX_MS = 20.0
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class PhaseLag:
    """The loop's lag from one scrape to the next, in milliseconds."""

    phase: str
    probes: int
    late: int  # above LAG_MAX_MS for any reason
    own_late: int  # above it without the time in which the machine ran others
    worst_ms: float  # for any reason: an upper bound
    own_worst_ms: float
    is_bound: bool  # own_worst_ms is an upper bound, because a phase before this one had a longer lag
    cpu_ms: float  # of the worst, if it is no bound: what the loop computed itself
    major_faults: int

    def __str__(self) -> str:
        cpu = "" if self.is_bound else f" (CPU {self.cpu_ms:.1f})"
        return (
            f"own {'<= ' if self.is_bound else ''}{self.own_worst_ms:.1f} ms{cpu}, "
            f"any <= {self.worst_ms:.0f}; late {self.own_late} own, {self.late} any of {self.probes}"
            + (f"; {self.major_faults} major faults" if self.major_faults else "")
        )


class LagBook:
    """What the lag was in each phase of each life of a broker."""

    def __init__(self) -> None:
        self.phases: list[PhaseLag] = []
        self._before: Metrics = {}

    def restart(self) -> None:
        """A new process counts from 0."""
        self._before = {}

    def close(self, phase: str, now: Metrics) -> None:
        """A phase ends here."""
        before, self._before = self._before, now
        lags, own_lags = (
            _counts(before, now, name)
            for name in ("leveret_loop_lag_seconds", "leveret_loop_own_lag_seconds")
        )
        worst_s = now.get(_worst("own"), 0.0)
        is_bound = worst_s <= before.get(_worst("own"), 0.0)
        self.phases.append(
            PhaseLag(
                phase=phase,
                probes=sum(lags.values()),
                late=sum(count for bound, count in lags.items() if bound > LAG_MAX_MS),
                own_late=sum(count for bound, count in own_lags.items() if bound > LAG_MAX_MS),
                worst_ms=max((bound for bound, count in lags.items() if count), default=0.0),
                own_worst_ms=(
                    max((bound for bound, count in own_lags.items() if count), default=0.0)
                    if is_bound
                    else worst_s * 1e3
                ),
                is_bound=is_bound,
                cpu_ms=now.get(_worst("cpu"), 0.0) * 1e3,
                major_faults=round(_grown(before, now, "leveret_loop_major_faults_total")),
            )
        )

    def report(self, report: Report, limit_ms: float, starting: str) -> None:
        """The claim is about serving: while it starts, a broker serves nobody."""
        for phase in self.phases:
            report.note(f"loop lag: {phase.phase}", str(phase))
        serving = [phase for phase in self.phases if phase.phase != starting]
        worst = max(serving, key=lambda phase: phase.own_worst_ms)
        late = sum(phase.own_late for phase in serving)
        report.at_most(
            "longest block of the event loop",
            worst.own_worst_ms,
            limit_ms,
            "ms",
            about_time=True,
            why=f"{worst.phase}; {late} above {LAG_MAX_MS:g} ms",
        )
        if not sum(phase.probes for phase in serving):
            report.holds("the loop's lag was measured", "no: this broker has no such metric")


def _worst(part: str) -> str:
    return f'leveret_loop_worst_lag_seconds{{part="{part}"}}'


def _grown(before: Metrics, now: Metrics, series: str) -> float:
    return now.get(series, 0.0) - before.get(series, 0.0)


def _counts(before: Metrics, now: Metrics, histogram: str) -> dict[float, int]:
    """How many observations each bucket got; keys are the upper bounds in milliseconds."""
    counts: dict[float, int] = {}
    below = 0
    for series in now:  # in the order of the text: bounds rise
        if found := re.fullmatch(rf'{histogram}_bucket{{le="([^"]+)"}}', series):
            up_to = round(_grown(before, now, series))
            counts[float(found[1]) * 1e3] = up_to - below
            below = up_to
    return counts
