import asyncio
import errno
import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from leveret.storage import spill as spill_module
from leveret.storage.engine import Corrupt, Full, Unavailable
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.spill import FileSpill, Spill, SpillHandle

KIB = 1024


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "FILE_BYTES", 64 * KIB)


@pytest.fixture(params=["files", "memory"])
async def spill(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spill]:
    spill: Spill = FileSpill(tmp_path / "spill") if request.param == "files" else MemorySpill()
    await spill.open()
    yield spill
    await spill.close()


@pytest.fixture
async def file_spill(tmp_path: Path) -> AsyncIterator[FileSpill]:
    spill = FileSpill(tmp_path / "spill")
    await spill.open()
    yield spill
    await spill.close()


def files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "spill"))


def bytes_of_files(tmp_path: Path) -> int:
    """Some of them may just be going."""
    total = 0
    for name in files(tmp_path):
        with suppress(FileNotFoundError):
            total += os.stat(tmp_path / "spill" / name).st_size
    return total


async def settled(spill: FileSpill) -> None:
    """What was handed to the threads before is done: they do one thing after another."""
    spill.drop(await spill.write(b"x"))
    handle = await spill.write(b"x")
    await spill.read([handle])
    spill.drop(handle)


class TestEverySpill:
    async def test_blobs_come_back_by_their_handles(self, spill: Spill) -> None:
        blobs = [os.urandom(size) for size in (0, 1, 4096, 100_000, 262_144, 7)]
        handles = [await spill.write(blob) for blob in blobs]
        assert [handle.size for handle in handles] == [len(blob) for blob in blobs]
        assert await spill.read(handles) == blobs
        assert await spill.read([handles[3], handles[1], handles[3]]) == [blobs[3], blobs[1], blobs[3]]
        assert await spill.read([]) == []

    async def test_it_counts_what_was_not_dropped(self, spill: Spill) -> None:
        handles = [await spill.write(bytes(1000)) for _ in range(5)]
        assert (spill.stats.bytes, spill.stats.blobs) == (5000, 5)
        for handle in handles[:2]:
            spill.drop(handle)
        assert (spill.stats.bytes, spill.stats.blobs) == (3000, 3)

    async def test_a_dropped_blob_is_gone(self, spill: Spill) -> None:
        handle = await spill.write(b"1")
        spill.drop(handle)
        with pytest.raises(Unavailable, match="was dropped"):
            await spill.read([handle])
        with pytest.raises(Unavailable, match="was dropped"):
            spill.drop(handle)

    async def test_writes_and_reads_at_once(self, spill: Spill) -> None:
        blobs = [os.urandom(random.Random(n).randrange(30_000)) for n in range(50)]
        handles = await asyncio.gather(*(spill.write(blob) for blob in blobs))
        assert await asyncio.gather(*(spill.read([handle]) for handle in handles)) == [
            [blob] for blob in blobs
        ]

    async def test_a_closed_one_says_so(self, spill: Spill) -> None:
        handle = await spill.write(b"1")
        await spill.close()
        await spill.close()
        with pytest.raises(Unavailable, match="not open"):
            await spill.write(b"2")
        with pytest.raises(Unavailable, match="not open"):
            await spill.read([handle])
        spill.drop(handle)
        assert spill.stats.blobs == 0

    @pytest.mark.parametrize("seed", range(5))
    async def test_whatever_is_written_and_dropped_in_any_order(self, spill: Spill, seed: int) -> None:
        rng = random.Random(seed)
        held: dict[SpillHandle, bytes] = {}
        for _ in range(300):
            if rng.random() < 0.6 or not held:
                blob = rng.randbytes(rng.choice((10, 3_000, 20_000)))
                held[await spill.write(blob)] = blob
            else:
                # Mostly the oldest, as a queue does.
                handle = next(iter(held)) if rng.random() < 0.8 else rng.choice(list(held))
                assert await spill.read([handle]) == [held.pop(handle)]
                spill.drop(handle)
            assert spill.stats.blobs == len(held)
        assert await spill.read(list(held)) == list(held.values())
        assert spill.stats.bytes == sum(map(len, held.values()))


class TestFiles:
    async def test_a_file_is_deleted_with_its_last_blob(self, file_spill: FileSpill, tmp_path: Path) -> None:
        handles = [await file_spill.write(bytes(32 * KIB)) for _ in range(6)]
        assert files(tmp_path) == ["0.spill", "1.spill", "2.spill"]
        for handle in handles[1:4]:
            file_spill.drop(handle)
        await settled(file_spill)
        assert "0.spill" in files(tmp_path)
        assert "1.spill" not in files(tmp_path)
        for handle in (handles[0], *handles[4:]):
            file_spill.drop(handle)
        await settled(file_spill)
        await settled(file_spill)
        assert file_spill.stats.file_bytes == 0
        await file_spill.close()
        assert files(tmp_path) == []

    async def test_a_few_blobs_do_not_pin_the_disk(self, file_spill: FileSpill, tmp_path: Path) -> None:
        kept: dict[SpillHandle, bytes] = {}
        for n in range(400):
            blob = os.urandom(8 * KIB)
            handle = await file_spill.write(blob)
            if n % 20 == 0:
                kept[handle] = blob
            else:
                file_spill.drop(handle)
        assert await file_spill.read(list(kept)) == list(kept.values())
        assert file_spill.stats.blobs == 20
        assert file_spill.stats.file_bytes < 6 * file_spill.stats.bytes
        assert bytes_of_files(tmp_path) < 6 * file_spill.stats.bytes

    async def test_a_blob_that_is_dropped_while_it_moves_stays_dropped(self, file_spill: FileSpill) -> None:
        handles = [await file_spill.write(os.urandom(8 * KIB)) for _ in range(8)]
        later = await file_spill.write(b"in the next file")
        for handle in handles[:7]:
            file_spill.drop(handle)
        moving = asyncio.ensure_future(file_spill.write(b"moves what is left"))
        await asyncio.sleep(0)
        file_spill.drop(handles[7])
        written = await moving
        assert await file_spill.read([later, written]) == [b"in the next file", b"moves what is left"]
        assert file_spill.stats.blobs == 2

    async def test_what_an_earlier_process_left_is_deleted(self, tmp_path: Path) -> None:
        directory = tmp_path / "spill"
        directory.mkdir()
        (directory / "17.spill").write_bytes(b"left")
        (directory / "notes").write_text("somebody else's")
        spill = FileSpill(directory)
        await spill.open()
        assert files(tmp_path) == ["notes"]
        await spill.write(b"1")
        await spill.close()
        assert files(tmp_path) == ["notes"]

    async def test_without_a_directory_it_makes_one_and_takes_it_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        spill = FileSpill(None)
        await spill.open()
        await spill.write(b"1")
        (name,) = os.listdir(tmp_path)
        assert name.startswith("leveret-spill-")
        assert os.stat(tmp_path / name / "0.spill").st_mode & 0o777 == 0o600
        await spill.close()
        assert os.listdir(tmp_path) == []

    async def test_a_place_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(Unavailable, match=r"the spill cannot be used: .*file"):
            await FileSpill(tmp_path / "file").open()

    async def test_a_truncated_file_is_corrupt(self, file_spill: FileSpill, tmp_path: Path) -> None:
        handle = await file_spill.write(bytes(1000))
        os.truncate(tmp_path / "spill" / "0.spill", 999)
        with pytest.raises(Corrupt, match=r"0\.spill is truncated"):
            await file_spill.read([handle])


class TestTrouble:
    async def test_a_full_disk_is_said_and_survived(
        self, file_spill: FileSpill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = await file_spill.write(b"before")
        written = os.pwrite

        def refuse(descriptor: int, data: memoryview, offset: int) -> int:
            if len(data) > 100:  # a part of it finds room
                return written(descriptor, data[:100], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", refuse)
        with pytest.raises(Full, match="No space left"):
            await file_spill.write(bytes(1000))
        monkeypatch.undo()
        assert file_spill.stats.blobs == 1
        after = await file_spill.write(b"after")
        assert await file_spill.read([before, after]) == [b"before", b"after"]

    async def test_some_of_the_disk_is_left_for_the_log(
        self, file_spill: FileSpill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spill_module, "LEFT_BYTES", 2**62)
        with pytest.raises(Full, match="left for the log"):
            await file_spill.write(b"1")
        assert file_spill.stats == spill_module.SpillStats(0, 0, 0)

    async def test_a_disk_too_full_to_move_blobs_takes_nothing_away(
        self, file_spill: FileSpill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blobs = [os.urandom(8 * KIB) for _ in range(9)]
        handles = [await file_spill.write(blob) for blob in blobs]
        for handle in handles[:7]:
            file_spill.drop(handle)

        def refuse(moves: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(spill_module, "_copy_all", refuse)
        handles.append(await file_spill.write(b"new"))
        assert await file_spill.read(handles[7:]) == [*blobs[7:], b"new"]

    async def test_a_disk_that_fails_is_named(
        self, file_spill: FileSpill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(Unavailable, match="Input/output error"):
            await file_spill.write(b"1")

    async def test_a_cancelled_write_leaves_nothing(self, file_spill: FileSpill, tmp_path: Path) -> None:
        writing = asyncio.ensure_future(file_spill.write(bytes(1000)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert file_spill.stats.blobs == 0
        await settled(file_spill)
        await file_spill.close()
        assert files(tmp_path) == []

    async def test_a_file_stays_while_it_is_read(
        self, file_spill: FileSpill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reached, may_go = threading.Event(), threading.Event()
        read = os.pread

        def wait(descriptor: int, size: int, offset: int) -> bytes:
            reached.set()
            may_go.wait()
            return read(descriptor, size, offset)

        handles = [await file_spill.write(b"1" * 64 * KIB), await file_spill.write(b"2")]
        monkeypatch.setattr(os, "pread", wait)
        first = asyncio.ensure_future(file_spill.read(handles[:1]))
        cancelled = asyncio.ensure_future(file_spill.read(handles[:1]))
        await asyncio.to_thread(reached.wait)
        file_spill.drop(handles[0])
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        file_spill.drop(await file_spill.write(b"the writing thread comes round"))
        assert "0.spill" in files(tmp_path)
        may_go.set()
        assert await first == [b"1" * 64 * KIB]
        await settled(file_spill)
        await settled(file_spill)
        assert "0.spill" not in files(tmp_path)
