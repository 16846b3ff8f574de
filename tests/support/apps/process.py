"""An application's process, in a process group of its own, its output in a file."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from sources import ROOT

from .patience import TIMEOUT_S, wait_until
from .settings import Settings


class AppProcess:
    """Use as a context manager; it is asked to stop at the end, and killed if it does not."""

    def __init__(self, settings: Settings, *command: str, name: str = "worker") -> None:
        """Start `command` in the application's folder, where `apps` can be imported."""
        self.log = Path(settings.folder) / f"{name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=settings.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), **settings.environment()},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> Self:
        """Wait until it has said `text`."""

        def said() -> bool:
            assert self._process.poll() is None, f"ended: exit code {self._process.returncode}\n{self.output}"
            return text in self.output

        wait_until(said, lambda: f"never said {text!r}:\n{self.output}")
        return self

    def wait(self) -> None:
        """Wait until it has ended by itself, and well."""
        exit_code = self._process.wait(TIMEOUT_S)
        assert exit_code == 0, f"exit code {exit_code}\n{self.output}"

    def kill(self) -> None:
        """kill -9 the whole group, as if the machine had lost its power; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Ask it to stop (SIGTERM), then make sure that nothing of it is left."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()
