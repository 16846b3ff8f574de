"""A damaged store is either recovered in full, or refused with a sentence: never a crash, never a silent gap.

By default a sample of all bits is flipped; LEVERET_FLIP_STEP=1 flips every one (about an hour).
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from small_store import Recovered, make_small_store, recover

from leveret.storage.check import check_directory
from leveret.storage.engine import BEGINNING, Corrupt, EngineError
from leveret.storage.lmdb_read import read_blobs
from leveret.storage.lmdb_store import Store

PAGE_BYTES = 4096
META_PAGES = range(2)
FLIP_STEP = int(os.environ.get("LEVERET_FLIP_STEP", "4099"))  # a prime, so that all bit places come up


class DamagedStore:
    """A small store whose data file is damaged and mended again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "log" / "data.mdb"
        self.sound = self.data.read_bytes()
        self.expected: Recovered = recover(path)

    def damage(self, data: bytes) -> None:
        self.data.write_bytes(data)

    def mend(self) -> None:
        self.data.write_bytes(self.sound)

    def outcome(self) -> str:
        """What the engine says: "recovered", or its error's sentence. Anything else fails the test."""
        try:
            recovered = recover(self.path)
        except EngineError as error:
            return str(error)
        assert recovered == self.expected, "a silent difference"
        return "recovered"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DamagedStore:
    path = tmp_path_factory.mktemp("damaged") / "data"
    make_small_store(path)
    return DamagedStore(path)


@pytest.fixture(autouse=True)
def _mend(store: DamagedStore) -> Iterator[None]:
    yield
    store.mend()


def flip(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_the_undamaged_store_is_sound(store: DamagedStore) -> None:
    assert store.outcome() == "recovered"
    report = check_directory(store.path)
    assert report.is_sound, report.findings
    assert (report.blobs, report.records, report.checkpoints, report.metadata_values) == (22, 22, 1, 1)


def test_no_flipped_bit_goes_unnoticed(store: DamagedStore) -> None:
    outcomes = set()
    for bit in range(0, len(store.sound) * 8, FLIP_STEP):
        store.damage(flip(store.sound, bit))
        outcome = store.outcome()
        outcomes.add(outcome)
        if outcome != "recovered":
            # Recovery reads the tail; the checker reads all, so it must see at least as much.
            assert not check_directory(store.path).is_sound
    assert "recovered" in outcomes, "flips in unused pages must do no harm"
    assert len(outcomes) > 10


def test_no_flipped_bit_of_the_meta_pages_rolls_the_store_back(store: DamagedStore) -> None:
    noticed = 0
    for page in META_PAGES:
        for bit in range(page * PAGE_BYTES * 8, (page * PAGE_BYTES + 16 + 136) * 8, max(1, FLIP_STEP % 11)):
            store.damage(flip(store.sound, bit))
            noticed += store.outcome() != "recovered"
    assert noticed > 300


@pytest.mark.parametrize("database", [b"log", b"meta", b"state", b"checkpoint"])
def test_no_flipped_flag_of_a_database_hides_what_is_in_it(store: DamagedStore, database: bytes) -> None:
    # LMDB's verifier accepts some: with INTEGERKEY set, one single key is in order, but is not found.
    places = [match.end() + 4 for match in re.finditer(re.escape(database), store.sound)]
    noticed = 0
    for place in places[:40]:
        for bit in (1, 3):
            store.damage(flip(store.sound, place * 8 + bit))
            noticed += store.outcome() != "recovered"
    assert noticed


def test_the_checker_finds_damage_that_recovery_does_not_meet(store: DamagedStore) -> None:
    # A blob below the checkpoint: recovery has no need of it, its queue will.
    blob = next(blob for position, blob in _all_blobs(store).items() if position == 3)
    other = flip(blob, (len(blob) - 1) * 8)
    store.damage(store.sound.replace(blob, other))  # where it lies, and where earlier transactions had it
    assert store.outcome() == "recovered"
    (finding,) = check_directory(store.path).findings
    assert finding.startswith("group 0, position 3: the blob's CRC is")


def test_every_zeroed_page_is_survived_or_named(store: DamagedStore) -> None:
    for page in range(len(store.sound) // PAGE_BYTES):
        start = page * PAGE_BYTES
        store.damage(store.sound[:start] + bytes(PAGE_BYTES) + store.sound[start + PAGE_BYTES :])
        outcome = store.outcome()
        assert outcome == "recovered" or not check_directory(store.path).is_sound


def test_every_truncation_is_called_one(store: DamagedStore) -> None:
    whole = len(store.sound)
    for length in [*range(0, whole, PAGE_BYTES), *range(100, whole, PAGE_BYTES), whole - 1]:
        store.damage(store.sound[:length])
        assert "is truncated" in store.outcome()
        (finding,) = check_directory(store.path).findings
        assert "is truncated" in finding


def test_bytes_behind_the_end_do_no_harm(store: DamagedStore) -> None:
    store.damage(store.sound + bytes(10 * PAGE_BYTES))
    assert store.outcome() == "recovered"


def test_a_missing_data_file_is_named(store: DamagedStore) -> None:
    store.data.unlink()
    assert "data.mdb cannot be read: No such file or directory" in store.outcome()
    assert not check_directory(store.path).is_sound


def test_an_empty_directory_has_no_store(tmp_path: Path) -> None:
    (finding,) = check_directory(tmp_path).findings
    assert "holds no store" in finding


def test_another_lmdb_store_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with lmdb.open(str(tmp_path / "log"), max_dbs=4, lib_version=0) as env:
        for name in (b"log", b"checkpoint", b"meta", b"state"):
            env.open_db(name)
    with pytest.raises(Corrupt, match="it has no superblock"):
        recover(tmp_path)


def test_damage_during_a_copy_shows_in_the_copy(store: DamagedStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.path, copy)
    data = copy / "log" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 20 * PAGE_BYTES])
    with pytest.raises(Corrupt, match="is truncated"):
        recover(copy)


def _all_blobs(store: DamagedStore) -> dict[int, bytes]:
    opened = Store.open(store.path / "log", readonly=True)
    found, _ = read_blobs(0, BEGINNING, None, opened)
    opened.close()
    return dict(found)
