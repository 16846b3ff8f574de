"""The examples of the patterns do what they say, against a real broker: each exits with 0 when it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Daemon

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "patterns").glob("*.py"))
TIMEOUT_S = 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_of_a_pattern(shared_daemon: Daemon, example: Path) -> None:
    environ = {**os.environ, "LEVERET_URL": shared_daemon.leveret_url}
    command = [sys.executable, example]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout, "it tells what it does"
