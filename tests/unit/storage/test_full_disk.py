"""A file system of 256 MiB that is really full, as ext4 is when others use it, too."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_owner import LogOwner, read_all
from loop_disk import loop_disk

from leveret.storage.check import check_directory
from leveret.storage.engine import EngineError, Full, LogEngine, Position
from leveret.storage.lmdb import BLOB_MAX_BYTES, LmdbEngine

MIB = 1024 * 1024
DISK_BYTES = 256 * MIB
PAYLOAD = os.urandom(BLOB_MAX_BYTES - 100)

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The root of the file system."""
    with loop_disk(tmp_path, DISK_BYTES) as root:
        yield root


def leave_nothing(disk: Path) -> None:
    """Somebody else takes the rest of the disk."""
    with (disk / "foreign").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            os.fsync(file.fileno())
    assert os.statvfs(disk).f_bavail == 0


async def fill(engine: LogEngine, owner: LogOwner) -> list[Position]:
    """Append until the engine is full."""
    taken = []
    while True:
        idx, chain = owner.idx, owner.chain
        (answer,) = await engine.append([owner.make(PAYLOAD)])
        if isinstance(answer, Full):
            owner.idx, owner.chain = idx, chain  # the idx is free again
            return taken
        assert not isinstance(answer, EngineError), answer
        taken.append(answer)


async def test_a_disk_without_a_free_block_is_survived_again_and_again(disk: Path) -> None:
    path = disk / "data"
    engine = LmdbEngine(path)
    await engine.open()
    owner = await LogOwner.acquire(engine)
    kept: list[Position] = []
    for n in range(4):
        taken = await fill(engine, owner)
        assert len(taken) * BLOB_MAX_BYTES > 150 * MIB
        assert (await engine.stats()).free_bytes < 2 * BLOB_MAX_BYTES
        leave_nothing(disk)
        # What was under way when the disk became full, and the owner's last acknowledgements.
        for _ in range(15 * MIB // BLOB_MAX_BYTES):
            (answer,) = await engine.append([owner.make(PAYLOAD)], urgent=True)
            assert not isinstance(answer, EngineError), (n, answer)
            taken.append(answer)
        await engine.checkpoint(0, owner.lease.epoch, taken[-1], [os.urandom(2 * MIB)])
        await engine.drop(0, owner.lease.epoch, taken[:-1])
        kept.append(taken[-1])
        assert (await engine.stats()).free_bytes > 150 * MIB
    assert list(await read_all(engine)) == kept
    await engine.close()
    report = check_directory(path)
    assert report.is_sound, report.findings
