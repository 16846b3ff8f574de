"""The brokers that are compared: each run starts one on an empty directory and a free loopback port."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Self

from .load.link import Address
from .usage import Usage, usage_of_family

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # of the Debian package
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


class BrokerFailed(Exception):
    """A broker did not start or died; the message ends with what it wrote."""


class Broker(ABC):
    """One run of a broker; a context manager."""

    outlives_its_run = False
    """Whoever used it has to tidy up."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @property
    @abstractmethod
    def address(self) -> Address: ...

    @abstractmethod
    def usage(self) -> Usage:
        """Of all its processes."""


class OwnBroker(Broker):
    """Starts with its run, and is gone with it. Subclasses say how it is started."""

    name: str

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.port = free_port()
        self._log = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

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

    @property
    def address(self) -> Address:
        return Address(self.port)

    def usage(self) -> Usage:
        assert self._process is not None
        return usage_of_family(self._process.pid)

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


class Leveret(OwnBroker):
    """This project's broker, as a user starts it: the one that is installed, or of another source tree."""

    name = "leveret"

    def __init__(
        self, directory: Path, env: dict[str, str], *, source: Path | None = None, name: str = name
    ) -> None:
        super().__init__(directory, env)
        self.name = name
        self._source = source

    def command(self) -> list[str]:
        data_dir = str(self.directory / "data")
        serve = ["serve", "--data-dir", data_dir, "--port", str(self.port), "--http-port", "0"]
        return [sys.executable, "-m", "leveret", *serve, "--log-level", "warning"]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._source / "src")} if self._source else {}


class RabbitMQ(OwnBroker):
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

    outlives_its_run = True

    def __init__(self, address: Address) -> None:
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def usage(self) -> Usage:
        return Usage()


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
