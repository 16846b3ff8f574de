"""What the LMDB engine reads: each function is one short read transaction on the reader thread.

Everything is copied out of the map before the transaction ends. The root row is read in the same transaction
as the data, so the two always belong together.
"""

import os
from collections.abc import Sequence
from itertools import islice

import google_crc32c

from .engine import Corrupt, EngineStats, Position, Revision
from .lmdb_rows import CheckpointEntry, blob_key, chunk_key, unpack_blob_key, unpack_meta
from .lmdb_store import Store
from .lmdb_write import CHUNKS_PER_COMMIT, chunk_count

READ_BYTES = 1024 * 1024
"""What one transaction copies (or one blob): a reader pins every page freed meanwhile, so it is short."""

LOOKUP_BYTES = 1024
"""What finding a blob counts for beside its size."""

SIZES_PER_READ = 8192
"""A few milliseconds."""


def read_blobs(
    group: int, after: Position, upto: Position | None, store: Store
) -> tuple[list[tuple[Position, bytes]], Position]:
    """The first blobs in (after, upto], and `upto`, which is the end of the log where None was given.

    Raises:
        Corrupt: a blob is missing. Only those up to the checkpoint can have been dropped.
    """
    found: list[tuple[Position, bytes]] = []
    size = 0
    with store.reading() as txn, txn.cursor(db=store.log) as cursor:
        root, _ = store.read_root(txn)
        end = Position(root.group(group).position if upto is None else upto)
        checkpoint = root.checkpoint(group).position
        expected = after + 1
        more = cursor.set_range(blob_key(group, expected))
        while size < READ_BYTES:
            at, position = unpack_blob_key(cursor.key()) if more else (-1, 0)
            if at != group or position > end:
                position = end + 1
            if position > expected and position - 1 > checkpoint:
                raise Corrupt(
                    f"group {group}: the blob at position {max(expected, checkpoint + 1)} is missing"
                )
            if position > end:
                break
            blob = cursor.value()
            found.append((Position(position), blob))
            size += len(blob)
            expected = position + 1
            more = cursor.next()
    return found, end


def read_blob(group: int, position: Position, store: Store) -> bytes | None:
    with store.reading() as txn:
        return txn.get(blob_key(group, position), db=store.log)


def read_many(group: int, positions: Sequence[Position], store: Store) -> list[bytes | None]:
    """The blobs at these positions; as many read transactions as it takes to keep each one short."""
    found: list[bytes | None] = []
    while len(found) < len(positions):
        size = 0
        with store.reading() as txn:
            for position in islice(positions, len(found), None):
                blob = txn.get(blob_key(group, position), db=store.log)
                found.append(blob)
                size += LOOKUP_BYTES + len(blob or b"")
                if size >= READ_BYTES:
                    break
    return found


def read_sizes(group: int, after: Position, store: Store) -> list[tuple[Position, int]]:
    """Positions and sizes of the next blobs, up to about SIZES_PER_READ; none at the end of the log."""
    sizes: list[tuple[Position, int]] = []
    with store.reading_tree() as tree:
        for some in tree.sizes(group, after):
            sizes += some
            if len(sizes) >= SIZES_PER_READ:
                break
    return sizes


def read_checkpoint_entry(group: int, store: Store) -> CheckpointEntry | None:
    with store.reading() as txn:
        return store.read_root(txn)[0].checkpoints.get(group)


def read_chunks(group: int, entry: CheckpointEntry, first: int, store: Store) -> list[bytes] | None:
    """Some chunks of a checkpoint from number `first` on, or None when it was replaced since."""
    numbers = range(first, min(first + CHUNKS_PER_COMMIT, chunk_count(entry.length)))
    with store.reading() as txn:
        if store.read_root(txn)[0].checkpoints.get(group) != entry:
            return None
        chunks = [
            txn.get(chunk_key(group, entry.generation, number), db=store.checkpoint) for number in numbers
        ]
    whole = [chunk for chunk in chunks if chunk is not None]
    if len(whole) != len(chunks):
        raise Corrupt(
            f"group {group}: the checkpoint at position {entry.position} is damaged: "
            f"chunk {first + chunks.index(None)} is missing"
        )
    return whole


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


def read_stats(map_bytes: int, last_commit_ms: float, store: Store) -> EngineStats:
    with store.reading() as txn:
        used, allocated = store.used_bytes(txn), (store.path / "data.mdb").stat().st_size
        blobs = int(txn.stat(store.log)["entries"])
    disk = os.statvfs(store.path)
    free = min(disk.f_bavail * disk.f_frsize + allocated, map_bytes) - used - store.room.reserve_bytes
    return EngineStats(used, max(0, free), blobs, last_commit_ms)
