"""How late the event loop runs its timers: the one figure that shows a stalled broker from inside."""

import asyncio

PROBE_S = 0.1
WINDOW_S = 60.0


class LoopLag:
    """A timer that measures its own lateness. `max_s` covers the last one to two minutes, however often it is
    read."""

    def __init__(self) -> None:
        self._current_max_s = 0.0
        self._previous_max_s = 0.0
        self._window_ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def max_s(self) -> float:
        return max(self._current_max_s, self._previous_max_s)

    def start(self) -> None:
        """Measure the running loop until `stop`."""
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def observe(self, lag_s: float, now_s: float) -> None:
        """A probe at `now_s` was `lag_s` late."""
        if now_s >= self._window_ends_at:
            self._window_ends_at = now_s + WINDOW_S
            self._previous_max_s, self._current_max_s = self._current_max_s, 0.0
        self._current_max_s = max(self._current_max_s, lag_s)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + PROBE_S

        def probe() -> None:
            now = loop.time()
            self.observe(now - due, now)
            self._arm(loop)

        self._timer = loop.call_at(due, probe)
