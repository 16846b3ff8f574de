"""The log's B-tree followed by our own hand, against what LMDB itself says."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from leveret.storage.engine import Corrupt
from leveret.storage.lmdb_rows import blob_key
from leveret.storage.lmdb_tree import Tree

PAGE = 4096


class Log:
    """A database filled with values of any size, and the tree on its file."""

    def __init__(self, path: Path) -> None:
        self.env = lmdb.open(os.fspath(path), map_size=2**30, max_dbs=1, lib_version=0)
        self.database = self.env.open_db(b"log")
        self.data = path / "data.mdb"

    def put(self, values: dict[bytes, bytes]) -> None:
        with self.env.begin(write=True) as txn:
            for key, value in values.items():
                txn.put(key, value, db=self.database)

    def delete(self, keys: list[bytes]) -> None:
        with self.env.begin(write=True) as txn:
            for key in keys:
                txn.delete(key, db=self.database)

    def record(self) -> bytes:
        with self.env.begin() as txn:
            return bytes(txn.get(b"log"))

    def read(self, first: bytes = b"") -> dict[bytes, bytes]:
        descriptor = os.open(self.data, os.O_RDONLY)
        try:
            tree = Tree(self.data, descriptor, PAGE, self.record())
            return {key: tree.read(offset, size) for key, offset, size in tree.entries(first)}
        finally:
            os.close(descriptor)

    def damage(self, page: int, offset: int, value: bytes) -> None:
        with self.data.open("r+b") as file:
            file.seek(page * PAGE + offset)
            file.write(value)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.env.close()


def some_values(rng: random.Random, count: int) -> dict[bytes, bytes]:
    return {
        blob_key(rng.randrange(4), rng.randrange(2**20)): rng.randbytes(
            rng.choice((0, 1, 90, 2000, 2100, 9000))
        )
        for _ in range(count)
    }


@pytest.mark.parametrize("count", [0, 1, 5, 40, 3000])
def test_it_finds_what_was_put_and_nothing_that_was_deleted(log: Log, count: int) -> None:
    rng = random.Random(count)
    values = some_values(rng, count)
    log.put(values)
    assert log.read() == values
    gone = [key for key in values if rng.random() < 0.7]
    log.delete(gone)
    left = {key: values[key] for key in sorted(values) if key not in gone}
    found = log.read()
    assert found == left
    assert list(found) == sorted(left)
    for first in [blob_key(rng.randrange(5), rng.randrange(2**20)) for _ in range(50)] + list(left)[:50]:
        assert list(log.read(first)) == [key for key in left if key >= first]


@pytest.mark.parametrize("depth_of_damage", ["root", "leaf", "node", "beyond"])
def test_damage_is_named(log: Log, depth_of_damage: str) -> None:
    log.put({blob_key(0, n): bytes(3000) for n in range(1, 400)})
    root = struct.unpack("=Q", log.record()[-8:])[0]
    offset_of_first_node = struct.unpack_from("=H", log.data.read_bytes(), root * PAGE + 16)[0]
    child = struct.unpack_from("=I", log.data.read_bytes(), root * PAGE + offset_of_first_node)[0]
    match depth_of_damage:
        case "root":
            log.damage(root, 10, b"\x00\x00")
        case "leaf":
            log.damage(child, 0, struct.pack("=Q", child + 1))
        case "node":
            log.damage(child, 16, struct.pack("=H", PAGE - 2))
        case "beyond":
            log.damage(root, offset_of_first_node, struct.pack("=I", 2**31))
    with pytest.raises(Corrupt, match="LMDB's pages are damaged"):
        log.read()


def test_a_record_that_is_not_one_is_refused(tmp_path: Path) -> None:
    for record in (None, b"", bytes(47)):
        with pytest.raises(Corrupt, match="a database's record is not one"):
            Tree(tmp_path, -1, PAGE, record)
