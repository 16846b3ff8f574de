"""The broker dies at every named place, by kill -9 and by errors of its disk, and recovers from it.

The load, the history and the checker are those of `test_kill9.py`; here each death is at the place that a
random moment hardly ever hits.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from kill9 import Experiment, Outcome

from leveret.broker.durability.check import inspect
from leveret.storage.check import check_directory
from leveret.storage.failpoints import NAMES

KILLED = -9
EXIT_FAILED = 1
EXIT_LOG_FAILED = 3
TIMEOUT_S = 60 * TIMEOUT_FACTOR
CHECKPOINT_BYTES = 100_000  # all the time
TROUBLE = re.compile(r" (WARNING|ERROR|CRITICAL) |Traceback")
SOME_HITS = (3, 20)
HITS = {"allocate": (2,), "during_cleaning": (1, 3)}  # of those that are passed now and then only
BETWEEN_WRITES = {"after_checkpoint", "during_cleaning"}  # no disk can fail there
LAST_WORDS = " CRITICAL .*: the log could not be written, stopping without confirming anything more: "

pytestmark = pytest.mark.timeout(180 * TIMEOUT_FACTOR)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "data", "--checkpoint-bytes", str(CHECKPOINT_BYTES))
    yield daemon
    daemon.kill()


@pytest.fixture
def experiment(daemon: Daemon) -> Experiment:
    return Experiment(daemon, seed=1)


def complaints(daemon: Daemon) -> list[str]:
    """What it logged from warnings on. The load's producer takes over from itself."""
    lines = daemon.stderr.splitlines()
    return [
        line for line in lines if TROUBLE.search(line) and "was taken over by another channel" not in line
    ]


async def kill_under_load(experiment: Experiment, daemon: Daemon, place: str) -> None:
    """At an early and a later hit."""
    for nth in HITS.get(place, SOME_HITS):
        assert await experiment.run_into(f"{place}=kill@{nth}") == KILLED
    assert complaints(daemon) == []


async def kill_while_creating(experiment: Experiment, daemon: Daemon, place: str) -> None:
    assert "printed ''" in await experiment.start_into(f"{place}=kill")
    assert not (daemon.data_dir / "log").exists()
    await kill_under_load(experiment, daemon, "after_commit_before_confirm")  # it works afterwards


async def kill_while_compacting(experiment: Experiment, daemon: Daemon, place: str) -> None:
    assert await experiment.run_into("before_commit=kill@100") == KILLED
    compact = [sys.executable, "-m", "leveret", "compact", str(daemon.data_dir)]
    for armed, exit_code in ((f"{place}=kill", KILLED), (f"{place}=full", EXIT_FAILED), ("", 0)):
        environment = {**os.environ, "LEVERET_FAILPOINTS": armed}
        ended = await asyncio.to_thread(
            subprocess.run, compact, env=environment, check=False, timeout=TIMEOUT_S, capture_output=True
        )
        assert ended.returncode == exit_code, ended.stderr
        assert check_directory(daemon.data_dir, inspect).is_sound


async def kill_while_recovering(experiment: Experiment, daemon: Daemon, place: str) -> None:
    daemon.options = ()  # the next checkpoint is far away: there is something to replay
    assert await experiment.run_into("before_commit=kill@100") == KILLED
    for armed in (f"{place}=kill", f"{place}=kill@10", f"{place}=error@5"):
        assert "printed ''" in await experiment.start_into(armed)
    assert daemon.stderr.endswith(f"(injected at {place})\n")


Death = Callable[[Experiment, Daemon, str], Awaitable[None]]
ELSEWHERE: dict[str, Death] = {
    "during_recovery": kill_while_recovering,
    "during_create": kill_while_creating,
    "during_compact": kill_while_compacting,
}
"""Places that a broker under load does not pass."""


def judged(outcome: Outcome) -> Outcome:
    assert outcome.ok, str(outcome)
    assert outcome.report.counts["confirmed"] > 0, f"the load proves nothing: {outcome}"
    return outcome


@pytest.mark.parametrize("place", sorted(NAMES))
async def test_a_broker_killed_at_any_place_recovers(
    experiment: Experiment, daemon: Daemon, place: str
) -> None:
    death = ELSEWHERE.get(place, kill_under_load)
    await death(experiment, daemon, place)
    judged(await experiment.judge())


@pytest.mark.parametrize("place", sorted(NAMES - ELSEWHERE.keys() - BETWEEN_WRITES - {"allocate"}))
async def test_a_disk_that_fails_ends_the_broker_with_one_line(
    experiment: Experiment, daemon: Daemon, place: str
) -> None:
    for error in ("error", "full"):
        assert await experiment.run_into(f"{place}={error}@20") == EXIT_LOG_FAILED
    lines = complaints(daemon)
    assert [bool(re.search(rf"{LAST_WORDS}.*\(injected at {place}\)$", line)) for line in lines] == [True] * 2
    judged(await experiment.judge())


@pytest.mark.parametrize(
    ("armed", "reason"), [("error@2", r"\(injected at allocate\)"), ("full@4+", "the store is full")]
)
async def test_a_disk_that_gives_no_more_room_ends_the_broker_with_one_line(
    experiment: Experiment, daemon: Daemon, armed: str, reason: str
) -> None:
    """The alarm does not know: the disk is large, and yet the log cannot grow, such as by a quota."""
    assert await experiment.run_into(f"allocate={armed}") == EXIT_LOG_FAILED
    (line,) = complaints(daemon)
    assert re.search(rf"{LAST_WORDS}.*{reason}$", line)
    judged(await experiment.judge())
