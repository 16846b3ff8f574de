"""The options that all benchmark commands share."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from .disk import Disk
from .scenarios import Backlog, Scenario
from .subject import Timing

PATH = click.Path(path_type=Path)
Command = Callable[..., int]
RepeatsT = TypeVar("RepeatsT", bound="Repeats")


@dataclass(frozen=True)
class Repeats:
    """How often, how long, on what disk."""

    runs: int
    seconds: float
    warm_up: float
    directory: Path | None

    @property
    def timing(self) -> Timing:
        return Timing(self.warm_up, self.seconds)

    def title(self, disk: Disk) -> str:
        """What the tables are of."""
        slower = f", each sync {disk.sync_delay_ms:g} ms slower" if disk.sync_delay_ms else ""
        times = f"{self.runs} runs of {self.seconds:g} s, after {self.warm_up:g} s of warm-up"
        return f"Medians of {times}{slower}"


@dataclass(frozen=True)
class Options(Repeats):
    """And with what changes, and where the result goes."""

    size: int | None
    messages: int | None
    sync_delay_ms: tuple[float, ...]
    json: Path | None
    plot: Path | None

    def sized(self, scenario: Scenario) -> Scenario:
        """As it is, or as large as was asked for."""
        if self.size is not None:
            scenario = replace(scenario, size=self.size)
        if self.messages is not None and isinstance(scenario, Backlog):
            scenario = replace(scenario, messages=self.messages)
        return scenario


def with_repeats(runs: int) -> Callable[[Command], Command]:
    """Give a command the options of `Repeats`; `runs` is the default of that one."""
    count = click.IntRange(1)
    return _with(
        click.option("--runs", type=count, default=runs, show_default=True, help="Repetitions of each."),
        click.option("--seconds", default=5.0, show_default=True, help="The measured time of a run."),
        click.option("--warm-up", default=2.0, show_default=True, help="Seconds of load before that."),
        click.option("--directory", type=PATH, help="Where the brokers keep their data (a real disk)."),
    )


def with_options(runs: int) -> Callable[[Command], Command]:
    """Give a command all of `Options`."""
    return _with(
        with_repeats(runs),
        click.option("--size", type=int, help="Bytes of a body (16 at least), instead of the scenario's."),
        click.option("--messages", type=int, help="Messages of a backlog, instead of 1,000,000."),
        click.option(
            "--sync-delay-ms",
            type=float,
            multiple=True,
            default=(0.0,),
            help="Make each sync of the brokers so much slower. Several: everything is repeated with each.",
        ),
        click.option("--json", type=PATH, help="Write every run to this file."),
        click.option("--plot", type=PATH, help="Draw the result into this file (SVG)."),
    )


def taken(kind: type[RepeatsT], arguments: dict[str, Any]) -> RepeatsT:
    """Take the options out of a command's arguments."""
    return kind(**{field.name: arguments.pop(field.name) for field in fields(kind)})


def _with(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """In the order in which --help is to list them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
