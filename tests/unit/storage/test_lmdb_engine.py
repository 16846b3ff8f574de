"""What is particular to the LMDB engine; the contract suite covers the rest."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage import failpoints
from leveret.storage import lmdb as engine_module
from leveret.storage.check import check_directory
from leveret.storage.directory import DirectoryInUse, DirectoryUnusable
from leveret.storage.engine import Ambiguous, Corrupt, Position, Unavailable
from leveret.storage.lmdb import FRAME_BYTES_MAX, LmdbEngine
from leveret.storage.lmdb_rows import EPOCH_PREFIX
from leveret.storage.lmdb_store import Store, read_meta_pages
from leveret.storage.tail import APPEND_BYTES_MAX


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.armed = None


def run_killed(path: Path, armed: str) -> str:
    """Run a small owner in its own process with a failpoint armed; returns what it printed until it died."""
    ran = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "support" / "log_victim.py", path],
        env=os.environ | {"LEVERET_FAILPOINTS": armed},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == -9, ran.stderr
    return ran.stdout


class TestOpening:
    async def test_the_directory_is_locked_while_it_is_open(self, kit: LmdbKit) -> None:
        await kit.open()
        with pytest.raises(DirectoryInUse, match=f"pid {os.getpid()}"):
            await LmdbEngine(kit.path).open()

    async def test_a_failed_open_leaves_nothing_locked(self, tmp_path: Path) -> None:
        (tmp_path / "foreign").write_text("")
        with pytest.raises(DirectoryUnusable):
            await LmdbEngine(tmp_path).open()
        (tmp_path / "foreign").unlink()
        (tmp_path / "log").mkdir()
        with pytest.raises(Unavailable, match="cannot be read"):
            await LmdbEngine(tmp_path).open()
        (tmp_path / "log").rmdir()
        engine = LmdbEngine(tmp_path)
        await engine.open()
        await engine.close()

    async def test_a_store_that_cannot_be_made_is_named(self, kit: LmdbKit) -> None:
        kit.path.mkdir()
        (kit.path / "lock").touch()
        (kit.path / "log.new").touch()
        with pytest.raises(Unavailable, match=r"log\.new: the store cannot be used: .*File exists"):
            await LmdbEngine(kit.path).open()
        (kit.path / "log.new").unlink()
        await kit.open()

    async def test_an_error_of_lmdb_at_open_is_named(
        self, kit: LmdbKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise lmdb.ReadersFullError("injected")

        monkeypatch.setattr(lmdb, "open", fail)
        for _ in range(2):
            with pytest.raises(Unavailable, match="the store cannot be used: injected"):
                await LmdbEngine(kit.path).open()
        monkeypatch.undo()
        engine = await kit.open()
        await engine.close()
        monkeypatch.setattr(lmdb, "open", fail)
        with pytest.raises(Unavailable, match="the store cannot be used: injected"):
            await LmdbEngine(kit.path).open()

    async def test_half_a_new_store_is_discarded(self, kit: LmdbKit) -> None:
        assert run_killed(kit.path, "during_create=kill") == ""
        assert (kit.path / "log.new").exists()
        engine = await kit.open()
        assert not (kit.path / "log.new").exists()
        await (await LogOwner.acquire(engine)).append(b"1")

    def test_a_small_address_space_gets_a_small_map(self, tmp_path: Path) -> None:
        program = (
            "import asyncio, resource, sys; from leveret.storage.lmdb import FRAME_BYTES_MAX, LmdbEngine\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2**34, resource.RLIM_INFINITY))\n"
            "async def main():\n"
            "    engine = LmdbEngine(sys.argv[1]); await engine.open(); print(await engine.acquire(0, 'n'))\n"
            "    await engine.close()\n"
            "asyncio.run(main())"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "data"], capture_output=True, text=True, check=False
        )
        assert "Lease(epoch=1, fence=0)" in ran.stdout, ran.stderr

    async def test_a_large_store_is_not_looked_through(
        self, kit: LmdbKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = await kit.open()
        await engine.close()
        monkeypatch.setattr(engine_module, "verify_pages", lambda path: ["seen"])
        with pytest.raises(Corrupt, match=r"seen \(1 findings; run `leveret check`\)"):
            await kit.open()
        monkeypatch.setattr(engine_module, "VERIFY_BYTES_MAX", 1)
        await kit.open()


class TestCommit:
    async def test_what_waits_shares_one_commit(self, kit: LmdbKit) -> None:
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        # The writer is held up, so that calls pile up behind it.
        failpoints.armed = failpoints.parse("before_commit=delay:50@1")
        before = _last_transaction(kit.path)
        calls = [asyncio.ensure_future(engine.append([owner.make(b"%d" % n)])) for n in range(20)]
        calls_of_others = asyncio.ensure_future(engine.meta_cas(b"key", b"value", None))
        await asyncio.gather(*calls, calls_of_others)
        assert _last_transaction(kit.path) - before <= 3

    async def test_nothing_is_answered_before_the_commit(self, kit: LmdbKit) -> None:
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        reached, may_go = threading.Event(), threading.Event()

        class Gate(dict[str, failpoints.Failpoint]):
            def get(self, name: str, default: object = None) -> None:  # type: ignore[override]
                if name == "before_commit":
                    reached.set()
                    may_go.wait()

        failpoints.armed = Gate(before_commit=failpoints.Failpoint("delay"))
        item = owner.make(bytes(FRAME_BYTES_MAX))  # for the writer: the loop must go on
        call = asyncio.ensure_future(engine.append([item]))
        await asyncio.to_thread(reached.wait)
        await asyncio.sleep(0)
        assert not call.done()
        assert await read_all(engine) == {}
        may_go.set()
        assert list(await read_all(engine)) == [] or call.done()
        (position,) = await call
        assert list(await read_all(engine)) == [position]

    async def test_a_failed_commit_ends_the_engine(self, kit: LmdbKit) -> None:
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        kit.make_next_append_ambiguous(durable=False)
        calls = [
            engine.append([owner.make()]),
            engine.append([owner.make()]),
            engine.meta_cas(b"key", b"", None),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], list)
        assert isinstance(answers[0][0], Ambiguous)
        assert isinstance(answers[1][0], Ambiguous)  # type: ignore[index]
        assert isinstance(answers[2], Ambiguous)
        assert "open the store anew" in str(answers[2])

    @pytest.mark.parametrize(
        ("error", "expected"), [(lmdb.DiskError, Unavailable), (lmdb.CorruptedError, Corrupt)]
    )
    async def test_an_error_before_the_commit_ends_the_engine_too(
        self,
        kit: LmdbKit,
        monkeypatch: pytest.MonkeyPatch,
        error: type[lmdb.Error],
        expected: type[Exception],
    ) -> None:
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)

        def fail(*_: object) -> None:
            raise error("injected")

        monkeypatch.setattr("leveret.storage.lmdb_write.Write.put_root", fail)
        large = owner.make(bytes(APPEND_BYTES_MAX))  # for LMDB, not for the tail
        assert isinstance((await engine.append([large]))[0], expected)
        monkeypatch.undo()
        with pytest.raises(expected, match="injected"):
            await engine.stats()

    async def test_a_slower_disk_can_be_played(self, kit: LmdbKit) -> None:
        engine = LmdbEngine(kit.path, map_bytes=2**30, sync_delay_ms=20)
        await engine.open()
        owner = await LogOwner.acquire(engine)
        started = time.perf_counter()
        await owner.append(b"1")
        assert time.perf_counter() - started >= 0.02
        stats = await engine.stats()
        assert stats.last_commit_ms >= 20
        assert stats.commits == 2
        assert stats.file_bytes == os.stat(kit.path / "log" / "data.mdb").st_size > stats.used_bytes
        await engine.close()


class TestCheckpoint:
    async def test_a_crash_between_its_transactions_leaves_the_old_one(self, kit: LmdbKit) -> None:
        printed = run_killed(kit.path, "during_checkpoint=kill@6")
        assert "checkpoint 1" in printed
        assert "checkpoint 2" not in printed
        report = check_directory(kit.path)
        assert report.is_sound, report.findings
        engine = await kit.open()
        assert await engine.last_checkpoint(0) == (Position(1), b"1" * 9_000_000)
        # The next one sweeps what was left lying, also where it is shorter.
        owner = await LogOwner.acquire(engine)
        before = (await engine.stats()).used_bytes
        await engine.checkpoint(0, owner.lease.epoch, Position(3), [b"short"])
        assert await engine.last_checkpoint(0) == (Position(3), b"short")
        assert (await engine.stats()).used_bytes < before - 9_000_000

    async def test_a_large_one_is_swept_in_steps(self, kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("leveret.storage.lmdb_write.SWEEP_MAX", 2)
        assert run_killed(kit.path, "during_checkpoint=kill@6").count("checkpoint") == 1
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        await engine.checkpoint(0, owner.lease.epoch, Position(3), [b"short"])
        assert (await engine.stats()).used_bytes < 1_000_000
        assert await engine.last_checkpoint(0) == (Position(3), b"short")

    async def test_a_crash_during_a_drop_leaves_a_sound_log(self, kit: LmdbKit) -> None:
        assert run_killed(kit.path, "during_drop=kill@2").endswith("checkpoint 2\n")
        engine = await kit.open()
        assert list(await read_all(engine)) == [2, 3]

    @pytest.mark.parametrize(
        "place", ["before_commit=kill@3", "commit=kill@3", "after_commit_before_confirm=kill@3"]
    )
    async def test_a_crash_around_a_commit_loses_nothing_that_was_printed(
        self, kit: LmdbKit, place: str
    ) -> None:
        printed = run_killed(kit.path, place)
        confirmed = [int(line.split()[1]) for line in printed.splitlines() if line.startswith("append")]
        found = list(await read_all(await kit.open()))
        assert found[: len(confirmed)] == confirmed
        assert len(found) - len(confirmed) == (1 if place.startswith("after") else 0)


async def test_an_error_of_lmdb_while_reading_is_named(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise lmdb.CorruptedError("injected")

    engine = await kit.open()
    monkeypatch.setattr(engine_module, "read_many", fail)
    with pytest.raises(Corrupt, match="LMDB finds its file damaged: injected"):
        await engine.read_one(0, Position(1))


class TestEpochs:
    async def test_epochs_without_blobs_are_forgotten(self, kit: LmdbKit) -> None:
        engine = await kit.open()
        for _ in range(5):
            owner = await LogOwner.acquire(engine)
            positions = await owner.append(b"1", b"2")
        other = await LogOwner.acquire(engine, 1)
        await other.append(b"other")
        assert _epoch_rows(kit.path) == 6
        await engine.checkpoint(0, owner.lease.epoch, positions[-1], [b"state"])
        await engine.drop(0, owner.lease.epoch, [Position(n) for n in range(1, 9)])
        await LogOwner.acquire(engine)
        # Left: the one whose blobs are there, the new one, and the other group's.
        assert _epoch_rows(kit.path) == 3

    async def test_epochs_of_an_emptied_log_are_forgotten(self, kit: LmdbKit) -> None:
        engine = await kit.open()
        for _ in range(5):
            owner = await LogOwner.acquire(engine)
        (position,) = await owner.append(b"1")
        await engine.checkpoint(0, owner.lease.epoch, position, [b"state"])
        await engine.drop(0, owner.lease.epoch, [position])
        await LogOwner.acquire(engine)
        assert _epoch_rows(kit.path) <= 2


async def test_metadata_values_have_a_limit(kit: LmdbKit) -> None:
    engine = await kit.open()
    with pytest.raises(ValueError, match="above 1048576"):
        await engine.meta_cas(b"key", bytes(2**20 + 1), None)


def _last_transaction(path: Path) -> int:
    """As the file says, without opening it a second time."""
    pages = read_meta_pages(path / "log")
    newest = max(page.transaction for page in pages.check())
    pages.close()
    return newest


def _epoch_rows(path: Path) -> int:
    """Rows of epochs in a copy of the store."""
    copy = path.with_name("copy")
    shutil.copytree(path / "log", copy)
    store = Store.open(copy, readonly=True)
    with store.env.begin() as txn:
        rows = sum(key.startswith(EPOCH_PREFIX) for key, _ in txn.cursor(db=store.state))
    store.close()
    shutil.rmtree(copy)
    return rows
