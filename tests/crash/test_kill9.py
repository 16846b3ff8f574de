"""kill -9 under mixed load: nothing confirmed is lost, nothing comes twice without a reason.

LEVERET_KILL9_CYCLES sets how often the broker dies (default 20). `run_kill9.py` is for thousands.
"""

import os
import secrets
from pathlib import Path

import pytest
from checker import LOST
from kill9 import run

CYCLES = int(os.environ.get("LEVERET_KILL9_CYCLES", "20"))


@pytest.mark.timeout(300 + 15 * CYCLES)
def test_nothing_confirmed_is_lost_however_the_broker_dies(tmp_path: Path) -> None:
    outcome = run(tmp_path, CYCLES, seed=secrets.randbits(32))

    print(outcome)
    assert outcome.ok, str(outcome)
    assert outcome.report.counts["confirmed"] > 100 * CYCLES, f"the load proves too little: {outcome}"


def test_the_experiment_sees_it_when_a_broker_forgets(tmp_path: Path) -> None:
    outcome = run(tmp_path, 3, 1, "--engine", "memory")

    assert LOST in outcome.report.violations
