"""`with timeout(5):` limits how long calls wait; what `asyncio.timeout` is to coroutines."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_deadlines: ContextVar[tuple["Deadline", ...]] = ContextVar("_deadlines", default=())


class Deadline:
    """Of one `timeout` block. It strikes once: what cleans up after that may take its time."""

    def __init__(self, timeout_s: float) -> None:
        self.has_struck = False
        self._timeout_s = timeout_s
        self._at_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        return max(0.0, self._at_s - time.monotonic())

    def strike(self) -> TimeoutError:
        self.has_struck = True
        return TimeoutError(f"not done within the {self._timeout_s:g} s of leveret.sync.timeout")


@contextmanager
def timeout(timeout_s: float | None) -> Generator[None, None, None]:
    """Limit how long the calls of a block may wait, all together:

        with leveret.sync.timeout(5):
            for message in queue:
                ...

    When the time is over, the call that waits then is cancelled and raises TimeoutError; your own code is
    never interrupted. Blocks may be nested, the shortest time counts. None: no limit of its own.
    """
    if timeout_s is None:
        yield
        return
    token = _deadlines.set((*_deadlines.get(), Deadline(timeout_s)))
    try:
        yield
    finally:
        _deadlines.reset(token)


def next_deadline() -> Deadline | None:
    """The one of the blocks that this thread is in which strikes first."""
    pending = [deadline for deadline in _deadlines.get() if not deadline.has_struck]
    return min(pending, key=Deadline.left_s, default=None)
