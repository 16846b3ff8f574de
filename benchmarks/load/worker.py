"""A process of the load: drives its actors on one epoll loop, and measures itself between begin and end."""

import gc
import math
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from ..histogram import Histogram
from .actor import Actor, Report
from .link import LoadFailed

READY = "ready"
LOST_AFTER_S = 60
"""What has not come after so long without anything coming is lost."""
WAIT_MAX_S = 0.1
WAKES_LATE_S = 45e-6
"""How long it takes, about, until a process runs whose time to sleep is over. It sleeps so much less: to send
54 us late was a quarter of what the latency of a message came to."""
TIMER_SLACK = Path("/proc/self/timerslack_ns")


class Task(Protocol):
    """What an actor is made of."""

    def start(self) -> Actor: ...


@dataclass(frozen=True)
class Plan:
    """When the measured time begins and ends, on the monotonic clock, which all processes share."""

    begin: float
    end: float = math.inf  # then it ends when all actors are done


@dataclass(frozen=True)
class Sample:
    """Where a process was at some moment."""

    moment: float
    cpu_seconds: float
    count: int


class Worker:
    """Runs until all its actors are done. Speaks with its hand (hand.py) through a pipe."""

    def __init__(self, tasks: Sequence[Task], pipe: Connection) -> None:
        self._actors = [task.start() for task in tasks]
        self._open = set(self._actors)  # those that are not done
        self._pipe = pipe
        self._epoll = select.epoll()
        self._by_fd = {fd: actor for actor in self._actors if (fd := actor.fileno()) is not None}
        for fd in (pipe.fileno(), *self._by_fd):
            self._epoll.register(fd, select.EPOLLIN)
        self._plan = Plan(math.inf)
        self._begin: Sample | None = None
        self._end: Sample | None = None
        self._is_finishing = False  # nothing more is published, what is under way has to come
        self._heard = 0.0

    def run(self) -> Report:
        self._pipe.send(READY)
        self._plan = self._pipe.recv()
        self._heard = time.monotonic()
        for actor in self._actors:
            actor.go(self._heard)
        while self._open and not self._is_deserted():
            self._turn()
        end = self._end or self._sample(time.monotonic())
        begin = self._begin or end
        report = Report(
            end.count - begin.count, end.moment - begin.moment, end.cpu_seconds - begin.cpu_seconds
        )
        report.histogram = Histogram.merged(actor.histogram for actor in self._actors)
        for actor in self._actors:
            actor.report(report)
        return report

    def _turn(self) -> None:
        now = time.monotonic()
        self._keep_time(now)
        dues = [self._pump(actor, now) for actor in self._actors if actor.is_driven]
        for fd, _ in self._wait(min(dues, default=None)):
            if fd == self._pipe.fileno():
                self._hear(self._pipe.recv())
                continue
            actor = self._by_fd[fd]
            actor.read()
            if actor.is_done:
                self._open.discard(actor)
            self._heard = now

    def _keep_time(self, now: float) -> None:
        """Begin and end the measured time."""
        if self._begin is None and now >= self._plan.begin:
            self._begin = self._sample(now)
            for actor in self._actors:
                actor.is_recording = True
        if self._end is None and now >= self._plan.end:
            self._end = self._sample(now)
            for actor in self._actors:
                actor.is_recording = False
                actor.stop()
            self._is_finishing = True
            self._look_who_is_done()

    def _pump(self, actor: Actor, now: float) -> float:
        """Returns when it is due again."""
        if actor.due() <= now:
            actor.pump(now)
            if actor.is_done:
                self._open.discard(actor)
        return actor.due()

    def _wait(self, due: float | None) -> list[tuple[int, int]]:
        """For bytes, or until something is due."""
        if due is None:
            return self._epoll.poll(WAIT_MAX_S)
        timeout = min(due - time.monotonic(), WAIT_MAX_S) - WAKES_LATE_S
        if timeout > 0 and not select.select([self._epoll], [], [], timeout)[0]:
            while time.monotonic() < due and timeout < WAIT_MAX_S - WAKES_LATE_S:
                pass  # a few microseconds
            return []  # waited to the microsecond; epoll by itself knows milliseconds only
        return self._epoll.poll(0)

    def _hear(self, published: dict[int, int] | None) -> None:
        for actor in self._actors:
            actor.expect(published)
        self._is_finishing = True
        self._look_who_is_done()

    def _look_who_is_done(self) -> None:
        self._open = {actor for actor in self._open if not actor.is_done}

    def _is_deserted(self) -> bool:
        is_over = self._is_finishing or self._plan.end == math.inf
        return is_over and time.monotonic() - self._heard > LOST_AFTER_S

    def _sample(self, now: float) -> Sample:
        return Sample(now, time.process_time(), sum(actor.count for actor in self._actors))


def work(tasks: Sequence[Task], pipe: Connection) -> None:
    """The whole life of the process. What it sends last is its report, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who directs us, and he ends us
    gc.disable()  # nothing here makes cycles, and a collection would look like a slow broker
    with suppress(OSError):  # another system than Linux
        TIMER_SLACK.write_text("1")  # ns; else each wait for what is due next ends 50 us late
    try:
        result: Report | LoadFailed = Worker(tasks, pipe).run()
    except LoadFailed as error:
        result = error
    except OSError as error:
        result = LoadFailed(f"{type(error).__name__}: {error}")
    pipe.send(result)
