"""`leveret bench`: loads on one broker, this one or another."""

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import click

from .brokers import Leveret, Running
from .contestant import OnWire
from .disk import Disk, disks
from .load.link import Address
from .load.wires import AMQP, NATIVE, WIRES
from .options import Options, taken, with_options
from .pictures import pictures_of
from .report import conclude, details, table
from .runs import Run
from .scenarios import SCENARIOS
from .series import Match, Series

DEFAULT = "pair"
SCHEMES = {"amqp": AMQP, "leveret": NATIVE}


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--wire", "wires", multiple=True, type=click.Choice(list(WIRES)), help="AMQP 0-9-1 by default.")
@click.option("--url", help="Load this broker: amqp://... (any that speaks AMQP 0-9-1) or leveret://...")
@click.option("--all", "is_all", is_flag=True, help="All scenarios.")
@click.option("--list", "is_list", is_flag=True, help="Say which scenarios there are.")
@with_options(runs=3)
def bench(
    scenarios: tuple[str, ...],
    wires: tuple[str, ...],
    url: str | None,
    is_all: bool,
    is_list: bool,
    **rest: Any,
) -> int:
    """Measure how fast a broker is: by default a fresh one of this installation, for each run.

    Without SCENARIO it is one publisher and one consumer, durable and confirmed. Every message is counted:
    a run in which one is lost or doubled fails, and the exit code is 1. On a broker given by --url, queues
    named bench-* are deleted.
    """
    options = taken(Options, rest)
    if is_list:
        click.echo(table([(one.name, one.about) for one in SCENARIOS.values()], left=2))
        return 0

    if url and any(options.sync_delay_ms):
        raise click.UsageError("the syncs of a broker that runs already cannot be made slower")
    names = list(SCENARIOS) if is_all else scenarios or (DEFAULT,)
    runs: list[Run] = []
    for disk in disks(options.directory, options.sync_delay_ms):
        contestants = _somebodys(url) if url else _own(wires or (AMQP,), disk)
        matches = [Match(options.sized(SCENARIOS[name]), contestants) for name in names]
        found = Series(matches, options.runs, options.timing).run(disk)
        click.echo(f"{options.title(disk)}\n{details(found)}\n")
        runs += found
    return conclude(runs, options.json, options.plot, pictures_of(runs))


def _own(wires: Sequence[str], disk: Disk) -> list[OnWire]:
    """A broker of this installation, over these wires."""
    return [OnWire(f"{Leveret.name} {wire}", wire, partial(Leveret, env=disk.env)) for wire in wires]


def _somebodys(url: str) -> list[OnWire]:
    wire = SCHEMES.get(urlsplit(url).scheme)
    if wire is None:
        raise click.UsageError(f"{url!r} is neither amqp://... nor leveret://...")
    address = Address.of(url)
    return [OnWire(f"{address.host}:{address.port}", wire, lambda _: Running(address))]
