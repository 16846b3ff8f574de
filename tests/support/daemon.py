"""A real broker as a subprocess, for tests that need sockets, signals or kill -9.

`tests/conftest.py` makes the fixtures `daemon` (one per test) and `shared_daemon` (one per session) of it. A
`Daemon` listens on ports that the kernel chose and keeps them over `restart`, so that a client can find it
again.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

TIMEOUT_FACTOR = float(os.environ.get("LEVERET_TEST_TIMEOUT_FACTOR", "1"))
"""Scales every timeout of the suite: raise it on a slow or busy machine."""

START_TIMEOUT_S = 30 * TIMEOUT_FACTOR
STOP_TIMEOUT_S = 30 * TIMEOUT_FACTOR


class DaemonFailed(Exception):
    """The broker did not start or did not stop; the message ends with what it wrote to stderr."""


class Daemon:
    """`leveret serve` on a data directory. Use as a context manager, or call `start` and `kill`."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: dict[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "leveret"),
    ) -> None:
        """`options` are further command-line options; `env` is added to the environment."""
        self.data_dir = data_dir
        self.options = options
        self.command = command
        self.env = env or {}
        self.port = 0  # 0 until the first start; the same over restarts
        self.http_port = 0
        self.tls_port = 0  # stays 0 without TLS
        self.process: subprocess.Popen[str] | None = None
        self._stderr_path = data_dir.with_name(data_dir.name + ".stderr")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def amqp_url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def leveret_url(self) -> str:
        return f"leveret://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def stderr(self) -> str:
        """Everything the broker logged so far, over all restarts."""
        return self._stderr_path.read_text(errors="replace") if self._stderr_path.exists() else ""

    def start(self) -> Self:
        """Start the broker and wait for its ready line."""
        command = [*self.command, "serve", "--data-dir", str(self.data_dir)]
        command += ["--port", str(self.port), "--http-port", str(self.http_port), *self.options]
        if self.tls_port:
            command += ["--tls-port", str(self.tls_port)]  # instead of the 0 among the options
        with self._stderr_path.open("a") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **self.env},
            )
        try:
            self._read_ready_line()
        except BaseException:
            self.kill()
            raise
        return self

    def signal(self, name: str) -> None:
        """Send a signal (`SIGTERM`, `SIGSTOP`, ...) and do not wait for what it does."""
        self._running().send_signal(signal.Signals[name])

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask the broker to stop (SIGTERM), wait for it, and return its exit code."""
        self.signal("SIGTERM")
        return self.wait(timeout_s)

    def kill(self) -> None:
        """kill -9, as a crash would; harmless when it does not run."""
        if self.process is not None:
            self.process.kill()
            self._reap(STOP_TIMEOUT_S)

    def restart(self, *, kill: bool = False) -> Self:
        """Stop the broker (or kill -9 it) and start it again on the same data and the same ports."""
        if kill:
            self.kill()
        else:
            exit_code = self.terminate()
            if exit_code != 0:
                raise DaemonFailed(f"exit code {exit_code} at a clean stop\n{self.stderr}")
        return self.start()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until the broker ended, whoever ended it, and return its exit code."""
        try:
            return self._reap(timeout_s)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"still running after {timeout_s} s\n{self.stderr}") from None

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            raise DaemonFailed("not running")
        return self.process

    def _reap(self, timeout_s: float) -> int:
        process = self._running()
        exit_code = process.wait(timeout_s)
        if process.stdout is not None:
            process.stdout.close()
        self.process = None
        return exit_code

    def _read_ready_line(self) -> None:
        """Wait for `ready port=N ... data_dir=...`, the one line that the broker prints to stdout."""
        stdout = self._running().stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], START_TIMEOUT_S)
        line = stdout.readline() if readable else ""
        if not line.startswith("ready "):
            said = f"printed {line!r}" if readable else f"was silent for {START_TIMEOUT_S} s"
            raise DaemonFailed(f"the broker did not start: it {said}\n{self.stderr}")
        ports, _, _ = line.removeprefix("ready ").partition(" data_dir=")
        facts = dict(word.split("=", 1) for word in ports.split())
        self.port = int(facts.get("port", 0))
        self.http_port = int(facts["http_port"])
        self.tls_port = int(facts.get("tls_port", 0))
