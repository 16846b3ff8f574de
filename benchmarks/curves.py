"""How the cost grows with the work: the throughput of a pair over queues, connections, sizes and backlogs.

    python -m benchmarks.curves                          # everything; 10,000,000 messages take 12 GB of disk
    python -m benchmarks.curves queues sizes --runs 1 --rabbitmq
    python -m benchmarks.curves backlog --up-to 100000

Each curve becomes a JSON file with every run and a picture.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from .brokers import Leveret, RabbitMQ
from .contestant import OnWire
from .disk import Disk, disks
from .load.wires import AMQP, NATIVE
from .options import PATH, Repeats, taken, with_repeats
from .plot.lines import lines
from .plot.svg import Chart
from .program import run_program
from .report import conclude, details
from .runs import Median, Run
from .scenarios import KIB, MIB, Flow
from .series import Match, Series

OUT = Path("docs/curves")
RATE_AND_CPU = {
    "rate": "messages per second",
    "broker_cpu_s_per_million": "CPU seconds of the broker per million messages",
}
IN_FLIGHT = 500
IN_FLIGHT_BYTES = 8 * MIB


@dataclass(frozen=True)
class Curve:
    """A flow at growing numbers."""

    about: str
    across: str
    steps: Sequence[int]
    flow: Callable[[str, int], Flow]
    """Of a name and a step."""
    label: Callable[[int], str] = "{:,}".format
    figures: Mapping[str, str] = field(default_factory=lambda: RATE_AND_CPU)
    """What is drawn of the runs, and what it is called."""


def _queues(name: str, queues: int) -> Flow:
    return Flow(name, "one pair, so many queues in turn", queues=queues)


def _connections(name: str, connections: int) -> Flow:
    pairs = connections // 2
    window = max(1, IN_FLIGHT // pairs)
    return Flow(
        name, "pairs, each with its queue", publishers=pairs, queues=pairs, consumers=pairs, window=window
    )


def _size(name: str, size: int) -> Flow:
    count = min(IN_FLIGHT, IN_FLIGHT_BYTES // size)
    return Flow(name, "one pair", size=size, window=count, prefetch=count, ack_every=min(50, count // 2))


def _backlog(name: str, waiting: int) -> Flow:
    return Flow(name, "one pair, behind messages that wait already", waiting=waiting)


def _bytes(size: int) -> str:
    if size >= MIB:
        return f"{size // MIB} MiB"
    return f"{size // KIB} KiB" if size >= KIB else f"{size} B"


CURVES = {
    "queues": Curve("1 publisher, 1 consumer, 1 KiB durable", "queues", (1, 10, 100, 1000, 10_000), _queues),
    "connections": Curve(
        "500 publishes in flight over all, 1 KiB durable", "connections", (2, 10, 100, 1000), _connections
    ),
    "sizes": Curve("1 pair, durable", "body", (16, 128, KIB, 8 * KIB, 64 * KIB, MIB), _size, _bytes),
    "backlog": Curve(
        "1 pair, 1 KiB durable, through a queue in which messages wait",
        "messages that wait",
        (0, 1000, 10_000, 100_000, 1_000_000, 10_000_000),
        _backlog,
        figures={**RATE_AND_CPU, "rss_mb": "MB of memory (RSS)"},
    ),
}


@click.command()
@click.argument("curves", nargs=-1, type=click.Choice(list(CURVES)), metavar="[CURVE]...")
@click.option("--rabbitmq", is_flag=True, help="RabbitMQ's curve, too.")
@click.option("--up-to", type=int, default=sys.maxsize, help="Leave out the steps beyond this number.")
@click.option("--out", type=PATH, default=OUT, show_default=True, help="The directory for the files.")
@with_repeats(runs=3)
def draw(curves: tuple[str, ...], rabbitmq: bool, up_to: int, out: Path, **rest: Any) -> int:
    """Draw how throughput changes as the work grows. Without CURVE: all of them."""
    options = taken(Repeats, rest)
    if rabbitmq and not RabbitMQ.is_installed():
        raise click.ClickException("RabbitMQ is not installed (apt-get install rabbitmq-server)")
    out.mkdir(parents=True, exist_ok=True)
    code = 0
    for disk in disks(options.directory, [0.0]):
        for name in curves or CURVES:
            curve = CURVES[name]
            steps = {f"{name}-{step}": step for step in curve.steps if step <= up_to}
            contestants = _contestants(disk, rabbitmq)
            matches = [Match(curve.flow(key, step), contestants) for key, step in steps.items()]
            runs = Series(matches, options.runs, options.timing).run(disk)
            click.echo(f"{curve.about}. {options.title(disk)}\n{details(runs)}\n")
            charts = _charts(curve, steps, runs)
            code |= conclude(runs, out / f"{name}.json", out / f"{name}.svg", charts)
    return code


def _contestants(disk: Disk, with_rabbitmq: bool) -> list[OnWire]:
    leveret = partial(Leveret, env=disk.env)
    found = [OnWire(f"{Leveret.name} {wire}", wire, leveret) for wire in (AMQP, NATIVE)]
    if with_rabbitmq:
        found.append(OnWire(f"{RabbitMQ.name} {AMQP}", AMQP, partial(RabbitMQ, env=disk.env)))
    return found


def _charts(curve: Curve, steps: Mapping[str, int], runs: Sequence[Run]) -> list[Chart]:
    """`steps`: by the name of the scenario."""
    sound = [run for run in runs if not run.problem]
    names = dict.fromkeys(run.contestant for run in sound)
    labels = {key: curve.label(step) for key, step in steps.items()}
    charts = []
    for figure, up in curve.figures.items():
        series: dict[str, dict[str, float]] = {}
        for name in names:
            line = series[name] = {}
            for key, label in labels.items():
                if some := [run for run in sound if run.is_of(key, name)]:
                    line[label] = Median.of(some, figure).middle
        charts.append(lines(curve.about, curve.across, up, list(labels.values()), series))
    return charts


if __name__ == "__main__":
    run_program(draw, "python -m benchmarks.curves")
