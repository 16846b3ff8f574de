"""Node.js: a NestJS microservice (on amqp-connection-manager and amqplib), and plain amqplib.

The packages are installed from `nestjs/package-lock.json` into `build/`, once.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apps.process import AppProcess
from apps.settings import Settings
from daemon import Daemon
from sources import ROOT

SCRIPTS = Path(__file__).parent / "nestjs"
INSTALLED = ROOT / "build" / "nestjs"
INSTALL_TIMEOUT_S = 100

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")),
    reason="node or npm is not installed: NestJS is untested",
)


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder with node_modules."""
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    stamp = INSTALLED / "installed.json"
    if not stamp.exists() or stamp.read_bytes() != lock:
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, INSTALLED)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            command, cwd=INSTALLED, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        stamp.write_bytes(lock)
    return INSTALLED / "node_modules"


@pytest.fixture(autouse=True)
def node_path(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_PATH", str(packages))


@pytest.fixture
def settings(broker_url: str, prefix: str, tmp_path: Path) -> Settings:
    return Settings(broker_url, prefix, str(tmp_path))


@pytest.fixture
def service(settings: Settings) -> Iterator[AppProcess]:
    with start_service(settings) as service:
        yield service


def start_service(settings: Settings) -> AppProcess:
    return AppProcess(settings, "node", str(SCRIPTS / "service.js"), name="service").wait_for("listening")


def run(settings: Settings, script: str) -> dict[str, Any]:
    """Run a script to its end; its last line, which is JSON."""
    with AppProcess(settings, "node", str(SCRIPTS / script), name=script) as process:
        process.wait()
        seen: dict[str, Any] = json.loads(process.output.splitlines()[-1])
        return seen


def test_requests_are_answered_and_events_arrive(settings: Settings, service: AppProcess) -> None:
    answers = run(settings, "client.js")

    assert answers["sums"] == list(range(1, 51))
    assert answers["refusal"]["message"] == "no hares today"
    settings.journal.wait_for("Leveret hopped", "Leveret stumbled", "Leveret stood up")


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_the_service_survives_a_restart_of_the_broker(
    own_daemon: Daemon, prefix: str, tmp_path: Path, kill: bool
) -> None:
    settings = Settings(own_daemon.amqp_url, prefix, str(tmp_path))
    with start_service(settings):
        run(settings, "client.js")  # NestJS says that it listens before it does
        own_daemon.restart(kill=kill)
        assert run(settings, "client.js")["sums"] == list(range(1, 51))


def test_plain_amqplib(settings: Settings) -> None:
    seen = run(settings, "amqplib.js")

    assert seen["waiting"] == 100
    assert seen["bodies"] == [f"hello {number}" for number in range(100)]
    assert seen["cancelled"]
    assert seen["returned"] == "NO_ROUTE"
    assert "404 (NOT-FOUND)" in seen["refused"]
    assert f"no queue '{settings.prefix}.amqplib.nowhere' in vhost '/'" in seen["refused"]
