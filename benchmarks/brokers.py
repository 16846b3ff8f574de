"""The brokers that are compared: each run starts one on an empty directory and a free loopback port."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # of the Debian package
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class BrokerFailed(Exception):
    """A broker did not start or died; the message ends with what it wrote."""


@dataclass(frozen=True)
class Usage:
    """What a broker's processes used until now."""

    cpu_seconds: float
    rss_peak_bytes: int


class Broker:
    """One run of a broker; a context manager. Subclasses say how it is started."""

    name = ""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.port = free_port()
        self._log = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.env, **self.environment()},
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_for_port()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        shutil.rmtree(self.directory)

    def usage(self) -> Usage:
        """CPU time and peak memory of all processes that the broker's session has now."""
        assert self._process is not None
        cpu_ticks = rss_peak = 0
        for process in _processes_of_session(self._process.pid):
            fields = _stat(process)
            cpu_ticks += int(fields[11]) + int(fields[12])  # utime, stime
            rss_peak += _rss_peak_bytes(process)
        return Usage(cpu_ticks / CLOCK_TICKS, rss_peak)

    def _wait_for_port(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BrokerFailed(f"{self.name} did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.1)

    def _kill(self) -> None:
        """The data is thrown away, so nobody waits for an orderly stop."""
        assert self._process is not None
        with suppress(ProcessLookupError):  # it ended by itself; the caller says so
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)


class Leveret(Broker):
    """This project's broker, as a user starts it."""

    name = "leveret"

    def command(self) -> list[str]:
        data_dir = str(self.directory / "data")
        serve = ["serve", "--data-dir", data_dir, "--port", str(self.port), "--http-port", "0"]
        return [sys.executable, "-m", "leveret", *serve, "--log-level", "warning"]


class RabbitMQ(Broker):
    """RabbitMQ with its default settings, except for where its files lie and where it listens."""

    name = "rabbitmq"

    @staticmethod
    def is_installed() -> bool:
        return RABBITMQ_SERVER.exists()

    def command(self) -> list[str]:
        # Before the server and in the foreground: the server would leave its own port mapper behind.
        epmd = f"epmd -port {free_port()} -address 127.0.0.1"
        port = epmd.split()[2]
        return ["sh", "-c", f"{epmd} & ERL_EPMD_PORT={port} exec {RABBITMQ_SERVER}"]

    def environment(self) -> dict[str, str]:
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text("")
        return {
            "HOME": str(self.directory),  # for the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_NODENAME": f"bench-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


class Running(Broker):
    """A broker that somebody else started; nothing is known of its processes."""

    name = "running"

    def __init__(self, port: int, directory: Path) -> None:
        super().__init__(directory, {})
        self.port = port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def usage(self) -> Usage:
        return Usage(0, 0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _processes_of_session(leader: int) -> list[Path]:
    processes = (path for path in Path("/proc").iterdir() if path.name.isdigit())
    return [path for path in processes if (fields := _stat(path)) and int(fields[3]) == leader]


def _stat(process: Path) -> list[str]:
    """The fields of /proc/PID/stat that follow the name of the program; empty for a process that is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _rss_peak_bytes(process: Path) -> int:
    for line in (process / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie
