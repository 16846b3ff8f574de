"""Runs in turn: A B A B, so that a machine that gets slower does not favour one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .bar import Bar
from .brokers import BrokerFailed
from .contestant import Contestant
from .disk import Disk
from .load.link import LoadFailed
from .program import tidy_at_sigterm
from .runs import Run
from .scenarios import Scenario
from .subject import Timing


@dataclass(frozen=True)
class Match:
    """A scenario, and who meets in it."""

    scenario: Scenario
    contestants: Sequence[Contestant]


@dataclass(frozen=True)
class Series:
    """Matches, each repeated so often."""

    matches: Sequence[Match]
    repetitions: int
    timing: Timing

    def run(self, disk: Disk) -> list[Run]:
        """A run that fails is a run with a problem; the others go on."""
        bar = Bar(self.repetitions * sum(len(match.contestants) for match in self.matches))
        runs = []
        for scenario, contestant, number in self._in_turn():
            bar.begin(f"{scenario.name} on {contestant.name}")
            place = disk.directory / f"{scenario.name}-{number}"
            with tidy_at_sigterm():
                run = self._run_one(scenario, contestant, place, bar)
            runs.append(replace(run, sync_delay_ms=disk.sync_delay_ms))
            bar.end(run.problem or f"{run.rate:,.0f}/s")
        return runs

    def _in_turn(self) -> Iterator[tuple[Scenario, Contestant, int]]:
        for match in self.matches:
            for number in range(self.repetitions):
                for contestant in match.contestants:
                    yield match.scenario, contestant, number

    def _run_one(self, scenario: Scenario, contestant: Contestant, place: Path, bar: Bar) -> Run:
        try:
            return contestant.run(scenario, self.timing, place, bar.watch)
        except (LoadFailed, BrokerFailed, OSError) as error:
            return Run(scenario.name, contestant.name, 0.0, problem=f"{type(error).__name__}: {error}")
