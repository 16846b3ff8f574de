"""The claims about size, at a thousandth of it: what takes memory or disk per message shows here as well.

How fast it goes is not judged. The bounds are well above what the broker allows itself (32 MiB of windows,
32 MiB of dead bytes) and far below what the messages would take: 160 MB of bodies in the backlog, 290 MB in
the queues, 500 MB through those with survivors.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFTEN = {"LEVERET_CHECKPOINT_BYTES": str(8 << 20)}  # as often, for the size, as with the default

RUNS = {
    "backlog": ["--messages=20000", "--size=8192", "--memory-mb=80"],
    "pinned": ["--messages=60000", "--size=4096", "--ahead=4000", "--disk-over-mb=128"],
    "survivors": [
        "--messages=120000",
        "--size=4096",
        "--keep-every=50",
        "--ahead=4000",
    ],
    "queues": ["--queues=300", "--each=60", "--size=16384", "--sample=20", "--memory-mb=200"],
    "fanout": ["--queues=50"],
}


def run(scenario: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.scale", scenario, *options, "--ignore-times"]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **OFTEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("scenario", RUNS)
def test_a_claim_holds(scenario: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"

    done = run(scenario, *RUNS[scenario], f"--data-dir={tmp_path}", f"--json={report}")

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["scenario"] == scenario
    assert [claim["claim"] for claim in found["claims"] if claim["passed"]]


def test_a_claim_that_does_not_hold_is_a_failure(tmp_path: Path) -> None:
    done = run("fanout", "--queues=2", "--log-bytes=1000000", f"--data-dir={tmp_path}")

    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_a_disk_that_is_too_small_is_not_a_pass(tmp_path: Path) -> None:
    done = run("backlog", "--messages=1000000000000", f"--data-dir={tmp_path}")

    assert done.returncode == 2
    assert "NOT RUN" in done.stderr
