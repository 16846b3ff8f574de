"""The systemd unit: valid, hardened, and in agreement with the broker's options and exit codes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sources import ROOT

from leveret.broker.cli import EXIT_NEEDS_A_PERSON
from leveret.broker.daemon.config import Config

UNIT = ROOT / "deploy" / "leveret.service"
EXPOSURE_MAX = 15  # of 100, as `systemd-analyze security` rates it

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is missing (apt-get install systemd)",
)


def setting(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as on a machine where the program is there: `verify` looks for it."""
    unit = tmp_path / UNIT.name
    program = setting("ExecStart").split()[0]
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(program, "/bin/true"))
    return unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_accepts_it(installed: Path) -> None:
    result = analyze("verify", "--man=no", "--recursive-errors=no", str(installed))
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
def test_it_is_hardened(installed: Path) -> None:
    result = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", str(installed))
    assert result.returncode == 0, result.stdout


def test_systemd_waits_longer_than_the_broker_takes_to_stop() -> None:
    assert int(setting("TimeoutStopSec")) > Config().shutdown_grace_s


def test_what_needs_a_person_is_not_restarted() -> None:
    assert setting("RestartPreventExitStatus") == str(EXIT_NEEDS_A_PERSON)


def test_there_is_a_descriptor_for_every_connection() -> None:
    assert int(setting("LimitNOFILE")) > Config().connections_max


def test_the_state_directory_is_the_data_directory() -> None:
    assert setting("Environment") == f"LEVERET_DATA_DIR=%S/{setting('StateDirectory')}"
