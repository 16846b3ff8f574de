"""How long the broker's event loop was held up in each phase, from the broker's own metrics and log.

The broker counts the lag of its probes in histograms, and logs what was long (broker/daemon/loop_lag.py);
here that becomes one figure per phase, and one claim, without what a witness beside it suffered as well
(machine.py).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from .claims import Report
from .machine import Stop

LAG_MAX_MS = 20.0
Metrics = Mapping[str, float]

_LOGGED = re.compile(r"the event loop was held up for ([\d.]+) ms, ([\d.]+) of them computing")


@dataclass(frozen=True)
class Block:
    """The loop was held up, and not because the machine ran others."""

    ended_s: float  # seconds since the epoch, to some milliseconds
    ms: float
    cpu_ms: float

    @classmethod
    def logged(cls, line: str) -> "Block | None":
        """What a line of the broker's log says."""
        found = _LOGGED.search(line)
        if found is None:
            return None
        instant = datetime.fromisoformat(line.split(" ", 1)[0])
        return cls(instant.timestamp(), float(found[1]), float(found[2]))

    def is_in(self, stop: Stop) -> bool:
        """Whether it and this stop have a moment in common."""
        return stop.began_s <= self.ended_s + 0.005 and stop.ended_s >= self.ended_s - self.ms / 1e3 - 0.005


@dataclass(frozen=True)
class PhaseLag:
    """The loop's lag from one scrape to the next, in milliseconds."""

    phase: str
    probes: int
    worst_ms: float  # for any reason: an upper bound
    own_ms: float  # without the time in which the machine ran others, if there are no blocks: an upper bound
    blocks: tuple[Block, ...]
    major_faults: int

    def told(self, stops: Sequence[Stop]) -> "tuple[float, list[Block], str]":
        """The longest block that was not the machine's, all of those, and everything in words."""
        alone = [block for block in self.blocks if not any(block.is_in(stop) for stop in stops)]
        shared = [block for block in self.blocks if block not in alone]
        # What the histogram alone knows of was never looked at beside the stops: nothing excuses it.
        rest_ms = min(self.own_ms, LAG_MAX_MS) if shared else self.own_ms
        worst_ms = max((block.ms for block in alone), default=rest_ms)
        words = [f"at most {worst_ms:.1f} ms"]
        if alone:
            words.append(f"{len(alone)} above {LAG_MAX_MS:g} (" + _briefly(alone) + ")")
        if shared:
            words.append(f"{len(shared)} while the machine stopped the witness as well ({_briefly(shared)})")
        if self.major_faults:
            words.append(f"{self.major_faults} major faults")
        words.append(f"late for any reason: at most {self.worst_ms:.0f} ms, {self.probes:,} probes")
        return worst_ms, alone, "; ".join(words)


class LagBook:
    """What the lag was in each phase of each life of a broker."""

    def __init__(self) -> None:
        self.phases: list[PhaseLag] = []
        self._before: Metrics = {}

    def restart(self) -> None:
        """A new process counts from 0."""
        self._before = {}

    def close(self, phase: str, now: Metrics, log: Sequence[str] = ()) -> None:
        """A phase ends here. `log`: what the broker said in it."""
        before, self._before = self._before, now
        lags, own_lags = (
            _counts(before, now, name)
            for name in ("leveret_loop_lag_seconds", "leveret_loop_own_lag_seconds")
        )
        self.phases.append(
            PhaseLag(
                phase=phase,
                probes=sum(lags.values()),
                worst_ms=max((bound for bound, count in lags.items() if count), default=0.0),
                own_ms=max((bound for bound, count in own_lags.items() if count), default=0.0),
                blocks=tuple(block for line in log if (block := Block.logged(line)) is not None),
                major_faults=round(_grown(before, now, "leveret_loop_major_faults_total")),
            )
        )

    def report(self, report: Report, limit_ms: float, starting: str, stops: Sequence[Stop]) -> None:
        """The claim is about serving: while it starts, a broker serves nobody."""
        worst_ms, worst_phase, late = 0.0, "", 0
        for phase in self.phases:
            phase_ms, blocks, words = phase.told(stops)
            report.note(f"loop lag: {phase.phase}", words)
            if phase.phase == starting:
                continue
            late += len(blocks)
            if phase_ms > worst_ms:
                worst_ms, worst_phase = phase_ms, phase.phase
        report.at_most(
            "longest block of the event loop",
            worst_ms,
            limit_ms,
            "ms",
            about_time=True,
            why=f"{worst_phase}; {late} above {LAG_MAX_MS:g} ms",
        )
        report.note("the machine stopped a process that only computes a little", f"{len(stops)} times")
        if not any(phase.probes for phase in self.phases if phase.phase != starting):
            report.holds("the loop's lag was measured", "no: this broker has no such metric")


def _briefly(blocks: Sequence[Block]) -> str:
    worst = max(blocks, key=lambda block: block.ms)
    return f"worst {worst.ms:.0f} ms, CPU {worst.cpu_ms:.0f}"


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
