"""Leveret beside RabbitMQ, or two revisions of Leveret: the same load on the same machine, in turn.

python -m benchmarks.compare                 # beside RabbitMQ: what Leveret wants to reach, and what it does
python -m benchmarks.compare HEAD~5          # this source tree beside a revision
python -m benchmarks.compare v1.0 v1.1       # a revision beside another
python -m benchmarks.compare --only pair --runs 3 --sync-delay-ms 2
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from . import sdk
from .brokers import Leveret, RabbitMQ
from .contestant import Contestant, OnWire
from .disk import Disk, disks
from .library import Library, Program
from .load.wires import AMQP, NATIVE
from .options import Options, taken, with_options
from .outcome import BELOW, Outcome, outcome_chart, outcome_table
from .plot.svg import Chart
from .program import run_program
from .report import conclude, details
from .revisions import NoRevision, check_out
from .runs import Median, Run
from .scenarios import SCENARIOS
from .series import Match, Series
from .targets import SDK, TARGETS, Target

EXIT_TOO_SLOW = 1
EXIT_NOT_COMPARED = 2

HERE = "this tree"


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a column of the table."""

    heading: str
    contestants: Mapping[str, Contestant]
    """By the wire of a target."""


@click.command()
@click.argument("revisions", nargs=-1, metavar="[REVISION [REVISION]]")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(sorted({target.scenario for target in TARGETS})),
    help="Only the rows that need this scenario; may be given again.",
)
@click.option("--strict", is_flag=True, help="Fail (exit code 1) if a row is below its least ratio.")
@with_options(runs=5)
def compare(revisions: tuple[str, ...], only: tuple[str, ...], strict: bool, **rest: Any) -> int:
    """Compare Leveret with RabbitMQ, or REVISIONs of Leveret: A B A B, with a new process on an empty
    directory for each run. Prints medians and ratios.

    One REVISION is compared with this source tree; of two, the first one is the measure. Without RabbitMQ the
    exit code is 2.
    """
    options = taken(Options, rest)
    if len(revisions) > 2 or len(set(revisions)) < len(revisions):
        raise click.UsageError("two different revisions at most")
    targets = [target for target in TARGETS if not only or target.scenario in only]
    if revisions:
        targets = [target for target in targets if target.wire != SDK]
    runs: list[Run] = []
    charts: list[Chart] = []
    verdicts: set[str] = set()
    for disk in disks(options.directory, options.sync_delay_ms):
        ours, theirs = _revisions(revisions, disk) if revisions else _brokers(disk)
        found = Series(_matches(targets, ours, theirs, options), options.runs, options.timing).run(disk)
        outcomes = [_outcome(target, found, ours, theirs) for target in targets]
        title = options.title(disk)
        click.echo(f"{title}\n")
        click.echo(outcome_table(outcomes, ours.heading, theirs.heading, not revisions))
        click.echo(f"\n{details(found)}\n")
        charts.append(outcome_chart(outcomes, f"{ours.heading} to {theirs.heading}. {title}", not revisions))
        verdicts |= {outcome.verdict for outcome in outcomes}
        runs += found
    code = conclude(runs, options.json, options.plot, charts)
    if not theirs.contestants:
        click.echo("NOT COMPARED: RabbitMQ is not installed (apt-get install rabbitmq-server)", err=True)
        return EXIT_NOT_COMPARED
    return code or (EXIT_TOO_SLOW if strict and BELOW in verdicts else 0)


def _brokers(disk: Disk) -> tuple[Side, Side]:
    leveret = partial(Leveret, env=disk.env)
    ours: dict[str, Contestant] = {
        wire: OnWire(f"{Leveret.name} {wire}", wire, leveret) for wire in (AMQP, NATIVE)
    }
    ours[SDK] = Library(sdk.LEVERET, disk.env)
    if not RabbitMQ.is_installed():
        return Side("Leveret", ours), Side("RabbitMQ", {})
    rabbitmq = OnWire(f"{RabbitMQ.name} {AMQP}", AMQP, partial(RabbitMQ, env=disk.env))
    return Side("Leveret", ours), Side(
        "RabbitMQ", {AMQP: rabbitmq, NATIVE: rabbitmq, SDK: Library(sdk.RABBITMQ, disk.env)}
    )


def _revisions(revisions: Sequence[str], disk: Disk) -> tuple[Side, Side]:
    sides = []
    for revision in (*revisions, HERE)[1::-1]:  # the second one first: that is ours
        try:
            source = None if revision == HERE else check_out(revision, disk.directory)
        except NoRevision as error:
            raise click.ClickException(str(error)) from None
        leveret = partial(Leveret, env=disk.env, source=source)
        sides.append(
            Side(revision, {wire: OnWire(f"{revision} {wire}", wire, leveret) for wire in (AMQP, NATIVE)})
        )
    ours, theirs = sides
    return ours, theirs


def _matches(targets: Sequence[Target], ours: Side, theirs: Side, options: Options) -> list[Match]:
    """Each scenario once, with everybody who is in one of its rows."""
    scenarios = {**SCENARIOS, SDK: Program(SDK, "a pair; Leveret's SDK, or aio-pika on RabbitMQ")}
    found: dict[str, dict[str, Contestant]] = {}
    for target in targets:
        meeting = found.setdefault(target.scenario, {})
        for side in (theirs, ours):
            if target.wire in side.contestants:
                contestant = side.contestants[target.wire]
                meeting[contestant.name] = contestant
    return [Match(options.sized(scenarios[name]), list(meeting.values())) for name, meeting in found.items()]


def _outcome(target: Target, runs: Sequence[Run], ours: Side, theirs: Side) -> Outcome:
    sides = []
    for side in (ours, theirs):
        contestant = side.contestants.get(target.wire)
        some = [run for run in runs if contestant and run.is_of(target.scenario, contestant.name)]
        is_sound = some and not any(run.problem for run in some)
        sides.append(Median.of(some, target.figure.name) if is_sound else None)
    return Outcome(target, *sides)


if __name__ == "__main__":
    run_program(compare, "python -m benchmarks.compare")
