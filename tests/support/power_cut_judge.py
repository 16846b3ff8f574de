"""One power cut: makes a disk that it may leave, lets Leveret recover it, and judges what came of that.

`Judges` does so in child processes, forked where the power is cut: a child has the disk and the checker as
they are there, and a recovery that crashes takes only the child with it.
"""

import multiprocessing
import shutil
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from random import Random

from checker import DUPLICATED, LOST, RESURRECTED, Checker, Report
from crash_worker import Journal
from disk_model import Disk, Operation
from history import Acked, Consuming, Crashed, Event, Standing, Stopped, save
from producer_worker import QUEUE
from recovered import Recovered, recover

from leveret.broker.durability.check import inspect
from leveret.storage.check import check_directory

UNREADABLE = "unreadable"
UNSOUND = "unsound"

CHECKED_SHARE = 0.2
"""After so many of the recoveries the store is checked and recovered once more."""
HUNG_S = 60
KEPT_MAX = 3
"""Of the bad disks, so many are kept."""


@dataclass(frozen=True, slots=True)
class PowerCut:
    """Where the power is cut."""

    name: str  # of the disk that it leaves; also the seed of that
    begun: Operation | None  # what was under way
    history: list[Event]  # what the clients had done and seen

    @property
    def after_stop(self) -> bool:
        """The broker had ended in order."""
        return bool(self.history) and isinstance(self.history[-1], Stopped)


def judge(data_dir: Path, checker: Checker, cut: PowerCut) -> tuple[Report, list[Event]]:
    """Recover a disk; returns what is wrong with that, and the events that the history ends with."""
    try:
        found = recover(data_dir)
    except Exception as error:  # whatever it is, it is what an operator would see
        report = Report()
        report.violation(UNREADABLE, repr(error))
        return report, []
    events = [*([] if cut.after_stop else [Crashed()]), *_events(found)]
    checker.feed(events)
    report = checker.report()
    report.counts.clear()  # they count the whole history
    _compare_tags(found, report)
    report.counts["recovered messages"] = sum(map(len, found.queues.values()))
    if Random(cut.name).random() < CHECKED_SHARE:
        report.counts["recovered twice"] = 1
        _judge_again(data_dir, report)
    return report, events


def _compare_tags(found: Recovered, report: Report) -> None:
    """What a producer sends again now is enqueued if, and only if, it is not there."""
    there = {copy.message_id.rpartition("/")[0] for copy in found.queues.get(QUEUE, ()) if copy.message_id}
    for name, tags in found.producers.items():
        accepted = {f"{name}/{tag}" for tag in tags}
        for message in accepted - there:
            report.violation(LOST, f"{message} would be confirmed, and is not there")
        for message in there - accepted:
            if message.startswith(f"{name}/"):
                report.violation(DUPLICATED, f"{message} would be enqueued once more")


def _judge_again(data_dir: Path, report: Report) -> None:
    """What a recovery leaves must be sound, and all that was acked then must stay gone."""
    for finding in check_directory(data_dir, inspect).findings:
        report.violation(UNSOUND, finding)
    for queue, copies in recover(data_dir).queues.items():
        for copy in copies:
            report.violation(RESURRECTED, f"{queue}: {copy.message_id}, which was acked after the power cut")


def _events(found: Recovered) -> list[Event]:
    """A recovery as clients would have seen it."""
    journal = Journal()
    journal.add(Standing(found.standing))
    for queue, copies in found.queues.items():
        journal.add(Consuming("drain", queue))
        for message_id, body, redelivered in copies:
            copy = journal.delivered("drain", queue, message_id, body, redelivered=redelivered)
            journal.add(Acked("drain", *copy))
    return journal.history


class Judges:
    """Some children at a time, each with one power cut."""

    def __init__(
        self, workshop: Path, evidence: Path, jobs: int, tell: Callable[[PowerCut, Report], None]
    ) -> None:
        """Disks are made in `workshop`; some of the bad ones are kept in `evidence`."""
        self._workshop = workshop
        self._evidence = evidence
        self._jobs = jobs
        self._tell = tell
        self._kept = 0
        self._working: deque[tuple[PowerCut, ForkProcess, Connection]] = deque()

    def start(self, disk: Disk, checker: Checker, cut: PowerCut) -> None:
        """Have one power cut judged; may wait for the verdict on another one."""
        while len(self._working) >= self._jobs:
            self._collect()
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=self._work, args=(sender, disk, checker, cut))
        process.start()
        sender.close()
        self._working.append((cut, process, receiver))

    def finish(self) -> None:
        """Wait for all verdicts."""
        while self._working:
            self._collect()

    def _work(self, answer: Connection, disk: Disk, checker: Checker, cut: PowerCut) -> None:
        """In the child."""
        signal.alarm(HUNG_S)
        image = self._workshop / cut.name
        disk.write_image(image, Random(cut.name), cut.begun)
        report, events = judge(image / "data", checker, cut)
        shutil.rmtree(image)
        if not report.ok:
            disk.write_image(image, Random(cut.name), cut.begun)
            save([*cut.history, *events], image / "history")
        answer.send(report)

    def _collect(self) -> None:
        cut, process, answer = self._working.popleft()
        report = Report()
        try:
            report = answer.recv()
            process.join()
        except EOFError:
            process.join()
            report.violation(UNREADABLE, f"recovery died: exit code {process.exitcode}")
        answer.close()
        image = self._workshop / cut.name
        if image.exists():
            if self._kept < KEPT_MAX:
                shutil.move(image, self._evidence / cut.name)
            else:
                shutil.rmtree(image)
            self._kept += 1
        self._tell(cut, report)
