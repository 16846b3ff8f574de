"""A hand: a process of the load, seen from whoever directs it."""

import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from .actor import Report
from .link import LoadFailed
from .worker import READY, Plan, Task, work

START_MAX_S = 120
WATCH_S = 0.1
STOP_MAX_S = 10

_fork = get_context("fork")  # quick, and safe: whoever directs a load has no other threads


class Hand:
    """A context manager: started with its tasks, ready for `go`; killed at the end if it is still there."""

    def __init__(self, tasks: Sequence[Task], watch: Callable[[], None] = lambda: None) -> None:
        """`watch` is called several times a second while somebody waits for the hand."""
        self._watch = watch
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=work, args=(tasks, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        try:
            answer = self._hear(START_MAX_S)
            if answer != READY:
                raise RuntimeError(f"{READY} expected, {answer} came")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or self._process.is_alive():
            self._process.kill()
        self._process.join(STOP_MAX_S)
        self._process.close()
        self._pipe.close()

    def go(self, plan: Plan) -> None:
        self._pipe.send(plan)

    def expect(self, published: dict[int, int] | None) -> None:
        """Tell consumers how many messages there are in all, by lane; None: to leave what is left."""
        self._pipe.send(published)

    def report(self) -> Report:
        """Wait until it has done everything."""
        report = self._hear(None)
        if not isinstance(report, Report):
            raise RuntimeError(f"a report expected, {report} came")
        return report

    def _hear(self, patience_s: float | None) -> object:
        deadline = None if patience_s is None else time.monotonic() + patience_s
        while not self._pipe.poll(WATCH_S):
            self._watch()
            if deadline is not None and time.monotonic() > deadline:
                raise LoadFailed(f"a process of the load did not start within {patience_s:g} s")
        try:
            said: object = self._pipe.recv()
        except EOFError:
            raise LoadFailed("a process of the load died; see above") from None
        if isinstance(said, LoadFailed):
            raise said
        return said
