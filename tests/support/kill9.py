"""Kills a broker under load, again and again, then has its history judged.

`tests/crash/test_kill9.py` lets it die some times in every test run, `tests/crash/run_kill9.py` as often as
one asks.
"""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from checker import Report, check
from crash_load import Load
from daemon import Daemon, DaemonFailed
from history import Crashed, Standing, Stopped, save
from recovered import recover

from leveret.broker.durability.check import inspect
from leveret.storage.check import check_directory
from leveret.storage.failpoints import NAMES

LOAD_MAX_S = 2.0
START_MAX_S = 1.0
PAUSE_S = 0.3
STOP_MAX_S = 0.3
FAILPOINTS = sorted(NAMES - {"allocate", "during_create", "during_compact"})
"""Those that a running broker passes often; `test_failpoints.py` hits each of all."""
CLIENTS_MAX_S = 30
DEATH_MAX_S = 100  # until the load has made the broker pass an armed place, on a busy machine
"""Clients that have not noticed the end of their broker by then hang."""
CHECKPOINT_BYTES = (100_000, 1_000_000, 64_000_000)
"""One of these per experiment: checkpoints all the time, often, hardly ever."""
CHECKED = 0.2
"""After so many of the deaths the store is checked before the next start."""


@dataclass
class Outcome:
    """What came of an experiment."""

    seed: int
    deaths: Counter[str] = field(default_factory=Counter)
    report: Report = field(default_factory=Report)
    complaints: list[str] = field(default_factory=list)  # what the broker should not have done, or said

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.complaints

    def __str__(self) -> str:
        lines = [f"seed {self.seed}", f"deaths {dict(self.deaths)}", str(self.report), *self.complaints]
        return "\n".join(lines)


class Experiment:
    """One data directory, one load, many deaths."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.load = Load(seed)
        self.outcome = Outcome(seed)
        self._daemon = daemon
        self._random = Random(seed)
        self._deaths = {  # each returns whether the broker ended in order
            self._kill: 5,
            self._kill_after_pause: 1,
            self._kill_while_starting: 2,
            self._kill_while_stopping: 2,
            self._die_at_failpoint: 3,
            self._stop: 1,
        }

    async def run(self, cycles: int) -> Outcome:
        """Let the broker die so many times, then judge."""
        try:
            for _ in range(cycles):
                await self._cycle()
            return await self.judge()
        finally:
            self._daemon.kill()

    async def judge(self) -> Outcome:
        """Drain the broker twice, with a stop in between, and go through the history."""
        for prove in (True, False):
            await asyncio.to_thread(self._daemon.start)
            await self.load.drain(self._daemon.port, prove=prove)
            await self._stop_daemon()
            self.load.journal.add(Stopped())
        self._check_store()
        self.load.journal.add(Standing((await asyncio.to_thread(recover, self._daemon.data_dir)).standing))
        self.outcome.report = check(self.load.journal.history)
        self.outcome.complaints += self.load.journal.complaints
        return self.outcome

    async def run_into(self, armed: str) -> int:
        """Let the broker work with failpoints armed until it ends by itself; returns the exit code.

        Raises DaemonFailed when it does not.
        """
        with self._armed(armed):
            await asyncio.to_thread(self._daemon.start)
        working = asyncio.create_task(self.load.run(self._daemon.port))
        try:
            exit_code = await asyncio.to_thread(self._daemon.wait, DEATH_MAX_S)
        finally:
            self._daemon.kill()
            await working
        self.load.journal.add(Crashed())
        self._check_store()
        return exit_code

    async def start_into(self, armed: str) -> str:
        """Start the broker with failpoints armed that it does not survive; returns what that looked like."""
        with self._armed(armed):
            try:
                await asyncio.to_thread(self._daemon.start)
            except DaemonFailed as failure:
                return str(failure)
        raise DaemonFailed(f"started in spite of {armed}")

    @contextmanager
    def _armed(self, armed: str) -> Iterator[None]:
        self._daemon.env = {"LEVERET_FAILPOINTS": armed}
        try:
            yield
        finally:
            self._daemon.env = {}

    async def _cycle(self) -> None:
        die = self._random.choices(list(self._deaths), list(self._deaths.values()))[0]
        self.outcome.deaths[die.__name__.strip("_")] += 1
        in_order = await die()
        self.load.journal.add(Stopped() if in_order else Crashed())
        if self._random.random() < CHECKED:
            self._check_store()

    @asynccontextmanager
    async def _under_load(self) -> AsyncIterator[None]:
        """Start the broker, let the load run for a while, do something, see to it that all clients notice."""
        await asyncio.to_thread(self._daemon.start)
        working = asyncio.create_task(self.load.run(self._daemon.port))
        await asyncio.wait([working], timeout=self._random.uniform(0, LOAD_MAX_S))
        yield
        await asyncio.wait_for(working, CLIENTS_MAX_S)

    async def _kill(self) -> bool:
        async with self._under_load():
            self._complain_if_dead()
            self._daemon.kill()
        return False

    async def _kill_after_pause(self) -> bool:
        async with self._under_load():
            self._complain_if_dead()
            self._process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(PAUSE_S)
            self._process.send_signal(signal.SIGCONT)
            await asyncio.sleep(self._random.uniform(0, PAUSE_S))
            self._daemon.kill()
        return False

    async def _kill_while_starting(self) -> bool:
        """Sometimes right after the ready line. In a row, it makes a recovery meet what a recovery left."""
        starting = asyncio.create_task(asyncio.to_thread(self._daemon.start))
        await asyncio.sleep(self._random.uniform(0, START_MAX_S))
        if self._daemon.process is not None:
            self._daemon.process.kill()
        with suppress(DaemonFailed):
            await starting
        self._daemon.kill()
        return False

    async def _kill_while_stopping(self) -> bool:
        async with self._under_load():
            self._complain_if_dead()
            self._process.send_signal(signal.SIGTERM)
            await asyncio.sleep(self._random.uniform(0, STOP_MAX_S))
            self._process.kill()
            exit_code = await asyncio.to_thread(self._daemon.wait)
        return exit_code == 0

    async def _die_at_failpoint(self) -> bool:
        """Storage kills the process, or fails, at a place that a random moment would hardly ever hit."""
        place, action = self._random.choice(FAILPOINTS), self._random.choice(("kill", "error", "full"))
        with self._armed(f"{place}={action}@{self._random.randint(1, 60)}"):
            try:
                async with self._under_load():
                    if self._process.poll() is not None:
                        self.outcome.deaths[f"{action} at {place}, exit code {self._process.returncode}"] += 1
                    self._daemon.kill()
            except DaemonFailed:
                self.outcome.deaths[f"{action} at {place} while starting"] += 1
        return False

    async def _stop(self) -> bool:
        async with self._under_load():
            self._complain_if_dead()
            return await self._stop_daemon()

    async def _stop_daemon(self) -> bool:
        exit_code = await asyncio.to_thread(self._daemon.terminate)
        if exit_code != 0:
            self._complain(f"exit code {exit_code} after SIGTERM")
        return exit_code == 0

    def _complain_if_dead(self) -> None:
        if self._process.poll() is not None:
            self._complain("the broker ended by itself")

    def _check_store(self) -> None:
        """What `leveret check` does; the first start may have died before there was anything."""
        if not (self._daemon.data_dir / "log").exists():
            return
        findings = check_directory(self._daemon.data_dir, inspect).findings
        self.outcome.complaints += [f"leveret check: {finding}" for finding in findings]

    def _complain(self, text: str) -> None:
        self.outcome.complaints.append(f"{text}\n{self._daemon.stderr[-2000:]}")

    @property
    def _process(self) -> "subprocess.Popen[str]":
        assert self._daemon.process is not None
        return self._daemon.process


def run(directory: Path, cycles: int, seed: int, *options: str) -> Outcome:
    """A whole experiment on a new data directory; the history of a bad one is kept beside it."""
    checkpoint_bytes = Random(seed).choice(CHECKPOINT_BYTES)
    options = ("--checkpoint-bytes", str(checkpoint_bytes), *options)
    experiment = Experiment(Daemon(directory / "data", *options), seed)
    try:
        outcome = asyncio.run(experiment.run(cycles))
    finally:
        save(experiment.load.journal.history, directory / "history")
    return outcome
