"""A quick subset of other people's own test suites; `make interop` runs them whole."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]  # the first run downloads


@pytest.mark.parametrize("suite", ["pika", "amqp", "kombu", "aiormq", "aio-pika"])
def test_passes(suite: str) -> None:
    command = [sys.executable, str(TESTS / "foreign" / "run.py"), "--quick", suite]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "SKIPPED" in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed, 0 failed" in done.stdout
