"""What the checker says about stores that are in order for LMDB, but do not hold what was written."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_owner import LogOwner
from small_store import make_small_store, recover

from leveret.storage.blob import Blob, decode_blob, encode_blob, pack_record
from leveret.storage.check import FINDINGS_MAX, CheckedLog, check_directory
from leveret.storage.directory import DataDirectory
from leveret.storage.engine import Append, Corrupt
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.lmdb_rows import (
    KEY_ROOT,
    KEY_SUPERBLOCK,
    GroupState,
    Root,
    blob_key,
    chunk_key,
    epoch_key,
    pack_root,
    seal,
)
from leveret.storage.lmdb_store import Store

Tamper = Callable[[Store, Any, Root], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_small_store(tmp_path / "data")
    return tmp_path / "data"


def tamper(path: Path, change: Tamper) -> None:
    """Change rows as a broken program would: the transaction itself is a proper one."""
    store = Store.open(path / "log")
    with store.env.begin(write=True) as txn:
        root, _ = store.read_root(txn)
        change(store, txn, root)
        txn.put(KEY_ROOT, pack_root(root, store.stamp(txn)), db=store.state)
    store.close()


def replace_blob(position: int, make: Callable[[bytes], bytes]) -> Tamper:
    def change(store: Store, txn: Any, root: Root) -> None:
        key = blob_key(0, position)
        txn.put(key, make(txn.get(key, db=store.log)), db=store.log)

    return change


def delete_blobs(*positions: int) -> Tamper:
    def change(store: Store, txn: Any, root: Root) -> None:
        for position in positions:
            assert txn.delete(blob_key(0, position), db=store.log)

    return change


def test_a_blob_missing_from_the_tail_is_named(path: Path) -> None:
    tamper(path, delete_blobs(8, 9))
    assert check_directory(path).findings == ["group 0: blobs are missing from position 8 to 9"]
    with pytest.raises(Corrupt, match="the blob at position 8 is missing"):
        recover(path)


def test_a_blob_missing_below_the_checkpoint_was_dropped(path: Path) -> None:
    tamper(path, delete_blobs(3, 6))
    assert check_directory(path).is_sound


def test_the_last_blob_must_be_there(path: Path) -> None:
    tamper(path, delete_blobs(25))
    assert check_directory(path).findings == ["group 0: the last blob, at position 25, is missing"]
    with pytest.raises(Corrupt, match="the last blob, at position 25, is missing"):
        recover(path)


def test_nothing_may_lie_beyond_the_end(path: Path) -> None:
    tamper(path, lambda store, txn, root: txn.put(blob_key(0, 26), b"?", db=store.log))
    with pytest.raises(Corrupt, match="a blob at position 26 lies beyond the end of the log"):
        recover(path)


def test_a_log_that_lost_its_whole_tail_is_noticed(path: Path) -> None:
    tamper(path, delete_blobs(*range(7, 26)))
    with pytest.raises(Corrupt, match="the last blob"):
        recover(path)


def test_an_exchanged_last_blob_is_noticed(path: Path) -> None:
    tamper(path, replace_blob(25, lambda blob: blob[:-1] + b"?"))
    assert len(check_directory(path).findings) == 1
    tamper(path, replace_blob(25, lambda blob: blob[:40] + b"?" + blob[41:]))
    with pytest.raises(Corrupt, match="position 25 is not the one that was written last"):
        recover(path)


def test_a_blob_in_the_wrong_place_is_noticed(path: Path) -> None:
    def move(store: Store, txn: Any, root: Root) -> None:
        txn.put(blob_key(0, 9), txn.get(blob_key(0, 8), db=store.log), db=store.log)

    tamper(path, move)
    assert (
        "group 0, position 9: its header says group 0, epoch 1, idx 8; here belongs group 0, epoch 1, idx 9"
        in check_directory(path).findings
    )


def test_a_well_made_blob_of_somebody_else_breaks_the_chain(path: Path) -> None:
    forged = encode_blob(0, 1, 9, bytes(16), pack_record(1, b"forged"))
    tamper(path, replace_blob(9, lambda _: forged))
    assert check_directory(path).findings == [
        "group 0, position 9: the hash chain is broken: it does not follow the blob before it",
        "group 0, position 10: the hash chain is broken: it does not follow the blob before it",
    ]


def test_records_that_are_framed_wrong_are_noticed(path: Path) -> None:
    async def append() -> None:
        engine = LmdbEngine(path)
        await engine.open()
        owner = await LogOwner.acquire(engine)
        blob = encode_blob(0, owner.lease.epoch, 1, owner.chain, b"\x01\x00\x00\x00\x09short")
        await owner.append_item(Append(0, owner.lease.epoch, 1, blob))
        await engine.close()

    asyncio.run(append())
    assert check_directory(path).findings == [
        "group 0, position 26: a record at byte 5 of the payload, of 9 bytes, ends 4 beyond it"
    ]


def test_a_newer_blob_is_called_newer(path: Path) -> None:
    tamper(path, replace_blob(9, lambda blob: blob[:4] + b"\0\2" + blob[6:]))
    assert any(
        "written by a newer Leveret: version 2" in finding for finding in check_directory(path).findings
    )


def test_a_newer_store_is_called_newer(path: Path) -> None:
    def make_newer(store: Store, txn: Any, root: Root) -> None:
        txn.put(KEY_SUPERBLOCK, seal(KEY_SUPERBLOCK, json.dumps({"format": 3}).encode()), db=store.state)

    tamper(path, make_newer)
    with pytest.raises(Corrupt, match="written by a newer Leveret: it has store format 3, this one knows 2"):
        recover(path)
    assert len(check_directory(path).findings) == 1


def test_a_missing_root_row_is_named(path: Path) -> None:
    store = Store.open(path / "log")
    with store.env.begin(write=True) as txn:
        txn.delete(KEY_ROOT, db=store.state)
    store.close()
    with pytest.raises(Corrupt, match="the root row is missing"):
        recover(path)


def test_a_transaction_of_a_foreign_program_is_noticed(path: Path) -> None:
    store = Store.open(path / "log")
    with store.env.begin(write=True) as txn:
        txn.put(b"foreign", b"", db=store.meta)
    store.close()
    with pytest.raises(Corrupt, match=r"transaction \d+ shows the root row of \d+"):
        recover(path)


def test_a_missing_checkpoint_chunk_is_named(path: Path) -> None:
    tamper(path, lambda store, txn, root: txn.delete(chunk_key(0, 1, 0), db=store.checkpoint))
    assert check_directory(path).findings == [
        "group 0: the checkpoint at position 6 is damaged: chunk 0 is missing"
    ]
    with pytest.raises(Corrupt, match="the checkpoint at position 6 is damaged: chunk 0 is missing"):
        recover(path)


def test_an_altered_checkpoint_is_named(path: Path) -> None:
    tamper(
        path,
        lambda store, txn, root: txn.put(chunk_key(0, 1, 0), b"state" * 599 + b"stale", db=store.checkpoint),
    )
    sentence = "group 0: the checkpoint at position 6 is damaged: its CRC is wrong"
    assert check_directory(path).findings == [sentence]
    with pytest.raises(Corrupt, match=sentence):
        recover(path)


def test_a_missing_epoch_is_named(path: Path) -> None:
    tamper(path, lambda store, txn, root: txn.delete(epoch_key(0, 1), db=store.state))
    assert (
        "group 0, position 3: no epoch is known that could have written it" in check_directory(path).findings
    )


def test_foreign_rows_are_named(path: Path) -> None:
    def add(store: Store, txn: Any, root: Root) -> None:
        txn.put(b"foreign", b"", db=store.state)
        txn.put(chunk_key(0, 9, 0), b"", db=store.checkpoint)
        txn.put(b"short", b"", db=store.checkpoint)

    tamper(path, add)
    assert sorted(check_directory(path).findings) == [
        "a row b'foreign' does not belong into the state database",
        "group 0: chunk 0 is of generation 9, which was never begun",
        "the checkpoint database holds a damaged key: 73686f7274",
    ]


def test_a_key_of_the_log_that_is_none_is_named(path: Path) -> None:
    tamper(path, lambda store, txn, root: txn.put(b"\0\0\0\0short", b"", db=store.log))
    assert "the log database holds a damaged key: 0000000073686f7274" in check_directory(path).findings


def test_an_altered_metadata_value_is_named(path: Path) -> None:
    tamper(path, lambda store, txn, root: txn.put(b"key", bytes(20), db=store.meta))
    with pytest.raises(Corrupt, match="the metadata value b'key' is damaged: its CRC is wrong"):
        recover(path)


def test_a_flood_of_findings_is_cut_off(path: Path) -> None:
    def forget(store: Store, txn: Any, root: Root) -> None:
        for position in range(27, 27 + 3 * FINDINGS_MAX, 2):
            txn.put(blob_key(0, position), b"?", db=store.log)
        state = root.group(0)
        root.groups[0] = GroupState(26 + 3 * FINDINGS_MAX, state.epoch, state.fence, state.chain)
        txn.put(blob_key(0, 26 + 3 * FINDINGS_MAX), txn.get(blob_key(0, 25), db=store.log), db=store.log)

    tamper(path, forget)
    report = check_directory(path)
    assert len(report.findings) == FINDINGS_MAX
    assert report.findings_left_out > FINDINGS_MAX


class Inspector:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.logs: list[CheckedLog] = []
        self.tail: list[int] = []
        self.blobs: dict[int, Blob | None] = {}

    def __call__(self, log: CheckedLog) -> None:
        self.logs.append(log)
        self.tail = [position for position, _ in log.tail]
        self.blobs = dict(log.blobs)
        log.report.add("seen")


def test_somebody_may_look_into_the_log(path: Path) -> None:
    inspector = Inspector()
    report = check_directory(path, inspector)
    (log,) = inspector.logs
    assert (log.group, log.checkpoint_position, log.checkpoint, log.end) == (0, 6, b"state" * 600, 25)
    assert inspector.tail == list(range(7, 26))
    assert list(inspector.blobs) == [3, 5, 6, *range(7, 26)]
    assert report.findings == ["seen"]
    assert report.blobs == len(inspector.blobs)
    assert inspector.blobs[25] == decode_blob(read_blob(path, 25))


def read_blob(path: Path, position: int) -> bytes:
    found = []
    tamper(path, lambda store, txn, root: found.append(txn.get(blob_key(0, position), db=store.log)))
    blob: bytes = found[0]
    return blob


def test_who_looks_into_the_log_is_not_shown_what_is_damaged(path: Path) -> None:
    tamper(path, replace_blob(3, lambda blob: blob[:-1] + b"?"))
    tamper(path, replace_blob(9, lambda blob: blob[:-1] + b"?"))
    tamper(path, lambda store, txn, root: txn.delete(chunk_key(0, 1, 0), db=store.checkpoint))
    inspector = Inspector()
    report = check_directory(path, inspector)
    assert (inspector.logs[0].checkpoint_position, inspector.logs[0].checkpoint) == (6, None)
    assert inspector.tail == [7, 8]
    assert [position for position, blob in inspector.blobs.items() if blob is None] == [3, 9]
    assert len(report.findings) == 4  # with "seen"


def test_the_log_after_a_gap_is_not_its_tail(path: Path) -> None:
    tamper(path, delete_blobs(8))
    inspector = Inspector()
    check_directory(path, inspector)
    assert inspector.tail == [7]
    assert 9 in inspector.blobs


def test_a_log_without_blobs_is_looked_into(path: Path) -> None:
    async def acquire() -> None:
        engine = LmdbEngine(path)
        await engine.open()
        await engine.acquire(7, "test")
        await engine.close()

    asyncio.run(acquire())
    inspector = Inspector()
    check_directory(path, inspector)
    assert [log.group for log in inspector.logs] == [0, 7]
    assert (inspector.logs[1].checkpoint, inspector.logs[1].end) == (None, 0)


def test_what_nobody_looked_into_is_checked(path: Path) -> None:
    tamper(path, replace_blob(9, lambda blob: blob[:-1] + b"?"))
    assert len(check_directory(path, lambda log: None).findings) == 1


def test_a_directory_in_use_is_not_checked(path: Path) -> None:
    user = DataDirectory.open(path)
    (finding,) = check_directory(path).findings
    assert "is in use by the process with pid" in finding
    user.close()


def test_a_missing_directory_is_a_finding(tmp_path: Path) -> None:
    (finding,) = check_directory(tmp_path / "missing").findings
    assert "does not exist" in finding
