"""Calls at a later time, for the domain: a layer over the loop's timers, counted in `Clock.now_ms`."""

import asyncio
from collections.abc import Callable

from .clock import Clock

LONGEST_WAIT_S = 86_400.0  # loops refuse timers of years; a long wait is made of days


class _Timer:
    """A pending call; re-arms itself until its time has come."""

    def __init__(self, timers: "LoopTimers", when_ms: int, callback: Callable[[], None]) -> None:
        self._timers = timers
        self._when_ms = when_ms
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._arm()

    def _arm(self) -> None:
        wait_s = max(0.0, (self._when_ms - self._timers.clock.now_ms()) / 1000)
        self._handle = self._timers.loop.call_later(min(wait_s, LONGEST_WAIT_S), self._fire)

    def _fire(self) -> None:
        if self._timers.clock.now_ms() < self._when_ms:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class LoopTimers:
    """`TimersLike` on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.clock = clock

    def call_at(self, when_ms: int, callback: Callable[[], None]) -> _Timer:
        return _Timer(self, when_ms, callback)
