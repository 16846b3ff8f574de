"""Give the free pages of a store back to the file system: `leveret compact DATA_DIR`, with no broker on it.

LMDB uses freed pages again but never shortens its file. Here what is in use is copied into a new file, the
copy is checked, and only then takes the old one's place, in one step; a crash leaves the one or the other.
"""

import os
from pathlib import Path

from . import failpoints
from .check import Report, check_store
from .directory import DataDirectory
from .engine import Corrupt
from .lmdb_file import sync_path
from .lmdb_store import Store
from .tail import TAIL_NAME


def compact_directory(path: Path) -> tuple[int, int]:
    """Compact the store in a data directory; returns its size in bytes before and after.

    Raises:
        Corrupt: the store is not sound; it was left as it is.
        Unavailable: the directory is in use, or the disk has no room for the copy.
    """
    directory = DataDirectory.open(path, create=False)
    try:
        tail = directory.log / TAIL_NAME  # it stays, and goes on to be that of the copy
        _require_sound(directory.log, tail)
        store = Store.open(directory.log, readonly=True)
        try:
            directory.make_new_log()
            store.copy_compacted(directory.new_log)
        finally:
            store.close()
        _require_sound(directory.new_log, tail)
        if failpoints.armed:
            failpoints.hit("during_compact")
        old, new = directory.log / "data.mdb", directory.new_log / "data.mdb"
        sizes = (old.stat().st_size, new.stat().st_size)
        os.replace(new, old)
        sync_path(directory.log)
        return sizes
    finally:
        directory.discard_new_log()
        directory.close()


def _require_sound(path: Path, tail: Path) -> None:
    report = Report()
    check_store(path, report, tail=tail)
    if not report.is_sound:
        raise Corrupt(f"{report.findings[0]} (run `leveret check` to see all)")
