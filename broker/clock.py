"""Time comes in through the constructor: the broker reads no clock but this one."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, for what is stored or shown (expiry instants, x-death)."""

    def monotonic_s(self) -> float:
        """Seconds that never jump, for intervals (heartbeats, timeouts)."""


class SystemClock:
    """The machine's clock, made steady: a jump of the wall clock after start-up changes no expiry and no
    order.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now_ms(self) -> int:
        return int((time.monotonic() + self._offset_s) * 1000)

    def monotonic_s(self) -> float:
        return time.monotonic()
