"""Each power cut gets its verdict, also where recovery fails or dies."""

import os
import signal
from pathlib import Path

import power_cut_judge
import pytest
from checker import LOST, Checker, Report
from disk_model import Disk
from history import Built, Confirmed, Event, Invoked, Stopped, load
from power_cut_judge import UNREADABLE, Judges, PowerCut

CONFIRMED: list[Event] = [Built("queue q"), Invoked("p", 1, ("q",)), Confirmed("p", 1)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root", "workshop", "evidence"):
        (tmp_path / name).mkdir()
    return tmp_path / "root"


def verdicts(root: Path, *histories: list[Event]) -> dict[str, Report]:
    """On power cuts of the disk below `root`, by name."""
    found: dict[str, Report] = {}
    judges = Judges(
        root.with_name("workshop"),
        root.with_name("evidence"),
        2,
        lambda cut, report: found.update({cut.name: report}),
    )
    for number, history in enumerate(histories):
        checker = Checker()
        checker.feed(history)
        judges.start(Disk(root), checker, PowerCut(f"cut-{number}", None, history))
    judges.finish()
    assert list(root.with_name("workshop").iterdir()) == []
    return found


def test_an_empty_disk_is_sound_until_something_was_answered(root: Path) -> None:
    found = verdicts(root, [], [Invoked("p", 1, ("q",))], CONFIRMED, [*CONFIRMED, Stopped()])

    assert [list(report.violations) for report in found.values()] == [[], [], [LOST], [LOST]]


def test_a_bad_disk_is_kept_with_its_history(root: Path) -> None:
    (root / "note").write_text("x")

    verdicts(root, CONFIRMED)

    kept = root.with_name("evidence") / "cut-0"
    assert (kept / "note").read_text() == "x"
    assert not (kept / "data").exists(), "recovery has changed it"
    assert list(load(kept / "history"))[:3] == CONFIRMED


def test_few_bad_disks_are_kept(root: Path) -> None:
    verdicts(root, *[CONFIRMED] * 5)

    assert len(list(root.with_name("evidence").iterdir())) == power_cut_judge.KEPT_MAX


def test_a_recovery_that_fails_is_a_finding(root: Path) -> None:
    (root / "data" / "log").mkdir(parents=True)
    (root / "data" / "log" / "data.mdb").write_bytes(b"x" * 8192)

    found = verdicts(root, [])

    assert list(found["cut-0"].violations) == [UNREADABLE]
    assert "meta page 0 is damaged" in str(found["cut-0"])


def test_a_recovery_that_dies_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_cut_judge, "recover", lambda _: os.kill(os.getpid(), signal.SIGKILL))

    found = verdicts(root, [])

    assert "recovery died: exit code -9" in str(found["cut-0"])
