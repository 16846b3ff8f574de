"""A power cut at any moment loses nothing that was answered, and never leaves a store that cannot be opened.

LEVERET_POWER_CUTS sets how many are tried (default 200). `run_power_cut.py` is for thousands.
"""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest
from checker import LOST
from power_cut import UNSYNCED_BROKER, UNSYNCED_TAIL_BROKER, run
from power_cut_judge import UNREADABLE

POWER_CUTS = int(os.environ.get("LEVERET_POWER_CUTS", "200"))

pytestmark = [
    pytest.mark.timeout(300 + POWER_CUTS),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="NOT TESTED: power cuts need strace, which is missing"
    ),
]


def test_nothing_that_was_answered_is_lost(tmp_path: Path) -> None:
    outcome = run(tmp_path, POWER_CUTS, seed=secrets.randbits(32), lives=3, jobs=2)

    print(outcome)
    assert outcome.ok, str(outcome)
    assert outcome.verdicts == {"sound": POWER_CUTS}
    assert outcome.counts["with unsynced writes"] > POWER_CUTS * 0.8
    assert outcome.counts["recovered messages"] > 10 * POWER_CUTS, f"the load proves too little: {outcome}"


def test_the_experiment_sees_it_when_nothing_is_synced() -> None:
    # The negative control: were this to pass, the test above would mean nothing.
    with tempfile.TemporaryDirectory() as directory:
        outcome = run(Path(directory), 60, seed=1, lives=1, jobs=2, broker=UNSYNCED_BROKER)

    sound = outcome.verdicts["sound"]
    lost = sum(count for verdict, count in outcome.verdicts.items() if LOST in verdict)
    assert sound < 30, str(outcome)
    assert lost > 5, str(outcome)
    assert outcome.verdicts[UNREADABLE] > 5, str(outcome)


def test_the_experiment_sees_it_when_the_tail_is_not_synced() -> None:
    with tempfile.TemporaryDirectory() as directory:
        outcome = run(Path(directory), 60, seed=1, lives=1, jobs=2, broker=UNSYNCED_TAIL_BROKER)

    assert not outcome.ok
    assert outcome.verdicts["sound"] < 57, str(outcome)
