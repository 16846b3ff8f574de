"""What is printed and written of runs: tables of medians, every run as JSON."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from leveret.version import __version__

from .plot.svg import Chart, page
from .runs import Median, Run

HEADINGS = (
    "scenario",
    "on",
    "rate /s",
    "least - greatest",
    "confirm p50",
    "p99 ms",
    "deliver p50",
    "p99 ms",
    "broker CPU s/M",
    "RSS MB",
    "load us pub",
    "con",
    "cores",
)
NOTHING = "-"
EXIT_FAILED = 1


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned; the first columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            f"{cell:<{width}}" if column < left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def details(runs: Iterable[Run]) -> str:
    """A line of medians for each scenario on each contestant. Runs with a problem do not count."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if not run.problem:
            groups.setdefault((run.scenario, run.contestant), []).append(run)
    return table([HEADINGS, *(_details_row(*names, some) for names, some in groups.items())], left=2)


def conclude(runs: Sequence[Run], json_file: Path | None, plot: Path | None, charts: Sequence[Chart]) -> int:
    """Write the files that were asked for, say which runs failed, and return the exit code."""
    if json_file:
        write_json(json_file, runs)
    if plot:
        plot.write_text(page(charts))
    failed = [run for run in runs if run.problem]
    for run in failed:
        click.echo(f"FAILED: {run.scenario} on {run.contestant}: {run.problem}", err=True)
    return EXIT_FAILED if failed else 0


def write_json(path: Path, runs: Sequence[Run]) -> None:
    found = {"machine": machine(), "runs": [asdict(run) for run in runs]}
    path.write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, object]:
    """What it was measured on."""
    return {
        "leveret": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "command": sys.argv[1:],
    }


def _details_row(scenario: str, contestant: str, runs: Sequence[Run]) -> tuple[str, ...]:
    rate = Median.of(runs, "rate")

    def show(figure: str, form: str) -> str:
        value = Median.of(runs, figure).middle
        return f"{value:{form}}" if value else NOTHING

    return (
        scenario,
        contestant,
        f"{rate.middle:,.0f}",
        f"{rate.least:,.0f} - {rate.greatest:,.0f}",
        show("confirm_p50_ms", ".2f"),
        show("confirm_p99_ms", ".1f"),
        show("deliver_p50_ms", ".2f"),
        show("deliver_p99_ms", ".1f"),
        show("broker_cpu_s_per_million", ".1f"),
        show("rss_mb", ",.0f"),
        show("publisher_us", ".1f"),
        show("consumer_us", ".1f"),
        show("load_cores", ".2f"),
    )
