import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from log_owner import LogOwner
from small_store import make_small_store, recover

from leveret.storage.check import check_directory
from leveret.storage.compact import compact_directory
from leveret.storage.directory import DataDirectory, DirectoryInUse, DirectoryUnusable
from leveret.storage.engine import Corrupt, Position, Unavailable
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.lmdb_store import Store

MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small store that was larger once."""
    make_small_store(tmp_path / "data")
    asyncio.run(_fill_and_empty(tmp_path / "data"))
    return tmp_path / "data"


async def _fill_and_empty(path: Path) -> None:
    engine = LmdbEngine(path)
    await engine.open()
    owner = await LogOwner.acquire(engine, group=1)
    positions = await owner.append(*(bytes(MIB) for _ in range(20)))
    await engine.checkpoint(1, owner.lease.epoch, positions[-1], [b""])
    await engine.drop(1, owner.lease.epoch, positions)
    await engine.close()


def data_bytes(path: Path) -> int:
    return (path / "log" / "data.mdb").stat().st_size


def test_it_gives_space_back_and_changes_nothing(path: Path) -> None:
    expected, before = recover(path), data_bytes(path)
    assert compact_directory(path) == (before, data_bytes(path))
    assert before > 20 * MIB
    assert data_bytes(path) < MIB
    assert recover(path) == expected
    report = check_directory(path)
    assert report.is_sound, report.findings
    assert not (path / "log.new").exists()


def test_the_store_goes_on_where_it_was(path: Path) -> None:
    compact_directory(path)

    async def append() -> None:
        engine = LmdbEngine(path)
        await engine.open()
        owner = await LogOwner.acquire(engine)
        assert await owner.append(b"next") == [Position(26)]
        await engine.close()

    asyncio.run(append())
    assert check_directory(path).is_sound
    compact_directory(path)
    assert check_directory(path).is_sound


def test_a_crash_leaves_the_old_store(path: Path) -> None:
    expected, before = recover(path), data_bytes(path)
    program = "import sys; from pathlib import Path; from leveret.storage.compact import compact_directory\n"
    killed = subprocess.run(
        [sys.executable, "-c", program + "compact_directory(Path(sys.argv[1]))", path],
        env=os.environ | {"LEVERET_FAILPOINTS": "during_compact=kill"},
        check=False,
    )
    assert killed.returncode == -9
    assert (data_bytes(path), recover(path)) == (before, expected)
    compact_directory(path)
    assert recover(path) == expected


def test_a_damaged_store_is_left_as_it_is(path: Path) -> None:
    data = path / "log" / "data.mdb"
    damaged = data.read_bytes().replace(b"state" * 100, b"stale" * 100, 1)
    data.write_bytes(damaged)
    with pytest.raises(Corrupt, match="the checkpoint at position 6 is damaged"):
        compact_directory(path)
    assert data.read_bytes() == damaged


def test_a_disk_without_room_for_the_copy_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("no room")

    monkeypatch.setattr(Store, "copy_compacted", fail)
    before = data_bytes(path)
    with pytest.raises(Unavailable, match="no room"):
        compact_directory(path)
    assert data_bytes(path) == before
    assert not (path / "log.new").exists()


def test_a_directory_in_use_is_left_alone(path: Path) -> None:
    user = DataDirectory.open(path)
    with pytest.raises(DirectoryInUse):
        compact_directory(path)
    user.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DirectoryUnusable, match="does not exist"):
        compact_directory(tmp_path / "missing")
