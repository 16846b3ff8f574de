"""The options that all benchmark commands share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from .disk import Disk
from .scenarios import Backlog, Scenario
from .subject import Timing


@dataclass(frozen=True)
class Options:
    """How long, how often, on what disk, and where the result goes."""

    runs: int
    seconds: float
    warm_up: float
    size: int | None
    messages: int | None
    sync_delay_ms: tuple[float, ...]
    directory: Path | None
    json: Path | None
    plot: Path | None

    def title(self, disk: Disk) -> str:
        """What the tables are of."""
        slower = f", each sync {disk.sync_delay_ms:g} ms slower" if disk.sync_delay_ms else ""
        return (
            f"Medians of {self.runs} runs of {self.seconds:g} s, after {self.warm_up:g} s of warm-up{slower}"
        )

    @property
    def timing(self) -> Timing:
        return Timing(self.warm_up, self.seconds)

    def sized(self, scenario: Scenario) -> Scenario:
        """As it is, or as large as was asked for."""
        if self.size is not None:
            scenario = replace(scenario, size=self.size)
        if self.messages is not None and isinstance(scenario, Backlog):
            scenario = replace(scenario, messages=self.messages)
        return scenario


def with_options(runs: int) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options; `runs` is the default of that one. It gets them as keyword arguments."""
    path = click.Path(path_type=Path)
    options = (
        click.option(
            "--runs", type=click.IntRange(1), default=runs, show_default=True, help="Repetitions of each."
        ),
        click.option("--seconds", default=5.0, show_default=True, help="The measured time of a run."),
        click.option("--warm-up", default=2.0, show_default=True, help="Seconds of load before that."),
        click.option("--size", type=int, help="Bytes of a body (16 at least), instead of the scenario's."),
        click.option("--messages", type=int, help="Messages of a backlog, instead of 1,000,000."),
        click.option(
            "--sync-delay-ms",
            type=float,
            multiple=True,
            default=(0.0,),
            help="Make each sync of the brokers so much slower. Several: everything is repeated with each.",
        ),
        click.option("--directory", type=path, help="Where the brokers keep their data (a real disk)."),
        click.option("--json", type=path, help="Write every run to this file."),
        click.option("--plot", type=path, help="Draw the result into this file (SVG)."),
    )

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def taken(arguments: dict[str, Any]) -> Options:
    """Take the shared options out of a command's arguments."""
    return Options(**{name: arguments.pop(name) for name in Options.__dataclass_fields__})
