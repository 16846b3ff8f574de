"""The integrity checker: `leveret check DATA_DIR`, and after every test that used a store.

It changes nothing, trusts nothing, and goes from the outside in, because what is inside cannot be touched
safely when the outside is broken: the directory, LMDB's meta pages and file size, LMDB's page structure, the
superblock and root row, the tail, then every row, blob and record. It never raises for bad data: everything
wrong becomes a finding, a sentence that says what and where.

What records and checkpoints mean it does not know. Whoever does gets the log of each group to look into
(`Inspect`), while it is checked, so that it is read once.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, takewhile
from pathlib import Path
from typing import Any

from .blob import CHAIN_START, Blob, chain_hash, decode_blob, iter_records
from .directory import DataDirectory
from .engine import Append, Corrupt, EngineError
from .lmdb_read import iter_chunks, join_chunks
from .lmdb_rows import (
    BLOB_KEY_BYTES,
    EPOCH_PREFIX,
    KEY_ROOT,
    KEY_SUPERBLOCK,
    KEY_TAIL,
    Root,
    blob_key,
    unpack_blob_key,
    unpack_chunk_key,
    unpack_epoch,
    unpack_epoch_key,
    unpack_meta,
)
from .lmdb_store import Store, read_meta_pages, verify_pages
from .tail import TAIL_NAME, read_items

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


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """What one group has stored, for those who know what it means. Their findings go into the report, too."""

    group: int
    report: Report
    checkpoint_position: int
    """0 when there is no checkpoint."""
    checkpoint: bytes | None
    """None when there is none, or when it is damaged; the report says so then."""
    end: int
    """The last position."""
    tail: Iterator[tuple[int, Blob]]
    """Position and content of the blobs after the checkpoint, up to the first one that is not in order."""
    blobs: Iterator[tuple[int, Blob | None]]
    """The same of all blobs; None of what is damaged. They are checked as they are taken."""


Inspect = Callable[[CheckedLog], None]


def check_directory(path: Path, inspect: Inspect | None = None) -> Report:
    """Check a data directory that nobody uses."""
    report = Report()
    try:
        directory = DataDirectory.open(path, create=False)
    except EngineError as error:
        report.add(str(error))
        return report
    try:
        if directory.log.exists():
            check_store(directory.log, report, inspect)
        else:
            report.add(f"{path} holds no store: {directory.log} does not exist")
    finally:
        directory.close()
    return report


def check_store(
    path: Path, report: Report, inspect: Inspect | None = None, *, tail: Path | None = None
) -> None:
    """Check the LMDB store in a directory, adding to the report. Its tail lies there, too, or at `tail`."""
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
        root, key = store.check(), store.tail_key()
        waiting = [] if key is None else read_items(tail or path / TAIL_NAME, key, root.groups)
        with store.reading() as txn:
            _Walk(store, txn, root, waiting, report, inspect).run()
    except EngineError as error:
        report.add(str(error))
    finally:
        store.close()


class _Walk:
    """One pass over all rows of a store."""

    def __init__(
        self,
        store: Store,
        txn: Any,
        root: Root,
        waiting: Iterable[Append],
        report: Report,
        inspect: Inspect | None,
    ) -> None:
        """`waiting`: what lies in the tail."""
        self._store = store
        self._txn = txn
        self._root = root
        self._waiting: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for item in waiting:
            self._waiting[item.group].append((root.group(item.group).place(item), item.blob))
        self._report = report
        self._inspect = inspect
        # (fences, epochs) of each group, both rising: an epoch's positions lie behind its fence.
        self._epochs: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))

    def run(self) -> None:
        self._each(self._store.state, self._check_state_row)
        self._check_logs()
        self._each(self._store.checkpoint, self._check_chunk_key)
        self._each(self._store.meta, self._check_meta_row)

    def _rows(self, database: Any, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=database) as cursor:
            if not first or cursor.set_range(first):
                yield from cursor

    def _each(self, database: Any, check: Callable[[bytes, bytes], None]) -> None:
        for key, value in self._rows(database):
            try:
                check(key, value)
            except Corrupt as error:
                self._report.add(str(error))

    def _check_state_row(self, key: bytes, value: bytes) -> None:
        if key in {KEY_ROOT, KEY_SUPERBLOCK, KEY_TAIL}:  # they were looked at before
            return
        if not key.startswith(EPOCH_PREFIX):
            raise Corrupt(f"a row {key!r} does not belong into the state database")
        group, epoch = unpack_epoch_key(key)
        fences, epochs = self._epochs[group]
        fences.append(unpack_epoch(key, value)[0])
        epochs.append(epoch)

    def _check_logs(self) -> None:
        seen = set()
        by_group = groupby(self._rows(self._store.log), key=lambda row: unpack_blob_key(row[0])[0])
        for group, rows in by_group:
            seen.add(group)
            self._check_log(group, rows)
        for group in self._root.groups.keys() - seen:
            self._check_log(group, iter(()))

    def _check_log(self, group: int, rows: Iterator[tuple[bytes, bytes]]) -> None:
        blobs = self._checked_blobs(group, rows)
        checkpoint = self._read_checkpoint(group)
        if self._inspect is not None:
            at = self._root.checkpoint(group).position
            end = self._root.group(group).position + len(self._waiting[group])
            self._inspect(CheckedLog(group, self._report, at, checkpoint, end, self._tail(group), blobs))
        for _ in blobs:
            pass  # what nobody looked into is checked, too

    def _checked_blobs(
        self, group: int, rows: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[int, Blob | None]]:
        # That the last one is there, and nothing behind it, `Store.check` has seen.
        expected, previous = 1, CHAIN_START
        needed_from = self._root.checkpoint(group).position + 1
        for position, raw in chain(_joined(rows), self._waiting[group]):
            if position > max(expected, needed_from):
                first = max(expected, needed_from)
                self._report.add(f"group {group}: blobs are missing from position {first} to {position - 1}")
            try:
                blob = self._check_blob(group, position, raw, previous if position == expected else None)
            except Corrupt as error:
                self._report.add(f"group {group}, position {position}: {error}")
                yield position, None
            else:
                yield position, blob
            expected, previous = position + 1, chain_hash(raw)

    def _tail(self, group: int) -> Iterator[tuple[int, Blob]]:
        expected = self._root.checkpoint(group).position + 1
        rows = self._rows(self._store.log, blob_key(group, expected))
        moved = _joined(takewhile(lambda row: unpack_blob_key(row[0])[0] == group, rows))
        for position, raw in chain(moved, self._waiting[group]):
            if position != expected:
                return
            try:
                yield position, decode_blob(raw)
            except Corrupt:
                return
            expected += 1

    def _check_blob(self, group: int, position: int, raw: bytes, previous: bytes | None) -> Blob:
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
        return blob

    def _read_checkpoint(self, group: int) -> bytes | None:
        entry = self._root.checkpoint(group)
        if not entry.generation:
            return None
        chunks: list[bytes] = []
        try:
            while some := list(iter_chunks(self._txn, group, entry, chunks, self._store)):
                chunks += some
            checkpoint = join_chunks(group, entry, chunks)
        except Corrupt as error:
            self._report.add(str(error))
            return None
        self._report.checkpoints += 1
        return checkpoint

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


def _joined(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Position and content of each blob, whose pieces follow each other."""
    for key, pieces in groupby(rows, key=lambda row: row[0][:BLOB_KEY_BYTES]):
        yield unpack_blob_key(key)[1], b"".join(piece for _, piece in pieces)
