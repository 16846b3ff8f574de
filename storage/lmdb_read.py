"""What the LMDB engine reads: each function is one short read transaction on the reader thread.

Everything is copied out of the map before the transaction ends. The root row is read in the same transaction
as the data, so the two always belong together.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import google_crc32c

from .engine import Corrupt, EngineStats, Position, Revision
from .lmdb_rows import BLOB_KEY_BYTES, CheckpointEntry, blob_key, chunk_key, unpack_blob_key, unpack_meta
from .lmdb_store import Store
from .lmdb_tree import Extent, Tree

READ_BYTES = 1024 * 1024
"""What one transaction copies (or one blob): a reader pins every page freed meanwhile, so it is short."""

LOOKUP_BYTES = 8192
"""What finding a blob counts for beside its size."""

SIZES_PER_READ = 8192
"""Takes about 10 ms."""

LAST_POSITION = Position(2**64 - 1)


def read_blobs(
    group: int, after: Position, upto: Position | None, store: Store
) -> tuple[list[tuple[Position, bytes]], Position]:
    """The first blobs in (after, upto], and `upto`, which is the end of the log where None was given.

    Raises:
        Corrupt: a blob is missing. Only those up to the checkpoint can have been dropped.
    """
    found: list[tuple[Position, bytes]] = []
    copied, expected = 0, after + 1
    with store.reading() as txn:
        root, _ = store.read_root(txn)
        end = Position(root.group(group).position if upto is None else upto)
        needed_from = root.checkpoint(group).position + 1
        tree = store.log_tree(txn)
        for position, extents in _extents(tree, group, after, end):
            if position > max(expected, needed_from):
                raise _missing(group, max(expected, needed_from))
            blob = b"".join(tree.read(*extent) for extent in extents)
            found.append((position, blob))
            copied, expected = copied + len(blob), position + 1
            if copied >= READ_BYTES:
                return found, end
        if end >= max(expected, needed_from):
            raise _missing(group, max(expected, needed_from))
    return found, end


def read_many(group: int, positions: Sequence[Position], store: Store) -> list[bytes | None]:
    """The blobs at these positions; as many read transactions as it takes to keep each one short."""
    found: list[bytes | None] = []
    while len(found) < len(positions):
        copied = 0
        with store.reading() as txn:
            tree = store.log_tree(txn)
            for position in islice(positions, len(found), None):
                extents = tree.find(blob_key(group, position))
                blob = b"".join(tree.read(*extent) for extent in extents)
                found.append(blob if extents else None)
                copied += LOOKUP_BYTES + len(blob)
                if copied >= READ_BYTES:
                    break
    return found


def read_sizes(group: int, after: Position, store: Store) -> list[tuple[Position, int]]:
    """Positions and sizes of the next SIZES_PER_READ blobs; fewer at the end of the log."""
    with store.reading() as txn:
        blobs = islice(_extents(store.log_tree(txn), group, after, LAST_POSITION), SIZES_PER_READ)
        return [(position, sum(size for _, size in extents)) for position, extents in blobs]


def _extents(
    tree: Tree, group: int, after: Position, upto: Position
) -> Iterator[tuple[Position, list[Extent]]]:
    """Position of each of the group's blobs in (after, upto], and where its parts lie in the file."""
    rows = tree.entries(blob_key(group, after + 1))
    for key, parts in groupby(rows, key=lambda row: row[0][:BLOB_KEY_BYTES]):
        at, position = unpack_blob_key(key)
        if at != group or position > upto:
            return
        yield Position(position), [(offset, size) for _, offset, size in parts]


def _missing(group: int, position: int) -> Corrupt:
    return Corrupt(f"group {group}: the blob at position {position} is missing")


def read_checkpoint_entry(group: int, store: Store) -> CheckpointEntry | None:
    with store.reading() as txn:
        return store.read_root(txn)[0].checkpoints.get(group)


def read_chunks(group: int, entry: CheckpointEntry, before: list[bytes], store: Store) -> list[bytes] | None:
    """The chunks of a checkpoint that follow those `before`, or None when it was replaced since."""
    with store.reading() as txn:
        if store.read_root(txn)[0].checkpoints.get(group) != entry:
            return None
        return list(iter_chunks(txn, group, entry, before, store))


def iter_chunks(
    txn: Any, group: int, entry: CheckpointEntry, before: list[bytes], store: Store
) -> Iterator[bytes]:
    """The next chunks of a checkpoint, as many as one transaction should copy. Raises Corrupt."""
    number, left, copied = len(before), entry.length - sum(map(len, before)), 0
    while left > 0 and copied < READ_BYTES:
        chunk = txn.get(chunk_key(group, entry.generation, number), db=store.checkpoint)
        if chunk is None:
            raise Corrupt(
                f"group {group}: the checkpoint at position {entry.position} is damaged: "
                f"chunk {number} is missing"
            )
        yield chunk
        number, left, copied = number + 1, left - len(chunk), copied + len(chunk)


def join_chunks(group: int, entry: CheckpointEntry, chunks: list[bytes]) -> bytes:
    """The whole checkpoint. Raises Corrupt."""
    blob = b"".join(chunks)
    if len(blob) != entry.length or google_crc32c.value(blob) != entry.crc:
        raise Corrupt(
            f"group {group}: the checkpoint at position {entry.position} is damaged: its CRC is wrong"
        )
    return blob


def read_meta(key: bytes, store: Store) -> tuple[bytes, Revision] | None:
    with store.reading() as txn:
        row = txn.get(key, db=store.meta)
    if row is None:
        return None
    value, revision = unpack_meta(key, row)
    return value, Revision(revision)


def read_stats(commits: int, last_commit_ms: float, store: Store) -> EngineStats:
    """No page of a blob is read for it."""
    with store.reading() as txn:
        used, log = store.used_bytes(txn), store.log_bytes(txn)
        blobs = int(txn.stat(store.log)["entries"])
        checkpoints = store.read_root(txn)[0].checkpoints.values()
    allocated = store.room.file_bytes
    return EngineStats(
        used_bytes=used,
        free_bytes=max(0, store.room.disk_bytes + allocated - used - store.room.reserve_bytes),
        blobs=blobs,
        last_commit_ms=last_commit_ms,
        log_bytes=log,
        checkpoint_bytes=sum(entry.length for entry in checkpoints),
        file_bytes=allocated,
        commits=commits,
    )
