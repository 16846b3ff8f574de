"""How late the event loop runs its timers, and why: the figures that show a stalled broker from inside.

While the loop has work a probe falls due every PROBE_S. Whatever holds up the loop makes it late: a block
that lasts longer than PROBE_S is seen wherever it begins, and its lag falls short of the block's length by
PROBE_S at most. While it has none, a probe every IDLE_PROBE_S will do: to wake up is what costs.

Not all lag is the broker's doing. Linux counts for every thread how long it was ready to run while the cores
ran something else (schedstat). A probe's lag less that time is its *own* lag, again exact to PROBE_S. Of
that, the thread's CPU time is work; the rest it slept, for a page that had to come from the disk, or for the
GIL that another thread held (which may have been starved itself: that is not taken off).
"""

import asyncio
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from ..histogram import Histogram

log = logging.getLogger(__name__)

PROBE_S = 0.005
IDLE_PROBE_S = 0.02
BUSY_FRACTION = 0.1  # of a core; above it the loop has work. A probe itself takes 0.02 at most
WINDOW_S = 60.0
WORTH_A_LINE_S = 0.02  # of own lag, at level debug: when it was is what a metric cannot say
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SCHEDSTAT = "/proc/thread-self/schedstat"  # ns on a core, ns ready but waiting for one, slices


@dataclass(frozen=True, slots=True)
class Lag:
    """What one probe found. CPU time and starvation are those since the probe before it."""

    lag_s: float
    cpu_s: float = 0.0
    starved_s: float = 0.0
    """How long the thread was ready to run, and the machine ran others."""

    @property
    def own_s(self) -> float:
        return max(0.0, self.lag_s - self.starved_s)


class LoopLag:
    """A timer that measures its own lateness.

    `max_s` covers the last one to two minutes, however often it is read; the rest all the time since the
    start.
    """

    def __init__(self) -> None:
        self.lags = Histogram(LAG_SECONDS)
        self.own_lags = Histogram(LAG_SECONDS)
        self.worst = Lag(0.0)  # by its own lag
        self._current_max_s = 0.0
        self._previous_max_s = 0.0
        self._window_ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._schedstat: int | None = None

    @property
    def max_s(self) -> float:
        return max(self._current_max_s, self._previous_max_s)

    def start(self) -> None:
        """Measure the running loop until `stop`."""
        with suppress(OSError):  # another system than Linux: then all lag counts as our own
            self._schedstat = os.open(SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._arm(asyncio.get_running_loop(), PROBE_S)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None

    def observe(self, lag: Lag, now_s: float) -> None:
        """What the probe at `now_s` found."""
        self.lags.observe(lag.lag_s)
        self.own_lags.observe(lag.own_s)
        if lag.own_s > self.worst.own_s:
            self.worst = lag
        if lag.own_s > WORTH_A_LINE_S:
            log.debug(
                "the event loop was held up for %.1f ms, %.1f of them computing",
                lag.own_s * 1e3,
                lag.cpu_s * 1e3,
            )
        if now_s >= self._window_ends_at:
            self._window_ends_at = now_s + WINDOW_S
            self._previous_max_s, self._current_max_s = self._current_max_s, 0.0
        self._current_max_s = max(self._current_max_s, lag.lag_s)

    def _arm(self, loop: asyncio.AbstractEventLoop, period_s: float) -> None:
        armed_at, cpu_before_s, starved_before_s = time.perf_counter(), time.thread_time(), self._starved_s()

        def probe() -> None:
            now = time.perf_counter()
            passed_s = now - armed_at
            lag_s, cpu_s = max(0.0, passed_s - period_s), time.thread_time() - cpu_before_s
            self.observe(Lag(lag_s, cpu_s, self._starved_s() - starved_before_s), now)
            is_busy = lag_s > PROBE_S or cpu_s > BUSY_FRACTION * passed_s
            self._arm(loop, PROBE_S if is_busy else IDLE_PROBE_S)

        self._timer = loop.call_later(period_s, probe)

    def _starved_s(self) -> float:
        """Of this thread, so far: it must be the loop's."""
        if self._schedstat is None:
            return 0.0
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
