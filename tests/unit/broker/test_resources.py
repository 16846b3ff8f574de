"""What the machine has left, and the limits that follow from its size."""

import asyncio
from pathlib import Path

import pytest
from log_owner import LogOwner

from leveret.broker.alarms import NO_LIMITS, Alarms, Limits
from leveret.broker.daemon import resources
from leveret.broker.daemon.config import MIB, Config
from leveret.broker.daemon.resources import (
    ResourceWatch,
    disk_free_limit,
    disk_size,
    limits_of,
    memory_of_machine,
    memory_used,
)
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.memory import MemoryEngine

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("configured", "disk_bytes", "limit"),
    [
        (None, 1024 * GIB, 256 * MIB),
        (None, 2 * GIB, 256 * MIB),
        (None, 256 * MIB, 256 * MIB * 15 // 100),
        (10 * GIB, 20 * GIB, 10 * GIB),
        (10 * GIB, GIB, 10 * GIB),
        (0, GIB, 0),
    ],
)
def test_a_small_disk_is_not_blocked_for_ever_unless_one_asks_for_it(
    configured: int | None, disk_bytes: int, limit: int
) -> None:
    assert disk_free_limit(configured, disk_bytes) == limit


def test_limits_are_shares_of_this_machine(tmp_path: Path) -> None:
    limits = limits_of(Config(data_dir=tmp_path, memory_high_watermark=0.5), LmdbEngine(tmp_path))
    assert limits.memory_bytes == memory_of_machine() // 2
    assert limits.disk_free_bytes == disk_free_limit(None, disk_size(tmp_path))


def test_an_engine_in_memory_fills_no_disk(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "never made", disk_free_limit_bytes=GIB)
    assert limits_of(config, MemoryEngine()).disk_free_bytes == 0


def test_the_machine_can_be_asked() -> None:
    assert 0 < memory_used() < memory_of_machine()
    assert disk_size(Path("/")) > 0


async def test_a_look_tells_what_memory_and_the_log_say(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path, map_bytes=8 * MIB)
    await engine.open()
    alarms = Alarms(Limits(memory_bytes=1, disk_free_bytes=6 * MIB))
    asked: list[str] = []
    watch = ResourceWatch(engine, alarms, lambda: asked.append("room"))
    await watch.look()
    assert alarms.reason == "low on memory"
    assert asked == []
    owner = await LogOwner.acquire(engine)
    for _ in range(16):
        await owner.append(bytes(200_000))
    await watch.look()
    assert alarms.reason == "low on memory & disk"
    assert asked == ["room"]
    assert alarms.disk_free_bytes == (await engine.stats()).free_bytes
    await engine.close()


async def test_an_engine_that_ended_is_not_this_ones_business() -> None:
    alarms = Alarms(NO_LIMITS)
    await ResourceWatch(MemoryEngine(), alarms, lambda: None).look()
    assert alarms.memory_bytes == 0


async def test_a_look_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resources, "LOOK_S", 0)
    engine = MemoryEngine()
    await engine.open()
    looked = asyncio.Event()
    found = iter([OSError("too many open files")])

    def used() -> int:
        for error in found:
            raise error
        looked.set()
        return 1

    monkeypatch.setattr(resources, "memory_used", used)
    watching = asyncio.create_task(ResourceWatch(engine, Alarms(NO_LIMITS), lambda: None).run())
    await looked.wait()
    watching.cancel()
    assert "looking at what the machine has left failed" in caplog.text
