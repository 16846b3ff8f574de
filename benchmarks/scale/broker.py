"""The broker under observation: a process that is started, stopped, killed and looked at from outside."""

import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..brokers import BrokerFailed
from .lag import LagBook

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 120
STARTING = "starting"
BLOCK_BYTES = 512  # the unit of st_blocks
MB = 1_000_000


@dataclass(frozen=True)
class Memory:
    """What a process holds, in MB."""

    anonymous: float
    """RssAnon: the process's own. The rest is files' pages (the log's, mostly), the kernel's to drop."""
    resident: float
    """VmRSS: everything."""


class Broker:
    """`leveret serve` on a data directory, over several lives. A context manager that kills what is left."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.port = 0
        self.lag = LagBook()
        self._http_port = 0
        self._log = directory / "broker.log"
        self._lines_seen = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()

    @property
    def output(self) -> str:
        """What the broker logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> float:
        """Returns the seconds from the start of the process to its ready line."""
        serve = ["serve", "--data-dir", str(self.data_dir), "--port", "0", "--http-port", "0"]
        began = time.monotonic()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "leveret", *serve, "--log-level", "debug"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self._first_line(self._process)
        seconds = time.monotonic() - began
        facts = dict(word.split("=", 1) for word in line.split()[1:3])
        self.port, self._http_port = int(facts["port"]), int(facts["http_port"])
        self.lag.restart()
        self.end_phase(STARTING)
        return seconds

    def stop(self, phase: str) -> float:
        """SIGTERM. Returns the seconds until the process had ended. `phase` is what ends herewith."""
        self.end_phase(phase)
        began = time.monotonic()
        self._running().send_signal(signal.SIGTERM)
        exit_code = self._reap()
        if exit_code != 0:
            raise BrokerFailed(f"exit code {exit_code} at a clean stop\n{self.output}")
        return time.monotonic() - began

    def kill(self, phase: str) -> None:
        """kill -9."""
        self.end_phase(phase)
        self._running().kill()
        self._reap()

    def end_phase(self, phase: str) -> None:
        metrics = self.metrics()  # first: what they count was logged before
        lines = self.output.splitlines()
        self.lag.close(phase, metrics, lines[self._lines_seen :])
        self._lines_seen = len(lines)

    def metrics(self) -> dict[str, float]:
        """By series, as Prometheus's text has them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        words = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in words}

    def memory(self) -> Memory:
        """Zeros for a broker that does not run."""
        try:
            text = Path(f"/proc/{self._running().pid}/status").read_text(encoding="ascii")
        except (BrokerFailed, OSError):
            return Memory(0.0, 0.0)
        lines = dict(line.split(":", 1) for line in text.splitlines())
        anonymous, resident = (
            int(lines.get(name, "0 kB").split()[0]) * 1024 / MB for name in ("RssAnon", "VmRSS")
        )
        return Memory(anonymous, resident)

    def disk_bytes(self) -> int:
        """What the data directory takes on the disk."""
        total = 0
        for directory, _, names in os.walk(self.data_dir):
            for name in names:
                try:
                    total += os.stat(Path(directory, name)).st_blocks * BLOCK_BYTES
                except FileNotFoundError:
                    continue  # it was there a moment ago
        return total

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise BrokerFailed("the broker does not run")
        return self._process

    def _reap(self) -> int:
        process = self._running()
        exit_code = process.wait(STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        return exit_code

    def _first_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        line = process.stdout.readline() if readable else ""
        if not line.startswith("ready "):
            process.kill()
            self._reap()
            raise BrokerFailed(f"the broker did not start: it said {line!r}\n{self.output}")
        return line
