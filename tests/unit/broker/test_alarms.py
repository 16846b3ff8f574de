"""Alarms go off at their limits, do not flutter, and wake who waited once all are over."""

import logging

import pytest

from leveret.broker.alarms import MIB, Alarms, Limits

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
    alarms.update(MEMORY * 94 // 100, DISK * 124 // 100)
    assert alarms.reason == "low on disk"
    alarms.update(MEMORY * 94 // 100, DISK * 125 // 100)
    assert not alarms.is_active


def test_what_is_written_between_two_looks_counts_at_once(alarms: Alarms) -> None:
    alarms.update(0, DISK + 100)
    alarms.wrote(100)
    assert not alarms.is_active
    alarms.wrote(1)
    assert alarms.reason == "low on disk"
    assert alarms.disk_free_bytes == DISK - 1


def test_what_was_written_counts_only_until_the_next_look(alarms: Alarms) -> None:
    for _ in range(10):
        alarms.update(0, DISK + 100)
        alarms.wrote(100)
    assert not alarms.is_active


def test_before_the_first_look_nothing_is_short(alarms: Alarms) -> None:
    alarms.wrote(DISK)
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


def test_who_waits_can_be_counted_and_give_up(alarms: Alarms) -> None:
    woken: list[str] = []

    def wake() -> None:
        woken.append("publisher")

    alarms.update(MEMORY + 1, DISK)
    alarms.when_clear(wake)
    assert alarms.waiting_count == 1
    alarms.forget(wake)
    alarms.forget(wake)
    assert alarms.waiting_count == 0
    alarms.update(0, DISK)
    assert woken == []


def test_an_alarm_is_logged_once_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(Limits(memory_bytes=400 * MIB, disk_free_bytes=100 * MIB))
    for disk_free_bytes in (90 * MIB, 80 * MIB, 130 * MIB):
        alarms.update(50 * MIB, disk_free_bytes)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    begin, end = caplog.messages
    assert begin.startswith("low on disk: publishers are blocked (")
    assert end.startswith("no longer low on anything: publishers go on (")
    assert begin.endswith("50 MiB of memory in use, limit 400; 90 MiB of disk free, limit 100)")
    assert end.endswith("50 MiB of memory in use, limit 400; 130 MiB of disk free, limit 100)")
