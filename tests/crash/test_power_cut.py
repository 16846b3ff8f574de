"""A power cut at any point loses nothing that was answered, and never leaves a store that cannot be opened.

LEVERET_POWER_CUT_STATES sets how many power cuts are played (default 150).
"""

import asyncio
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from power_cut import PowerCuts, Recovery, play, record

from leveret.storage.lmdb import LmdbEngine

STATES = int(os.environ.get("LEVERET_POWER_CUT_STATES", "150"))
SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = [
    pytest.mark.timeout(600 + STATES),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="NOT TESTED: power cuts need strace, which is missing"
    ),
]


async def make_empty_store(path: Path) -> None:
    engine = LmdbEngine(path, map_bytes=2**30)
    await engine.open()
    await engine.close()


def play_power_cuts(path: Path, mode: str, seed: int = 1) -> Counter[str]:
    directory, data = path / "data", path / "data" / "log" / "data.mdb"
    asyncio.run(make_empty_store(directory))
    before = data.read_bytes()
    victim = [sys.executable, str(SUPPORT / "power_cut_victim.py"), str(directory), mode]
    events = record(victim, data, path / "trace")
    recovery = Recovery(directory)
    try:
        return play(PowerCuts(before, events, seed), recovery, STATES)
    finally:
        recovery.close()


def test_nothing_that_was_answered_is_lost(tmp_path: Path) -> None:
    verdicts = play_power_cuts(tmp_path, "sync")
    assert verdicts == {"sound": STATES}


def test_without_syncs_the_method_sees_the_loss(tmp_path: Path) -> None:
    # The negative control: were this to pass, the test above would mean nothing.
    verdicts = play_power_cuts(tmp_path, "no-sync")
    assert sum(count for verdict, count in verdicts.items() if verdict.startswith("lost")) > STATES // 20
    assert sum(count for verdict, count in verdicts.items() if verdict != "sound") > STATES // 4
