"""The tail: what is in it survives a crash, what is not whole or not its own means nothing, and nothing is
lost on the way to LMDB.
"""

import asyncio
import errno
import os
import random
from contextlib import closing
from pathlib import Path

import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage import tail as module
from leveret.storage.check import check_directory
from leveret.storage.compact import compact_directory
from leveret.storage.engine import Ambiguous, Append, Corrupt, LogEngine, Position
from leveret.storage.group import GroupState
from leveret.storage.lmdb_rows import KEY_SUPERBLOCK
from leveret.storage.lmdb_store import FORMAT, FORMAT_WITH_TAIL, Store, check_superblock
from leveret.storage.tail import ALIGN_BYTES, APPEND_BYTES_MAX, FILE_BYTES, Tail, make_tail, read_items
from leveret.storage.tail_file import TailFile

KEY, OTHER_KEY = bytes(range(16)), bytes(16)
GROUPS = {0: GroupState(epoch=1)}


class TestFile:
    """Frames, without an engine."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tail"
        make_tail(path)
        return path

    @pytest.fixture
    def tail(self, path: Path) -> Tail:
        tail = Tail(path, [])
        tail.clear(KEY)
        return tail

    @pytest.fixture
    def owner(self) -> LogOwner:
        return LogOwner(None, 0, GROUPS[0].lease())  # type: ignore[arg-type]  # it only makes items

    def test_it_gives_back_what_it_took(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        first = [owner.make(b"1"), owner.make(bytes(10_000))]
        second = [owner.make(b"3")]
        assert tail.place(first, GROUPS) == [1, 2]
        assert tail.place(second, GROUPS) == [3]
        assert read_items(path, KEY, GROUPS) == first + second
        assert tail.items == first + second

    def test_frames_share_no_page(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        for _ in range(3):
            tail.place([owner.make(b"x")], GROUPS)
        data = path.read_bytes()
        assert [data.find(b"LVTL", at) for at in (0, 1, ALIGN_BYTES + 1)] == [0, ALIGN_BYTES, 2 * ALIGN_BYTES]
        assert len(data) == FILE_BYTES

    def test_another_key_hides_everything(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        tail.place([owner.make(b"1")], GROUPS)
        assert read_items(path, OTHER_KEY, GROUPS) == []

    def test_what_was_cleared_is_gone(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        for number in range(5):
            tail.place([owner.make(b"%d" % number)], GROUPS)
        moved = tail.groups
        tail.clear(OTHER_KEY)
        last = owner.make(b"last")
        assert tail.place([last], moved) == [6]
        assert read_items(path, OTHER_KEY, moved) == [last]

    def test_a_last_frame_that_is_not_whole_does_not_count(
        self, path: Path, tail: Tail, owner: LogOwner
    ) -> None:
        first, last = owner.make(b"1"), owner.make(random.Random(1).randbytes(9_000))
        tail.place([first], GROUPS)
        tail.place([last], GROUPS)
        data = path.read_bytes()
        for page in (1, 2, 3):  # each of the pages of the last frame may be the one that was not written
            at = page * ALIGN_BYTES
            path.write_bytes(data[:at] + bytes(ALIGN_BYTES) + data[at + ALIGN_BYTES :])
            assert read_items(path, KEY, GROUPS) == [first]

    def test_the_blobs_of_one_append_count_together(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        tail.place([owner.make(b"1"), owner.make(bytes(5_000))], GROUPS)
        data = path.read_bytes()
        path.write_bytes(data[:ALIGN_BYTES] + b"\xff" + data[ALIGN_BYTES + 1 :])
        assert read_items(path, KEY, GROUPS) == []

    def test_damage_before_the_last_frame_is_noticed(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        for number in range(3):
            tail.place([owner.make(b"%d" % number)], GROUPS)
        data = path.read_bytes()
        for page in range(2):
            for at in range(page * ALIGN_BYTES, page * ALIGN_BYTES + 100):
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                with pytest.raises(Corrupt, match="is damaged, and there is one behind it"):
                    read_items(path, KEY, GROUPS)

    def test_frames_that_are_all_damaged_are_noticed(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        """Also when no whole one lies behind the first of them: an interrupted append is one frame."""
        for number in range(4):
            tail.place([owner.make(b"%d" % number)], GROUPS)
        data = bytearray(path.read_bytes())
        for page in range(2, 4):
            data[page * ALIGN_BYTES + 50] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt, match="the frame at byte 8192 is damaged"):
            read_items(path, KEY, GROUPS)

    @pytest.mark.parametrize("size", [0, ALIGN_BYTES, FILE_BYTES - 1])
    def test_a_shorter_file_is_refused(self, path: Path, tail: Tail, owner: LogOwner, size: int) -> None:
        tail.place([owner.make(b"1")], GROUPS)
        os.truncate(path, size)
        with pytest.raises(Corrupt, match="are missing"):
            read_items(path, KEY, GROUPS)

    def test_it_is_made_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def sync(_: Path) -> None:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(module, "sync_path", sync)
        with pytest.raises(OSError, match="no room"):
            make_tail(tmp_path / "other")
        assert not (tmp_path / "other").exists()

    def test_no_flipped_bit_changes_what_is_read(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        item = owner.make(b"1")
        tail.place([item], GROUPS)
        data = path.read_bytes()
        end = module.HEADER_BYTES + 4 + len(item.blob)
        for bit in range(8 * end):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            assert read_items(path, KEY, GROUPS) == []

    def test_what_does_not_follow_the_log_is_refused(self, path: Path, tail: Tail, owner: LogOwner) -> None:
        tail.place([owner.make(b"1")], GROUPS)
        for groups in (
            {0: GroupState(epoch=2)},
            {0: GroupState(1, 1, 0)},  # LMDB has it
            {0: GroupState(epoch=1, chain=b"x" * 16)},
            {},
        ):
            with pytest.raises(Corrupt, match="does not follow the log"):
                read_items(path, KEY, groups)

    def test_it_takes_only_what_is_next(self, tail: Tail, owner: LogOwner) -> None:
        first, second, third = owner.make(), owner.make(), owner.make()
        assert tail.place([second], GROUPS) is None
        assert tail.place([Append(0, 2, 1, first.blob)], GROUPS) is None
        assert tail.place([Append(1, 1, 1, first.blob)], GROUPS) is None
        assert tail.place([first], GROUPS) == [1]
        assert tail.place([first], GROUPS) is None, "a repeat is for LMDB"
        assert tail.place([second, third], GROUPS) == [2, 3]

    def test_it_takes_nothing_large_and_nothing_without_room(self, tail: Tail, owner: LogOwner) -> None:
        assert tail.place([owner.make(bytes(APPEND_BYTES_MAX))], GROUPS) is None
        owner.idx = 0
        count = 0
        while tail.place([owner.make(bytes(40_000))], GROUPS):
            count += 1
        assert count == FILE_BYTES // (10 * ALIGN_BYTES)

    @pytest.mark.parametrize("how", ["error", "short"])
    def test_a_disk_without_room(
        self, path: Path, tail: Tail, owner: LogOwner, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """What it had taken stays; what it may have written of the rest must never count."""
        first, second = owner.make(b"1"), owner.make(b"2")
        tail.place([first], GROUPS)

        really_write, answers = TailFile.write, [how]

        def write(file: TailFile, data: bytes, offset: int) -> int:
            written = really_write(file, data, offset)
            if not answers:
                return written
            if answers.pop() == "error":
                raise OSError(errno.ENOSPC, "no room")
            return written - 1

        monkeypatch.setattr(TailFile, "write", write)
        assert tail.place([second], GROUPS) is None
        assert tail.items == [first]
        assert read_items(path, KEY, GROUPS) == [first]
        assert tail.place([second], GROUPS) == [2]
        assert read_items(path, KEY, GROUPS) == [first, second]

    def test_a_disk_on_which_that_cannot_be_undone(
        self, tail: Tail, owner: LogOwner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TailFile, "write", lambda *_: 0)
        with pytest.raises(OSError, match="No space left"):
            tail.place([owner.make(b"1")], GROUPS)

    def test_a_missing_file(self, path: Path) -> None:
        path.unlink()
        with pytest.raises(Corrupt, match="the last appends of the log: No such file"):
            read_items(path, KEY, GROUPS)


async def crashed_with(kit: LmdbKit, *payloads: bytes) -> tuple[LogEngine, dict[int, bytes]]:
    """An engine after a crash, and what was acknowledged before it; a move lies in between."""
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    items = [owner.make(b"moved"), *(owner.make(payload) for payload in payloads)]
    await owner.append_item(items[0])
    await engine.meta_cas(b"key", b"value", None)
    expected = {1: items[0].blob}
    for item in items[1:]:
        expected[int(await owner.append_item(item))] = item.blob
    return engine, expected


def format_of(kit: LmdbKit) -> object:
    """Of a store that nobody has open."""
    with closing(Store.open(kit.path / "log", readonly=True)) as store, store.reading() as txn:
        return check_superblock(kit.path, txn.get(KEY_SUPERBLOCK, db=store.state))["format"]


def tail_of(kit: LmdbKit) -> Path:
    return kit.path / "log" / "tail"


async def test_small_appends_leave_lmdb_alone(kit: LmdbKit) -> None:
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    before = (kit.path / "log" / "data.mdb").read_bytes()
    await owner.append(*([b"small"] * 5))
    assert (kit.path / "log" / "data.mdb").read_bytes() == before
    assert (await engine.stats()).commits >= 5


async def test_a_crash_loses_nothing(kit: LmdbKit) -> None:
    _, expected = await crashed_with(kit, b"1", b"2", b"3")
    kit.lose_process()
    report = check_directory(kit.path)
    assert report.is_sound, report.findings
    assert report.blobs == 4
    engine = await kit.open()
    assert await read_all(engine) == expected


async def test_a_blob_in_it_can_be_read(kit: LmdbKit) -> None:
    engine, expected = await crashed_with(kit, b"1", b"2")
    assert await engine.read_one(0, Position(3)) == expected[3]


async def test_blobs_in_it_are_listed(kit: LmdbKit) -> None:
    engine, _ = await crashed_with(kit, b"1", b"2")
    assert [int(position) for position, _ in await engine.blobs(0)] == [1, 2, 3]


async def test_the_log_is_read_to_its_end(kit: LmdbKit) -> None:
    engine, expected = await crashed_with(kit, b"1", b"2")
    assert await read_all(engine) == expected


async def test_what_lies_in_it_counts_as_used(kit: LmdbKit) -> None:
    engine, _ = await crashed_with(kit)
    owner = await LogOwner.acquire(engine)
    before = await engine.stats()
    await owner.append(bytes(50_000))
    after = await engine.stats()
    assert after.log_bytes - before.log_bytes >= 50_000
    assert after.used_bytes - before.used_bytes >= 50_000
    assert after.blobs - before.blobs == 1


async def test_nothing_is_written_for_nothing(kit: LmdbKit) -> None:
    engine, _ = await crashed_with(kit)
    before = tail_of(kit).read_bytes()
    assert await engine.append([]) == []
    assert tail_of(kit).read_bytes() == before


async def test_an_engine_that_was_closed_needs_no_tail(kit: LmdbKit) -> None:
    engine, expected = await crashed_with(kit, b"1", b"2")
    await engine.close()
    tail_of(kit).unlink()
    assert check_directory(kit.path).is_sound
    engine = await kit.open()
    assert await read_all(engine) == expected


async def test_an_engine_that_is_closed_at_once_needs_no_tail(kit: LmdbKit) -> None:
    """Its first transaction is under way."""
    engine = await kit.open()
    acquiring = asyncio.create_task(engine.acquire(0, "test"))
    await asyncio.sleep(0)
    await engine.close()
    await acquiring
    tail_of(kit).unlink()
    assert check_directory(kit.path).is_sound


async def test_a_leveret_without_tails_refuses_a_store_that_needs_one(kit: LmdbKit) -> None:
    """By its format, which is the old one again after a stop in order."""
    await crashed_with(kit, b"1")
    kit.lose_process()
    assert format_of(kit) == FORMAT_WITH_TAIL
    engine = await kit.open()
    await engine.close()
    assert format_of(kit) == FORMAT


async def test_without_its_tail_a_crashed_store_is_refused(kit: LmdbKit) -> None:
    await crashed_with(kit, b"1")
    kit.lose_process()
    kept = tail_of(kit).read_bytes()
    tail_of(kit).unlink()
    with pytest.raises(Corrupt, match="the last appends"):
        await kit.make(small=False).open()
    (finding,) = check_directory(kit.path).findings
    assert "the last appends" in finding
    tail_of(kit).write_bytes(kept)


async def test_what_was_moved_is_not_there_twice(kit: LmdbKit) -> None:
    """The old frames still lie in the file, and more of them than there are new ones."""
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    await owner.append(*([b"old"] * 5))
    before = tail_of(kit).read_bytes()
    await engine.meta_cas(b"key", b"value", None)
    await owner.append(b"new")
    kit.lose_process()
    assert tail_of(kit).read_bytes()[ALIGN_BYTES:] == before[ALIGN_BYTES:]
    assert len(await read_all(await kit.open())) == 6


async def test_a_crash_between_the_move_and_the_next_append(kit: LmdbKit) -> None:
    engine, expected = await crashed_with(kit, b"1", b"2")
    await engine.meta_cas(b"other", b"value", None)
    kit.lose_process()
    assert await read_all(await kit.open()) == expected


async def test_crash_after_crash(kit: LmdbKit) -> None:
    """Also when the one before came before anything was moved."""
    _, expected = await crashed_with(kit, b"1", b"2")
    for number in range(3):
        engine = await kit.crash()
        kit.lose_process()
        engine = await kit.open()
        owner = await LogOwner.acquire(engine)
        item = owner.make(b"again %d" % number)
        expected[int(await owner.append_item(item))] = item.blob
    assert await read_all(await kit.crash()) == expected


@pytest.mark.parametrize("seed", range(5))
async def test_any_mixture_survives_a_crash_anywhere(kit: LmdbKit, seed: int) -> None:
    chance = random.Random(seed)
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    expected = {}
    for _ in range(chance.randrange(50, 400)):
        sizes = chance.choices((10, 1000, 10_000, 70_000), k=chance.choice((1, 1, 3)))
        items = [owner.make(bytes(size)) for size in sizes]
        for item, position in zip(items, await engine.append(items), strict=True):
            assert isinstance(position, int)
            expected[int(position)] = item.blob
        if chance.random() < 0.02:
            await engine.meta_cas(os.urandom(4), b"", None)
    kit.lose_process()
    assert check_directory(kit.path).is_sound
    assert await read_all(await kit.open()) == expected


async def test_compacting_after_a_crash_keeps_it(kit: LmdbKit) -> None:
    _, expected = await crashed_with(kit, b"1", b"2")
    kit.lose_process()
    compact_directory(kit.path)
    assert check_directory(kit.path).is_sound
    assert await read_all(await kit.open()) == expected


@pytest.fixture
def writer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the kernel cannot write by itself."""
    monkeypatch.setattr(TailFile, "attend", lambda _: None)


@pytest.mark.usefixtures("writer_only")
async def test_a_disk_without_room_is_no_end(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    await owner.append(b"1")
    really_write, failures = TailFile.write, [errno.ENOSPC]

    def write(file: TailFile, data: bytes, offset: int) -> int:
        if failures:
            raise OSError(failures.pop(), "no room")
        return really_write(file, data, offset)

    monkeypatch.setattr(TailFile, "write", write)
    await owner.append(b"2")
    assert not failures
    await owner.append(b"3", b"4")
    assert len(await read_all(await kit.crash())) == 4


@pytest.mark.usefixtures("writer_only")
async def test_a_disk_that_fails_is_the_end(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)

    def write(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(TailFile, "write", write)
    (answer,) = await engine.append([owner.make(b"1")])
    assert isinstance(answer, Ambiguous)
    with pytest.raises(Ambiguous):
        await engine.stats()


async def test_what_the_tail_took_fits_into_a_full_store(kit: LmdbKit) -> None:
    engine = await kit.open(small=True)
    owner = await LogOwner.acquire(engine)
    expected: dict[int, bytes] = {}
    for size in (50_000, 1000):
        while True:
            item = owner.make(bytes(size))
            (answer,) = await engine.append([item])
            if not isinstance(answer, int):
                owner.idx -= 1
                owner.chain = module.decode_blob(item.blob).previous
                break
            expected[int(answer)] = item.blob
    kit.lose_process()
    engine = kit.make(small=True)
    kit.engines.append(engine)
    await engine.open()
    assert await read_all(engine) == expected


async def test_a_store_of_a_leveret_without_tails_gets_one(kit: LmdbKit) -> None:
    await (await kit.open()).close()
    tail_of(kit).unlink()
    _, expected = await crashed_with(kit, b"1")
    assert tail_of(kit).stat().st_size == FILE_BYTES
    assert await read_all(await kit.crash()) == expected
