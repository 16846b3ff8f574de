"""An LMDB environment laid out as a Leveret store: made, opened and checked.

`LmdbEngine` (or the checker, read-only) owns one. This file and `lmdb.py` are the only ones that import lmdb.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
import lmdb.verify

from . import failpoints
from .blob import chain_hash
from .directory import FILE_MODE, DataDirectory
from .engine import Corrupt, EngineError, Unavailable
from .lmdb_file import MetaPages, sync_path
from .lmdb_holes import Holes
from .lmdb_room import Room
from .lmdb_rows import (
    KEY_ROOT,
    KEY_SUPERBLOCK,
    KEY_TAIL,
    Root,
    Stamp,
    blob_key,
    pack_root,
    seal,
    unpack_blob_key,
    unpack_meta,
    unpack_root,
    unseal,
)
from .lmdb_tree import Tree
from .tail import TAIL_NAME, make_tail

FORMAT, FORMAT_WITH_TAIL = 1, 2
"""Version of the store's layout (databases, keys, rows); `blob.VERSION` is the blobs' own.

A store that was stopped in order needs no tail, and has the format of those that never had one.
"""

MAP_BYTES = 2**40
"""Address space, not disk: the file grows as it is written. LMDB can never grow beyond it, so it is huge."""

_MAP_BYTES_MIN = 2**30
_DATABASES = (b"log", b"checkpoint", b"meta", b"state")
_READERS_MAX = 8

# What LMDB says when it stumbles over damaged pages; our own calls give it no other cause to.
_DAMAGED = (
    lmdb.BadDbiError,
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class Store:
    """An open environment and its databases."""

    def __init__(self, path: Path, env: lmdb.Environment, metas: MetaPages, *, create: bool = False) -> None:
        """Use `Store.open`."""
        self.path = path
        self.env = env
        self._metas = metas
        self._map_lock = threading.Lock()
        self._room: Room | None = None  # in a store that is written to
        self._holes: Holes | None = None  # likewise
        self.log, self.checkpoint, self.meta, self.state = (
            env.open_db(name, create=create) for name in _DATABASES
        )
        # One flipped bit there, and LMDB compares keys in another order and does not find what is stored.
        if any(any(db.flags().values()) for db in (self.log, self.checkpoint, self.meta, self.state)):
            raise Corrupt(f"{path}: LMDB's databases are damaged: one has flags that were never set")
        self._descriptor = os.open(path / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    def open(cls, path: Path, map_bytes: int = MAP_BYTES, *, readonly: bool = False) -> "Store":
        """Open a store that exists. Raises Corrupt or Unavailable; never maps a file that is too short."""
        with ExitStack() as opened:
            metas = opened.enter_context(closing(read_meta_pages(path)))
            try:
                env = opened.enter_context(_open_environment(path, map_bytes, readonly=readonly))
                store = cls(path, env, metas)
                if not readonly:
                    store._room = Room(path / "data.mdb", metas, env.info()["map_size"], store._set_map_bytes)
                    store._holes = Holes(metas.page_bytes, store._room.punch)
            except lmdb.Error as error:
                raise translate(error, path) from error
            opened.pop_all()
        return store

    @property
    def room(self) -> Room:
        assert self._room is not None
        return self._room

    @property
    def holes(self) -> Holes:
        assert self._holes is not None
        return self._holes

    def close(self) -> None:
        self.env.close()
        self._metas.close()
        os.close(self._descriptor)
        if self._room is not None:
            self._room.close()

    def begin(self, *, in_need: bool) -> "lmdb.Transaction[bytes]":
        """A write transaction, with room ahead of it unless it is `in_need`: did not fit before."""
        self.room.begin(in_need=in_need)
        return self.env.begin(write=True)

    @contextmanager
    def reading(self) -> Iterator["lmdb.Transaction[bytes]"]:
        """A read transaction, during which the map stays where it is."""
        with self._map_lock, self.env.begin() as txn:
            yield txn

    def log_tree(self, txn: Any) -> Tree:
        """The log as a read transaction sees it."""
        return Tree(self.path, self._descriptor, self._metas.page_bytes, txn.get(_DATABASES[0]))

    def _set_map_bytes(self, map_bytes: int) -> None:
        with self._map_lock:
            self.env.set_mapsize(map_bytes)

    def begin_giving_back(self, txn: Any) -> bool:
        """If much of the file is free, begin to give some of it back; on the writer thread."""
        return self.holes.begin(self.room.file_bytes, self.used_bytes(txn))

    def give_back(self, txn: Any) -> bool:
        """Give some free pages back to the disk; on the writer thread. Returns whether to call again."""
        newest, database = self._metas.free_pages()
        free = Tree(self.path, self._descriptor, self._metas.page_bytes, database)
        with self._map_lock:
            self.holes.go_on(free, newest, self.room.file_bytes, self.used_bytes(txn))
        return self.holes.is_under_way

    def used_bytes(self, txn: Any) -> int:
        """What the pages in use take. LMDB's list of the free ones is estimated: 8 bytes for each."""
        databases = (self.log, self.checkpoint, self.meta, self.state)
        pages = sum(self._page_count(txn, database) for database in databases)
        free_pages = max(0, self._metas.last_page() + 1 - pages)
        return pages * self._metas.page_bytes + 8 * free_pages

    def log_bytes(self, txn: Any) -> int:
        """What the pages of the log take."""
        return self._page_count(txn, self.log) * self._metas.page_bytes

    def _page_count(self, txn: Any, database: Any) -> int:
        stat = txn.stat(database)
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def stamp(self, txn: Any) -> Stamp:
        """What the root row of this write transaction must say about LMDB's meta pages."""
        number = txn.id()
        return Stamp(number, self._metas.crc((number - 1) % 2))

    def copy_compacted(self, path: Path) -> None:
        """Copy what is in use into an empty directory, as a store of its own, durable there."""
        try:
            self.env.copy(os.fspath(path), compact=True)
            # The copy counts its transactions anew: write the root row that belongs to its meta pages.
            copy = Store.open(path)
            with copy.env.begin(write=True) as txn:
                root, _ = copy.read_root(txn)
                txn.put(KEY_ROOT, pack_root(root, copy.stamp(txn)), db=copy.state)
            copy.close()
            sync_path(path / "data.mdb")
        except (lmdb.Error, OSError) as error:
            raise translate(error, path) from error

    def read_root(self, txn: Any) -> tuple[Root, Stamp]:
        """The root row. Raises Corrupt."""
        value = txn.get(KEY_ROOT, db=self.state)
        if value is None:
            raise Corrupt(f"{self.path}: the root row is missing")
        return unpack_root(value)

    def tail_key(self) -> bytes | None:
        """What the frames in the tail must carry; None if it holds nothing. Raises Corrupt."""
        with self.reading() as txn:
            value = txn.get(KEY_TAIL, db=self.state)
        return None if value is None else unseal("the tail's key", KEY_TAIL, value)

    def set_format(self, txn: Any, number: int) -> None:
        """Write the superblock with this format, if it has another one."""
        superblock = check_superblock(self.path, txn.get(KEY_SUPERBLOCK, db=self.state))
        if superblock["format"] != number:
            txn.put(KEY_SUPERBLOCK, _superblock(superblock | {"format": number}), db=self.state)

    def check(self) -> Root:
        """See that this is our store, its newest state, and whole at its end.

        The cost does not grow with the logs. Raises Corrupt with a sentence for the operator.
        """
        try:
            with self.reading() as txn:
                check_superblock(self.path, txn.get(KEY_SUPERBLOCK, db=self.state))
                root, stamp = self.read_root(txn)
                self._metas.check_stamp(stamp)
                for group in root.groups:
                    self._check_end(txn, root, group)
                for key, value in txn.cursor(db=self.meta):
                    unpack_meta(key, value)
                return root
        except lmdb.Error as error:
            raise translate(error, self.path) from error

    def _check_end(self, txn: Any, root: Root, group: int) -> None:
        """The last blob must be the one that the root row speaks of."""
        state = root.group(group)
        last = txn.get(blob_key(group, state.position), db=self.log)
        if last is None and state.position > root.checkpoint(group).position:
            raise Corrupt(f"group {group}: the last blob, at position {state.position}, is missing")
        if last is not None and chain_hash(last) != state.chain:
            raise Corrupt(
                f"group {group}: the blob at position {state.position} is not the one that was written last"
            )
        with txn.cursor(db=self.log) as cursor:
            if cursor.set_range(blob_key(group, state.position + 1)):
                found, position = unpack_blob_key(cursor.key())
                if found == group:
                    raise Corrupt(
                        f"group {group}: a blob at position {position} lies beyond the end of the log"
                    )


def create_store(directory: DataDirectory) -> None:
    """Make an empty store and move it, whole and durable, to its place."""
    path = directory.new_log
    try:
        directory.make_new_log()
        env = _open_environment(path, _MAP_BYTES_MIN, readonly=False)
        metas = MetaPages(path / "data.mdb")
        store = Store(path, env, metas, create=True)
        with env.begin(write=True) as txn:
            created = datetime.fromtimestamp((path / "data.mdb").stat().st_mtime, UTC)
            superblock: dict[str, object] = {
                "format": FORMAT,
                "engine": "lmdb-0.9",
                "created": created.isoformat(timespec="seconds"),
            }
            txn.put(KEY_SUPERBLOCK, _superblock(superblock), db=store.state)
            txn.put(KEY_ROOT, pack_root(Root(), store.stamp(txn)), db=store.state)
        store.close()
        make_tail(path / TAIL_NAME)
        # LMDB syncs what it commits, but neither the meta pages it began with nor the directory entries.
        sync_path(path / "data.mdb")
        sync_path(path)
        if failpoints.armed:
            failpoints.hit("during_create")
        path.rename(directory.log)
        sync_path(directory.path)
    except (lmdb.Error, OSError) as error:
        raise translate(error, path) from error


def read_meta_pages(path: Path) -> MetaPages:
    """The meta pages of the store in a directory. Raises Corrupt when the file must not be mapped."""
    data = path / "data.mdb"
    try:
        metas = MetaPages(data)
    except OSError as error:
        raise Unavailable(f"{data} cannot be read: {error.strerror}") from error
    try:
        metas.check()
    except BaseException:
        metas.close()
        raise
    return metas


def verify_pages(path: Path) -> list[str]:
    """What is wrong with LMDB's own pages, in its verifier's words. Maps nothing, so it cannot crash."""
    try:
        problems = lmdb.verify.verify(os.fspath(path))  # type: ignore[no-untyped-call]  # lmdb's stubs omit it
    except lmdb.verify.VerifyError as error:
        problems = [error]
    return [f"{path}: LMDB's pages: {problem}" for problem in problems]


def check_superblock(path: Path, value: bytes | None) -> dict[str, object]:
    """The superblock's content. Raises Corrupt unless this Leveret can use the store."""
    if value is None:
        raise Corrupt(f"{path} holds an LMDB store that is not Leveret's: it has no superblock")
    superblock: dict[str, object] = json.loads(unseal(f"{path}: the superblock", KEY_SUPERBLOCK, value))
    if superblock["format"] not in (FORMAT, FORMAT_WITH_TAIL):
        raise Corrupt(
            f"{path} was written by a newer Leveret: "
            f"it has store format {superblock['format']}, this one knows {FORMAT_WITH_TAIL}"
        )
    return superblock


def _superblock(content: dict[str, object]) -> bytes:
    return seal(KEY_SUPERBLOCK, json.dumps(content).encode())


def translate(error: lmdb.Error | OSError, path: Path) -> EngineError:
    """An error of LMDB or of its file, in the engine's words."""
    if isinstance(error, _DAMAGED):
        return Corrupt(f"{path}: LMDB finds its file damaged: {error}")
    return Unavailable(f"{path}: the store cannot be used: {error}")


def _open_environment(path: Path, map_bytes: int, *, readonly: bool) -> lmdb.Environment:
    """Open with the largest map up to `map_bytes` that the process may have (ulimit -v limits it)."""
    while True:
        try:
            return lmdb.open(
                os.fspath(path),
                map_size=map_bytes,
                max_dbs=len(_DATABASES),
                max_readers=_READERS_MAX,
                max_spare_txns=2,
                mode=FILE_MODE,
                sync=True,
                metasync=True,
                writemap=False,  # an ENOSPC would be a SIGBUS, a stray pointer a damaged store
                readahead=False,  # blobs are read by position, not in file order
                lock=not readonly,
                readonly=readonly,
                create=not readonly,
                lib_version=0,  # the 0.9 file format; 1.0's is another
            )
        except lmdb.MemoryError:
            if map_bytes <= _MAP_BYTES_MIN:
                raise
            map_bytes //= 2
