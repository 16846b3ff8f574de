"""Charts of runs: how fast each was, and how long its messages took."""

from collections.abc import Iterable
from statistics import median

from .histogram import PERCENTILES
from .plot.bars import Bar, bars
from .plot.lines import lines
from .plot.svg import Chart
from .runs import Median, Run

STEPS = [f"p{percent:g}" for percent in PERCENTILES]


def pictures_of(runs: Iterable[Run]) -> list[Chart]:
    """Bars of the rates; below them, of the runs with consumers, the times from publish to delivery."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.problem:
            delay = f", syncs +{run.sync_delay_ms:g} ms" if run.sync_delay_ms else ""
            groups.setdefault(f"{run.scenario}, {run.contestant}{delay}", []).append(run)
    kinds = {
        name: number for number, name in enumerate(sorted({some[0].contestant for some in groups.values()}))
    }
    rates = []
    for label, some in groups.items():
        rate = Median.of(some, "rate")
        rates.append(Bar(label, rate.middle, rate.least, rate.greatest, kinds[some[0].contestant]))
    times = {
        label: {step: median(run.deliver_ms[step] for run in some) for step in STEPS}
        for label, some in groups.items()
        if some[0].deliver_ms
    }
    charts = [bars("Messages (churn: connections) per second; median, least and greatest", rates)]
    if times:
        charts.append(lines("From publish to delivery", "percentile", "ms", STEPS, times))
    return charts
