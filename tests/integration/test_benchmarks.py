"""The benchmarks run, and what they report is a load that went through; how fast is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", ["durable", "transient"])
def test_a_scenario_runs(scenario: str, tmp_path: Path) -> None:
    report = tmp_path / "runs.json"
    command = [sys.executable, "-m", "benchmarks", scenario, "--leveret-only", "--rounds=1", "--seconds=0.5"]

    subprocess.run([*command, "--json", str(report)], cwd=ROOT, check=True, timeout=60)

    (run,) = json.loads(report.read_text())
    assert run["scenario"] == scenario
    assert run["rate"] > 0
    assert run["published"] > 0
    assert run["broker_cores"] > 0


def test_a_wanted_ratio_that_nobody_measured_is_a_failure() -> None:
    command = [sys.executable, "-m", "benchmarks", "--leveret-only", "--at-least=3", "--rounds=1"]

    done = subprocess.run([*command, "--seconds=0.2"], cwd=ROOT, check=False, timeout=60)

    assert done.returncode == 2


def test_the_sdk_is_measured_from_end_to_end(tmp_path: Path) -> None:
    report = tmp_path / "runs.json"
    command = [sys.executable, "-m", "benchmarks.sdk", "--leveret-only", "--rounds=1", "--seconds=0.5"]

    subprocess.run([*command, "--json", str(report)], cwd=ROOT, check=True, timeout=60)

    (run,) = json.loads(report.read_text())
    assert run["contestant"] == "leveret on Leveret"
    assert run["messages"] > 0
    assert run["rate"] > 0
    assert min(run["publisher_us"], run["broker_us"], run["consumer_us"]) > 0
