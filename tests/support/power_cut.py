"""Cuts the power of a broker under load, again and again, and has what is left judged.

The broker runs under strace (`disk_trace.py`), and the load on it writes down what it does and sees
(`crash_load.py`). A power cut is a place in that recording: `disk_model.py` makes one of the disks that it
may leave, the real recovery reads that (`recovered.py`), and the checker (`checker.py`) holds what was found
against all that the clients had done and seen by then. Afterwards the broker starts anew on one of these
disks, and the load goes on.

At the power cut before step n, the disk was given steps 0 to n-1, and maybe a part of step n; the clients
know what they knew when step n began.
"""

import asyncio
import math
import os
import shutil
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import disk_trace
from checker import SHOWN_MAX, Checker, Report
from crash_load import Load
from crash_worker import Journal
from daemon import Daemon
from disk_model import Disk, Operation
from disk_trace import Step
from history import Crashed, Event, Stopped
from power_cut_judge import Judges, PowerCut

MISBEHAVED = "misbehaved"

BROKER = (sys.executable, str(Path(__file__).with_name("power_cut_broker.py")))
UNSYNCED_BROKER = (*BROKER, "--unsynced")
UNSYNCED_TAIL_BROKER = (*BROKER, "--unsynced-tail")

LIVES = 4
"""So often the broker starts in one experiment."""
LOAD_S = 1.0
CLIENTS_MAX_S = 30
"""Clients that have not noticed the end of their broker by then hang."""
CHECKPOINT_BYTES = (20_000, 100_000, 1_000_000)
"""One of these per experiment: checkpoints with almost every commit, all the time, often."""
START_STEPS, START_SHARE = 60, 0.1
"""A start takes few steps of thousands, so a share of the power cuts is for them alone."""
WORKSHOP = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Disks are made and recovered here: the syncs of a recovery prove nothing, and take long on a real disk."""


@dataclass
class Outcome:
    """What came of an experiment."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)  # what was tried
    verdicts: Counter[str] = field(default_factory=Counter)  # on disks
    report: Report = field(default_factory=Report)

    @property
    def ok(self) -> bool:
        return self.report.ok

    def add(self, cut: PowerCut, report: Report) -> None:
        """What was found on one more disk."""
        self.verdicts[" and ".join(sorted(report.violations)) or "sound"] += 1
        self.counts += report.counts
        self.report.violations += report.violations
        for kind, texts in report.examples.items():
            examples = self.report.examples[kind]
            examples += [f"{cut.name}: {text}" for text in texts[: SHOWN_MAX - len(examples)]]

    def __str__(self) -> str:
        return f"seed {self.seed}\ndisks {dict(self.verdicts)}\ntried {dict(self.counts)}{self.report}"


class Experiment:
    """One data directory, one load, some lives of a broker."""

    def __init__(self, directory: Path, seed: int, broker: Sequence[str]) -> None:
        self.outcome = Outcome(seed)
        self._directory = directory
        self._root = directory / "disk"
        self._root.mkdir()
        self._data_dir = self._root / "data"
        self._random = Random(seed)
        self._load = Load(seed)
        self._journal = self._load.journal
        self._trace = directory / "trace"
        self._next = directory / "next"
        self._pid = 0
        self._daemon = Daemon(
            self._data_dir,
            "--checkpoint-bytes",
            str(self._random.choice(CHECKPOINT_BYTES)),
            command=(*disk_trace.command(self._trace, self._data_dir), *broker),
        )

    def run(self, power_cuts: int, lives: int, jobs: int) -> None:
        """Give every life its share of the power cuts; a bad disk ends the experiment."""
        with tempfile.TemporaryDirectory(dir=WORKSHOP, prefix="leveret-power-cut-") as workshop:
            judges = Judges(Path(workshop), self._directory, jobs, self.outcome.add)
            for life in range(lives):
                share = power_cuts * (life + 1) // lives - power_cuts * life // lives
                if self.outcome.ok and share:
                    self._live(f"{self.outcome.seed}-{life}", share, judges)

    def _live(self, name: str, power_cuts: int, judges: Judges) -> None:
        """Start the broker, let the load run, stop it; then cut the power in what was recorded."""
        life = Life(Disk(self._root), self._journal)
        asyncio.run(self._work())
        disk_trace.wait_for_end(self._trace, self._pid)
        life.steps = disk_trace.read(self._trace)
        self._trace.unlink()
        self.outcome.counts["operations"] += len(life.steps)
        goes_on = self._random.randrange(power_cuts)
        for number, place in enumerate(self._places(len(life.steps), power_cuts)):
            life.move_to(place)
            cut = PowerCut(f"{name}-{number}", life.begun, life.history)
            self.outcome.counts["with unsynced writes"] += life.disk.has_unsynced()
            judges.start(life.disk, life.checker, cut)
            if number == goes_on:
                life.disk.write_image(self._next, Random(cut.name), cut.begun)
                last = cut
        judges.finish()
        life.move_to(len(life.steps))
        self._compare(life.disk)
        self._go_on_after(last)

    async def _work(self) -> None:
        """One life of the broker, from its start to its end in order."""
        try:
            await asyncio.to_thread(self._daemon.start)
            self._pid = self._daemon.pid
            working = asyncio.create_task(self._load.run(self._daemon.port))
            await asyncio.wait([working], timeout=LOAD_S)
            exit_code = await asyncio.to_thread(self._daemon.terminate)
            await asyncio.wait_for(working, CLIENTS_MAX_S)
        finally:
            self._daemon.kill()
        if exit_code != 0:
            logged = self._daemon.stderr.splitlines()
            trouble = [line for line in logged if " CRITICAL " in line or " ERROR " in line]
            self._complain("\n".join((f"exit code {exit_code} after SIGTERM", *trouble[-SHOWN_MAX:])))
        for complaint in self._journal.complaints:
            self._complain(complaint)
        self._journal.add(Stopped())

    def _complain(self, text: str) -> None:
        self.outcome.report.violation(MISBEHAVED, text)

    def _places(self, steps: int, count: int) -> list[int]:
        """Where to cut the power; once it is after everything."""
        chance = self._random
        places = [
            chance.randrange(min(START_STEPS, steps))
            if chance.random() < START_SHARE
            else chance.randrange(steps)
            for _ in range(count - 1)
        ]
        return [*sorted(places), steps]

    def _compare(self, disk: Disk) -> None:
        """The recording must lead to the files that are really there; else it lacks something."""
        disk.sync_all()
        expected = self._directory / "expected"
        disk.write_image(expected, Random())
        if _contents(expected / "data") != _contents(self._data_dir):
            raise AssertionError(f"the recording does not lead from {expected / 'data'} to {self._data_dir}")
        shutil.rmtree(expected)

    def _go_on_after(self, cut: PowerCut) -> None:
        """Let the world end at this power cut: the next life begins with the disk that it left."""
        self._journal.forget(len(cut.history))
        if not cut.after_stop:
            self._journal.add(Crashed())
        shutil.rmtree(self._root)
        shutil.move(self._next, self._root)


class Life:
    """What was done to a disk while one broker ran, and what its clients knew meanwhile."""

    def __init__(self, disk: Disk, journal: Journal) -> None:
        """Before it begins."""
        self.disk = disk
        self.checker = Checker()
        self.checker.feed(journal.history)
        self.steps: list[Step] = []
        self._journal = journal
        self._known = len(journal.history)  # events
        self._moment = 0.0
        self._at = 0

    @property
    def begun(self) -> Operation | None:
        """What is under way."""
        return self.steps[self._at].operation if self._at < len(self.steps) else None

    @property
    def history(self) -> list[Event]:
        """What is known."""
        return self._journal.history[: self._known]

    def move_to(self, place: int) -> None:
        """Go on until just before a step, or the end."""
        for step in self.steps[self._at : place]:
            self.disk.apply(step.operation)
        for step in self.steps[self._at : place + 1]:
            self._moment = max(self._moment, step.moment)
        self._at = place
        moment = self._moment if place < len(self.steps) else math.inf
        known = bisect_right(self._journal.moments, moment)
        self.checker.feed(self._journal.history[self._known : known])
        self._known = known


def _contents(directory: Path) -> dict[Path, bytes]:
    """All files but the table of readers, which is shared memory."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != disk_trace.MAPPED]
    return {path.relative_to(directory): path.read_bytes() for path in files}


def run(
    directory: Path,
    power_cuts: int,
    seed: int,
    *,
    lives: int = LIVES,
    jobs: int = 1,
    broker: Sequence[str] = BROKER,
) -> Outcome:
    """A whole experiment in an empty directory, which keeps the bad disks and their histories."""
    experiment = Experiment(directory, seed, broker)
    experiment.run(power_cuts, lives, jobs)
    return experiment.outcome
