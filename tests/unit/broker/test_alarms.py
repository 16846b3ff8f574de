"""Alarms go off at their limits, do not flutter, and wake who waited once all are over."""

from pathlib import Path

import pytest

from leveret.broker.alarms import Alarms, Limits, disk_free, memory_of_machine, memory_used

MEMORY, DISK = 1000, 500


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(Limits(memory_bytes=MEMORY, disk_free_bytes=DISK))


def test_nothing_is_wrong_within_the_limits(alarms: Alarms) -> None:
    alarms.update(MEMORY, DISK)
    assert not alarms.is_active


@pytest.mark.parametrize(
    ("memory", "disk", "reason"),
    [
        (MEMORY + 1, DISK, "low on memory"),
        (MEMORY, DISK - 1, "low on disk"),
        (MEMORY + 1, DISK - 1, "low on memory & disk"),
    ],
)
def test_what_is_short_is_named(alarms: Alarms, memory: int, disk: int, reason: str) -> None:
    alarms.update(memory, disk)
    assert alarms.is_active
    assert alarms.reason == reason


def test_an_alarm_ends_only_some_way_behind_its_limit(alarms: Alarms) -> None:
    alarms.update(MEMORY + 1, DISK - 1)
    alarms.update(MEMORY - 1, DISK + 1)
    assert alarms.reason == "low on memory & disk"
    alarms.update(MEMORY * 94 // 100, DISK + 1)
    assert alarms.reason == "low on disk"
    alarms.update(MEMORY * 94 // 100, DISK * 106 // 100)
    assert not alarms.is_active


def test_who_waits_is_woken_once_when_no_alarm_is_left(alarms: Alarms) -> None:
    woken: list[str] = []
    alarms.update(MEMORY + 1, DISK - 1)
    alarms.when_clear(lambda: woken.append("publisher"))
    alarms.update(0, DISK - 1)
    assert woken == []
    for _ in range(2):
        alarms.update(0, DISK * 2)
    assert woken == ["publisher"]


def test_the_machine_can_be_asked() -> None:
    assert 0 < memory_used() < memory_of_machine()
    assert disk_free(Path("/")) >= 0
