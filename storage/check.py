"""The integrity checker: `leveret check DATA_DIR`, and after every test that used a store.

It changes nothing, trusts nothing, and goes from the outside in, because what is inside cannot be touched
safely when the outside is broken: the directory, LMDB's meta pages and file size, LMDB's page structure, the
superblock and root row, then every row, blob and record. It never raises for bad data: everything wrong
becomes a finding, a sentence that says what and where.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from .blob import CHAIN_START, chain_hash, decode_blob, iter_records
from .directory import DataDirectory
from .engine import Corrupt, EngineError
from .lmdb_read import iter_chunks, join_chunks
from .lmdb_rows import (
    BLOB_KEY_BYTES,
    EPOCH_PREFIX,
    KEY_ROOT,
    KEY_SUPERBLOCK,
    Root,
    unpack_blob_key,
    unpack_chunk_key,
    unpack_epoch,
    unpack_epoch_key,
    unpack_meta,
)
from .lmdb_store import Store, read_meta_pages, verify_pages

FINDINGS_MAX = 100
"""One broken page can spoil thousands of blobs; the first findings say it all."""


@dataclass(slots=True)
class Report:
    """What the checker saw."""

    findings: list[str] = field(default_factory=list)
    findings_left_out: int = 0
    blobs: int = 0
    records: int = 0
    payload_bytes: int = 0
    checkpoints: int = 0
    metadata_values: int = 0

    @property
    def is_sound(self) -> bool:
        return not self.findings

    def add(self, finding: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.findings_left_out += 1


def check_directory(path: Path) -> Report:
    """Check a data directory that nobody uses."""
    report = Report()
    try:
        directory = DataDirectory.open(path, create=False)
    except EngineError as error:
        report.add(str(error))
        return report
    try:
        if directory.log.exists():
            check_store(directory.log, report)
        else:
            report.add(f"{path} holds no store: {directory.log} does not exist")
    finally:
        directory.close()
    return report


def check_store(path: Path, report: Report) -> None:
    """Check the LMDB store in a directory, adding to the report."""
    try:
        read_meta_pages(path).close()
        problems = verify_pages(path)
        for problem in problems:
            report.add(problem)
        if problems:
            return  # liblmdb may crash on pages like these
        store = Store.open(path, readonly=True)
    except EngineError as error:
        report.add(str(error))
        return
    try:
        root = store.check()
        with store.reading() as txn:
            _Walk(store, txn, root, report).run()
    except EngineError as error:
        report.add(str(error))
    finally:
        store.close()


class _Walk:
    """One pass over all rows of a store."""

    def __init__(self, store: Store, txn: Any, root: Root, report: Report) -> None:
        self._store = store
        self._txn = txn
        self._root = root
        self._report = report
        # (fences, epochs) of each group, both rising: an epoch's positions lie behind its fence.
        self._epochs: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))

    def run(self) -> None:
        self._each(self._store.state, self._check_state_row)
        self._check_blobs()
        for group in self._root.checkpoints:
            self._check_checkpoint(group)
        self._each(self._store.checkpoint, self._check_chunk_key)
        self._each(self._store.meta, self._check_meta_row)

    def _rows(self, database: Any) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=database) as cursor:
            yield from cursor

    def _each(self, database: Any, check: Callable[[bytes, bytes], None]) -> None:
        for key, value in self._rows(database):
            try:
                check(key, value)
            except Corrupt as error:
                self._report.add(str(error))

    def _check_state_row(self, key: bytes, value: bytes) -> None:
        if key in {KEY_ROOT, KEY_SUPERBLOCK}:  # `Store.check` saw them
            return
        if not key.startswith(EPOCH_PREFIX):
            raise Corrupt(f"a row {key!r} does not belong into the state database")
        group, epoch = unpack_epoch_key(key)
        fences, epochs = self._epochs[group]
        fences.append(unpack_epoch(key, value)[0])
        epochs.append(epoch)

    def _check_blobs(self) -> None:
        # That the last one is there, and nothing behind it, `Store.check` has seen.
        group, expected, previous = -1, 1, CHAIN_START
        by_blob = groupby(self._rows(self._store.log), key=lambda row: row[0][:BLOB_KEY_BYTES])
        for key, rows in by_blob:
            found, position = unpack_blob_key(key)
            blob = b"".join(value for _, value in rows)
            if found != group:
                group, expected, previous = found, 1, CHAIN_START
            checkpoint = self._root.checkpoint(group).position
            if position > max(expected, checkpoint + 1):
                first = max(expected, checkpoint + 1)
                self._report.add(f"group {group}: blobs are missing from position {first} to {position - 1}")
            try:
                self._check_blob(group, position, blob, previous if position == expected else None)
            except Corrupt as error:
                self._report.add(f"group {group}, position {position}: {error}")
            expected, previous = position + 1, chain_hash(blob)

    def _check_blob(self, group: int, position: int, raw: bytes, previous: bytes | None) -> None:
        """Check one blob; `previous` is None where the one before it was dropped."""
        blob = decode_blob(raw)
        self._report.blobs += 1
        self._report.payload_bytes += len(blob.payload)
        fences, epochs = self._epochs[group]
        owner = bisect_left(fences, position) - 1
        if owner < 0:
            raise Corrupt("no epoch is known that could have written it")
        place = (group, epochs[owner], position - fences[owner])
        if (blob.group, blob.epoch, blob.idx) != place:
            raise Corrupt(
                f"its header says group {blob.group}, epoch {blob.epoch}, idx {blob.idx}; "
                f"here belongs group {place[0]}, epoch {place[1]}, idx {place[2]}"
            )
        if previous is not None and blob.previous != previous:
            raise Corrupt("the hash chain is broken: it does not follow the blob before it")
        self._report.records += sum(1 for _ in iter_records(blob.payload))

    def _check_checkpoint(self, group: int) -> None:
        entry = self._root.checkpoint(group)
        chunks: list[bytes] = []
        try:
            while some := list(iter_chunks(self._txn, group, entry, chunks, self._store)):
                chunks += some
            join_chunks(group, entry, chunks)
        except Corrupt as error:
            self._report.add(str(error))
            return
        self._report.checkpoints += 1

    def _check_chunk_key(self, key: bytes, value: bytes) -> None:
        # A crash may leave chunks of the next generation; any other was swept when it was replaced.
        group, generation, number = unpack_chunk_key(key)
        if generation > self._root.checkpoint(group).generation + 1:
            raise Corrupt(
                f"group {group}: chunk {number} is of generation {generation}, which was never begun"
            )

    def _check_meta_row(self, key: bytes, value: bytes) -> None:
        unpack_meta(key, value)
        self._report.metadata_values += 1
