"""Looks at the broker every SAMPLE_S while others load it, and remembers the extremes."""

import threading
from collections.abc import Callable
from typing import Self

from .broker import MB, Broker, Memory

SAMPLE_S = 0.1


class Watch:
    """A context manager; read the attributes after it has ended."""

    def __init__(self, broker: Broker, live_bytes: Callable[[], int] = int) -> None:
        """`live_bytes` says how much of the disk is there for a reason."""
        self.samples = 0
        self.peak = Memory(0.0, 0.0)
        self.disk_peak_mb = 0.0
        self.live_peak_mb = 0.0
        self.excess_mb = 0.0
        """The most that the disk use was above twice the live bytes."""
        self._broker = broker
        self._live_bytes = live_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._sample()
            if self._over.wait(SAMPLE_S):
                return

    def _sample(self) -> None:
        live_mb = self._live_bytes() / MB
        disk_mb = self._broker.disk_bytes() / MB
        memory = self._broker.memory()
        self.samples += 1
        self.peak = Memory(
            max(self.peak.anonymous, memory.anonymous), max(self.peak.resident, memory.resident)
        )
        self.disk_peak_mb = max(self.disk_peak_mb, disk_mb)
        self.live_peak_mb = max(self.live_peak_mb, live_mb)
        self.excess_mb = max(self.excess_mb, disk_mb - 2 * live_mb)
