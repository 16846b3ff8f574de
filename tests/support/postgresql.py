"""A PostgreSQL of the tests' own, from Debian's package: a cluster in a temporary directory, on a Unix
socket.

`PostgreSQL.why_not()` says why there can be none. Where the package is missing and the tests run as root, as
in a fresh container, it is installed first.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, Self

from daemon import TIMEOUT_FACTOR

DEBIAN = Path("/usr/lib/postgresql")
USER = "postgres"  # the package makes it; PostgreSQL refuses to run as root
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "postgresql")
INSTALL_ENV = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
INSTALL_MAX_S = 300
TIMEOUT_S = 60 * TIMEOUT_FACTOR


def binaries() -> Path | None:
    """Where the newest installed version has its programs."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda initdb: int(initdb.parts[-3]))
    return found[-1].parent if found else None


class PostgreSQL:
    """A running server; a context manager. `url` takes the name of SQLAlchemy's driver for it."""

    def __init__(self) -> None:
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    @cache
    def why_not() -> str | None:
        """None: it can be used."""
        if binaries() is not None:
            return None
        if os.geteuid() != 0:
            return f"PostgreSQL is not installed ({' '.join(INSTALL)}): NOTHING WAS TESTED ON IT"
        try:
            subprocess.run(INSTALL, env=INSTALL_ENV, capture_output=True, timeout=INSTALL_MAX_S, check=True)
        except subprocess.CalledProcessError as error:
            return f"PostgreSQL cannot be installed: {error.stderr.decode()[-200:]}: NOTHING WAS TESTED ON IT"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"PostgreSQL cannot be installed: {error}: NOTHING WAS TESTED ON IT"
        return None

    def __enter__(self) -> Self:
        # Made by mkdtemp, for the path of a socket is short, and the server's user must be able to reach it.
        self._directory = Path(tempfile.mkdtemp(prefix="leveret-postgresql-"))
        if os.geteuid() == 0:
            shutil.chown(self._directory, USER, USER)
        try:
            made = self._spawn("initdb", "-D", str(self._data), "-U", USER, "--auth=trust", "--no-sync")
            if made.wait(TIMEOUT_S) != 0:
                raise RuntimeError(f"initdb failed\n{self._log.read_text()}")
            self.start()
        except BaseException:
            self.crash()
            shutil.rmtree(self._directory)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.crash()
        finally:
            shutil.rmtree(self._directory)

    def url(self, driver: str = "postgresql+psycopg") -> str:
        return f"{driver}://{USER}@/postgres?host={self._directory}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = ["-k", str(self._directory)]
        for setting in ("listen_addresses=", "max_connections=50", "shared_buffers=16MB"):
            options += ["-c", setting]
        self._process = self._spawn("postgres", "-D", str(self._data), *options)
        deadline = time.monotonic() + TIMEOUT_S
        while self._spawn("pg_isready", "--quiet", "--host", str(self._directory)).wait() != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start\n{self._log.read_text()}")
            time.sleep(0.02)

    def crash(self) -> None:
        """End it at once: the next start recovers. Harmless when it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # PostgreSQL's "immediate shutdown"
            self._process.wait(TIMEOUT_S)
            self._process = None

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        directory = binaries()
        assert directory is not None, "ask why_not() first"
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": USER, "group": USER, "extra_groups": []}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [directory / program, *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user,
            )
