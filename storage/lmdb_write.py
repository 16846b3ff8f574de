"""A write transaction of the LMDB engine while it is being filled.

The writer thread makes one per commit and runs the waiting operations on it. An operation either checks, then
writes; or refuses (raises) before it wrote anything, so that the others in the transaction stand.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import google_crc32c

from . import failpoints
from .engine import Append, Corrupt, EngineError, Lease, Position, Revision
from .group import fenced
from .lmdb_room import DROP_TOUCHES_BYTES
from .lmdb_rows import (
    KEY_ROOT,
    KEY_TAIL,
    CheckpointEntry,
    Root,
    blob_key,
    chunk_key,
    epoch_key,
    pack_epoch,
    pack_meta,
    pack_root,
    piece_key,
    seal,
    unpack_blob_key,
    unpack_chunk_key,
    unpack_epoch,
    unpack_epoch_key,
    unpack_meta,
)
from .lmdb_store import FORMAT, FORMAT_WITH_TAIL, Store

CHUNK_BYTES = 64 * 4096 - 16
"""Of a checkpoint: fills 64 pages exactly (16 bytes are LMDB's page header), the size of a full blob."""

PIECE_BYTES = 4096 - 16
"""Fills one page: blobs and checkpoints are cut so for a disk so full that pages in a row are rare."""

CHECKPOINT_BYTES_PER_COMMIT = 16 * CHUNK_BYTES
"""4 MiB: what a checkpoint may hold up an append by."""

SWEEP_MAX = 64
"""Chunks removed in one transaction."""


class Write:
    """The transaction, and the root row as it will be when it is committed."""

    def __init__(self, store: Store, txn: Any, root: Root, *, in_pieces: bool) -> None:
        """With `in_pieces`, blobs are cut so that each part fits into any free page."""
        self.root = root.copy()
        self.changed = False
        self.ends_tail = False
        self._store = store
        self._txn = txn
        self._in_pieces = in_pieces

    def put_root(self) -> None:
        """The last operation of every transaction that changed something."""
        self._txn.put(KEY_ROOT, pack_root(self.root, self._store.stamp(self._txn)), db=self._store.state)

    def move_tail(self, items: Sequence[Append]) -> None:
        """Append what lies in the tail: it is durable already, so it may use what is kept in reserve."""
        for answer in self.append(items, urgent=True) if items else ():
            if isinstance(answer, EngineError):
                raise answer

    def put_tail_key(self, key: bytes) -> None:
        """From now on frames in the tail must carry this key, or with an empty one there are none."""
        if key:
            self._txn.put(KEY_TAIL, seal(KEY_TAIL, key), db=self._store.state)
        else:
            self._txn.delete(KEY_TAIL, db=self._store.state)
        self._store.set_format(self._txn, FORMAT_WITH_TAIL if key else FORMAT)
        self.changed = True

    def end_tail(self, *, is_known: bool) -> None:
        """Take the tail's key away with this transaction, or give it none."""
        self.ends_tail = True
        self.changed |= is_known

    def touch(self) -> None:
        """Change nothing, yet commit."""
        self.changed = True

    def acquire(self, group: int, node: str) -> Lease:
        state = self.root.group(group).acquire()
        self._forget_epochs(group)
        key = epoch_key(group, state.epoch)
        self._txn.put(key, pack_epoch(key, state.fence, node), db=self._store.state)
        self.root.groups[group] = state
        self.changed = True
        return state.lease()

    def append(self, items: Sequence[Append], *, urgent: bool) -> list[Position | EngineError]:
        size = sum(len(item.blob) for item in items)
        self._store.room.require(size, lambda: self._store.used_bytes(self._txn), urgent=urgent)
        if failpoints.armed:
            failpoints.hit("put")
        return [self._append_one(item) for item in items]

    def _append_one(self, item: Append) -> Position | EngineError:
        state = self.root.group(item.group)
        refusal = state.refusal(item)
        if refusal is not None:
            return refusal
        position = state.place(item)
        key = blob_key(item.group, position)
        if state.is_repeat(item):
            if self._stored(key) not in (b"", item.blob):
                return Corrupt(
                    f"group {item.group}: position {position} holds another blob of idx {item.idx}"
                )
            return position
        # MDB_APPEND fills pages to the brim, but only the highest key of all may be put so.
        at_end = item.group == max(self.root.groups)
        first, *others = self._cut(item.blob)
        if not self._txn.put(key, first, overwrite=False, append=at_end, db=self._store.log):
            return Corrupt(f"group {item.group}: position {position} is taken, though the log ends before it")
        for number, piece in enumerate(others, 1):
            self._txn.put(piece_key(item.group, position, number), piece, append=at_end, db=self._store.log)
        self.root.groups[item.group] = state.append(item.blob)
        self.changed = True
        return position

    def _cut(self, blob: bytes) -> list[bytes]:
        if not self._in_pieces:
            return [blob]
        return [blob[start : start + PIECE_BYTES] for start in range(0, len(blob), PIECE_BYTES)]

    def _stored(self, key: bytes) -> bytes:
        """The blob with this key, whole; nothing if it was dropped."""
        with self._txn.cursor(db=self._store.log) as cursor:
            more = cursor.set_range(key)
            pieces = []
            while more and cursor.key().startswith(key):
                pieces.append(cursor.value())
                more = cursor.next()
        return b"".join(pieces)

    def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        self._require_owner(group, epoch)
        checkpoint = self.root.checkpoint(group).position
        if any(position > checkpoint for position in positions):
            raise ValueError(
                f"group {group}: only blobs up to its checkpoint, position {checkpoint}, can be dropped"
            )
        if failpoints.armed:
            failpoints.hit("during_drop")
        with self._txn.cursor(db=self._store.log) as cursor:
            for position in positions:
                key = blob_key(group, position)
                while cursor.set_range(key) and cursor.key().startswith(key):
                    self.changed = cursor.delete()
        self._store.room.touch(DROP_TOUCHES_BYTES * len(positions))

    def begin_giving_back(self) -> bool:
        """Whether there are free pages to `give_back` to the disk."""
        if not self._store.begin_giving_back(self._txn):
            return False
        self.touch()  # so that what the last transaction freed can be given back by the next
        return True

    def give_back(self) -> bool:
        """Give some free pages back to the disk. Returns whether to call again."""
        return self._store.give_back(self._txn)

    def begin_checkpoint(self, group: int, epoch: int, position: Position) -> bool:
        """See that the owner may checkpoint here, and sweep.

        Returns whether there is more to sweep before chunks go in.
        """
        self._require_owner(group, epoch)
        if not self.root.checkpoint(group).position <= position <= self.root.group(group).position:
            raise ValueError(
                f"group {group}: a checkpoint at {position} lies before the last one or beyond the log"
            )
        return self.sweep_chunks(group)

    def put_chunks(self, group: int, epoch: int, first: int, chunks: Sequence[memoryview]) -> None:
        """Write some chunks of the group's next checkpoint, numbered from `first` on."""
        self._require_owner(group, epoch)
        if failpoints.armed:
            failpoints.hit("during_checkpoint")
        generation = self.root.checkpoint(group).generation + 1
        for number, chunk in enumerate(chunks, first):
            self._txn.put(chunk_key(group, generation, number), chunk, db=self._store.checkpoint)
            self.changed = True

    def finish_checkpoint(self, group: int, position: Position, blob: bytes) -> bool:
        """Make the chunks that were put, which are this blob, the group's checkpoint.

        Returns whether old chunks are left to sweep.
        """
        generation = self.root.checkpoint(group).generation + 1
        self.root.checkpoints[group] = CheckpointEntry(
            position, generation, len(blob), google_crc32c.value(blob)
        )
        self.changed = True
        return self.sweep_chunks(group)

    def sweep_chunks(self, group: int) -> bool:
        """Remove chunks that are not the checkpoint's: replaced ones, and those a crash left.

        Returns whether to call again.
        """
        current = self.root.checkpoint(group).generation
        with self._txn.cursor(db=self._store.checkpoint) as cursor:
            for _ in range(SWEEP_MAX):
                if not (
                    cursor.set_range(chunk_key(group, 0, 0))
                    and self._find_chunk_to_sweep(cursor, group, current)
                ):
                    return False
                cursor.delete()
                self.changed = True
        return True

    def _find_chunk_to_sweep(self, cursor: Any, group: int, current: int) -> bool:
        """Whether there is a chunk to remove at the cursor or, the current generation left out, behind it."""
        found, generation, _ = unpack_chunk_key(cursor.key())
        if (found, generation) == (group, current):
            if not cursor.set_range(chunk_key(group, current + 1, 0)):
                return False
            found, _, _ = unpack_chunk_key(cursor.key())
        return bool(found == group)

    def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        row = self._txn.get(key, db=self._store.meta)
        current = None if row is None else unpack_meta(key, row)[1]
        if current != revision:
            return None
        self.root.revision += 1
        if value is None:
            self._txn.delete(key, db=self._store.meta)
        else:
            self._txn.put(key, pack_meta(key, value, self.root.revision), db=self._store.meta)
        self.changed = True
        return Revision(self.root.revision)

    def _forget_epochs(self, group: int) -> None:
        """Remove the rows of epochs of which no blob is left, so that they do not pile up."""
        with self._txn.cursor(db=self._store.log) as cursor:
            first = self.root.group(group).position + 1
            if cursor.set_range(blob_key(group, 0)):
                found, position = unpack_blob_key(cursor.key())
                first = position if found == group else first
        fences: list[tuple[int, bytes]] = []
        with self._txn.cursor(db=self._store.state) as cursor:
            more = cursor.set_range(epoch_key(group, 0))
            while (
                more
                and len(key := cursor.key()) == len(epoch_key(0, 0))
                and unpack_epoch_key(key)[0] == group
            ):
                fences.append((unpack_epoch(key, cursor.value())[0], key))
                more = cursor.next()
        for (_, key), (next_fence, _) in pairwise(fences):
            if next_fence < first:
                self._txn.delete(key, db=self._store.state)

    def _require_owner(self, group: int, epoch: int) -> None:
        current = self.root.group(group).epoch
        if epoch != current:
            raise fenced(group, epoch, current)
