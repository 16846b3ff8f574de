"""What a comparison came to: for each target the medians of the two sides, and their ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from .plot.bars import Bar, bars
from .plot.svg import Chart
from .report import table
from .runs import Median
from .targets import Target

MISSING = "-"
BELOW, LEAST, GOAL, NOT_COMPARED = "below", "least", "goal", "not compared"


@dataclass(frozen=True)
class Outcome:
    """Of one target. A side that was not measured, or failed, is None."""

    target: Target
    ours: Median | None
    theirs: Median | None

    @property
    def ratio(self) -> float | None:
        """How many times as good we are."""
        if self.ours is None or self.theirs is None or not self.ours.middle or not self.theirs.middle:
            return None
        ratio = self.ours.middle / self.theirs.middle
        return 1 / ratio if self.target.figure.is_cost else ratio

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return NOT_COMPARED
        if self.ratio < self.target.least:
            return BELOW
        return GOAL if self.ratio >= self.target.goal else LEAST


def outcome_table(outcomes: Sequence[Outcome], ours: str, theirs: str, with_targets: bool) -> str:
    """`with_targets`: with what is wanted, and how that went."""
    headings = ("workload", ours, theirs, "ratio") + (("least", "goal", "reached") if with_targets else ())
    rows = [headings]
    for one in outcomes:
        target = one.target
        ratio = MISSING if one.ratio is None else f"{one.ratio:.2f}x"
        wanted = (f"{target.least:g}x", f"{target.goal:g}x", one.verdict) if with_targets else ()
        rows.append((target.workload, _shown(one.ours, target), _shown(one.theirs, target), ratio, *wanted))
    return table(rows)


def outcome_chart(outcomes: Sequence[Outcome], title: str, with_targets: bool) -> Chart:
    """The ratios; strokes where the least and the goal are."""
    some = []
    for one in outcomes:
        wanted = (one.target.least, one.target.goal) if with_targets else (1.0,)
        ratio = one.ratio or 0.0
        some.append(Bar(one.target.workload, ratio, ratio, ratio, wanted=wanted))
    return bars(title, some, "x")


def _shown(side: Median | None, target: Target) -> str:
    if side is None:
        return MISSING
    value = f"{side.middle:,.0f}" if side.middle >= 100 else f"{side.middle:.2f}"
    return f"{value} {target.figure.unit}"
