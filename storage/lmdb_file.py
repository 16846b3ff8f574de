"""LMDB's data file looked at from outside, before liblmdb maps it.

A mapped file that is shorter than it should be kills the process with SIGBUS, and a damaged meta page makes
LMDB fall back to the transaction before, silently. So the two meta pages are read here first. LMDB 0.9's
layout (data version 1, `mdb.c`: MDB_page, MDB_meta) in the machine's byte order:

    page 0 and 1:  page number 8 | pad 2 | flags 2 | lower, upper 4 | MDB_meta 136
    MDB_meta:      magic 4 | version 4 | address 8 | map size 8 | free DB 48 | main DB 48 |
                   last page 8 | transaction 8

Transaction n overwrites meta page n % 2, so at rest the two carry consecutive numbers. One flipped bit can
still make a valid pair (5, 6 -> 5, 4); therefore each transaction records its own number and the CRC of the
meta page it leaves alone (`Stamp`), and both must fit when the store is opened.
"""

import ctypes
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from .engine import Corrupt
from .lmdb_rows import Stamp

_PAGE_HEADER = struct.Struct("=QHHHH")
_META = struct.Struct("=IIQQ I44s 48s QQ")
_FREE_OFFSET, _DATABASE_BYTES = 24, 48
_LAST_PAGE = struct.Struct("=Q")
_LAST_PAGE_OFFSET = _PAGE_HEADER.size + 120
_MAGIC = 0xBEEFC0DE
_DATA_VERSION = 1
_FLAG_META = 0x08
_PAGE_MIN_BYTES, _PAGE_MAX_BYTES = 512, 32768


@dataclass(frozen=True, slots=True)
class MetaPage:
    """What one of the two meta pages says."""

    transaction: int
    last_page: int
    crc: int  # of the MDB_meta, as it lies in the file


class MetaPages:
    """A read-only view of the two meta pages of a data file; sees LMDB's own writes at once."""

    def __init__(self, path: Path) -> None:
        """Raises Corrupt when the file cannot be mapped safely."""
        with path.open("rb") as file:
            self.file_bytes = os.fstat(file.fileno()).st_size
            if self.file_bytes < 2 * _PAGE_MIN_BYTES:
                raise Corrupt(
                    f"{path} is truncated: {self.file_bytes} bytes do not even hold LMDB's meta pages"
                )
            self._map = mmap.mmap(
                file.fileno(), min(self.file_bytes, 2 * _PAGE_MAX_BYTES), access=mmap.ACCESS_READ
            )
        self._path = path
        self.page_bytes = self._read_page_bytes()

    def close(self) -> None:
        self._map.close()

    def crc(self, number: int) -> int:
        """The CRC of a meta page as it is now."""
        start = number * self.page_bytes + _PAGE_HEADER.size
        return int(google_crc32c.value(self._map[start : start + _META.size]))

    def last_page(self) -> int:
        """The number of the last page that any transaction used."""
        return max(
            int(_LAST_PAGE.unpack_from(self._map, number * self.page_bytes + _LAST_PAGE_OFFSET)[0])
            for number in (0, 1)
        )

    def free_pages(self) -> tuple[int, bytes]:
        """The newest transaction, and the record (MDB_db) of its list of free pages."""
        metas = []
        for number in (0, 1):
            start = number * self.page_bytes + _PAGE_HEADER.size
            free = self._map[start + _FREE_OFFSET : start + _FREE_OFFSET + _DATABASE_BYTES]
            metas.append((int(_META.unpack_from(self._map, start)[8]), free))
        return max(metas)

    def check(self) -> tuple[MetaPage, MetaPage]:
        """Both meta pages. Raises Corrupt when they do not fit each other or the file."""
        pages = (self._read(0), self._read(1))
        numbers = (pages[0].transaction, pages[1].transaction)
        if abs(numbers[0] - numbers[1]) != 1 or numbers[0] % 2 != 0:
            raise Corrupt(
                f"{self._path}: LMDB's meta pages are damaged: "
                f"their transactions are {numbers[0]} and {numbers[1]}"
            )
        needed = (max(page.last_page for page in pages) + 1) * self.page_bytes
        if self.file_bytes < needed:
            raise Corrupt(
                f"{self._path} is truncated: {self.file_bytes} bytes, LMDB's meta pages speak of {needed}"
            )
        return pages

    def check_stamp(self, stamp: Stamp) -> None:
        """Raises Corrupt unless the root row that LMDB showed us belongs to these meta pages."""
        pages = self.check()
        newest = max(page.transaction for page in pages)
        other = pages[(newest - 1) % 2]
        if stamp.transaction != newest:
            raise Corrupt(
                f"{self._path}: LMDB's meta pages are damaged: "
                f"transaction {newest} shows the root row of {stamp.transaction}"
            )
        if stamp.other_meta_crc != other.crc:
            raise Corrupt(
                f"{self._path}: LMDB's meta pages are damaged: "
                f"the one before transaction {newest} was altered"
            )

    def _read_page_bytes(self) -> int:
        page_bytes = int(_META.unpack_from(self._map, _PAGE_HEADER.size)[4])
        if not (_PAGE_MIN_BYTES <= page_bytes <= _PAGE_MAX_BYTES and page_bytes.bit_count() == 1):
            raise Corrupt(f"{self._path}: LMDB's meta page 0 is damaged: a page size of {page_bytes} bytes")
        if self.file_bytes < 2 * page_bytes:
            raise Corrupt(
                f"{self._path} is truncated: {self.file_bytes} bytes do not even hold LMDB's meta pages"
            )
        return page_bytes

    def _read(self, number: int) -> MetaPage:
        start = number * self.page_bytes
        page_number, _, flags, _, _ = _PAGE_HEADER.unpack_from(self._map, start)
        meta = _META.unpack_from(self._map, start + _PAGE_HEADER.size)
        magic, version, page_bytes, last_page, transaction = meta[0], meta[1], meta[4], meta[7], meta[8]
        if (page_number, flags, magic) != (number, _FLAG_META, _MAGIC):
            raise Corrupt(f"{self._path}: page {number} is not an LMDB meta page")
        if version != _DATA_VERSION:
            raise Corrupt(
                f"{self._path} was written by another LMDB: data version {version}, not {_DATA_VERSION}"
            )
        if page_bytes != self.page_bytes:
            raise Corrupt(
                f"{self._path}: LMDB's meta page {number} is damaged: a page size of {page_bytes} bytes"
            )
        return MetaPage(transaction, last_page, self.crc(number))


def sync_path(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def punch_hole(descriptor: int, offset: int, size: int) -> bool:
    """Give a part of a file back to the file system, which then reads as zeros; False where it cannot.

    Python knows fallocate only without its modes.
    """
    mode = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE: fallocate(2)
    done: int = _fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(size))
    return done == 0


_fallocate = ctypes.CDLL(None).fallocate64


def network_file_system(mountinfo: str, device: int) -> str | None:
    """The name of the network file system mounted as `device` (st_dev), or None if it is a local one.

    LMDB does not work on one: mappings are not coherent and locks do not hold (lmdb.h, "Do not use LMDB
    databases on remote filesystems"). `mountinfo` is the text of /proc/self/mountinfo.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        name = source.split(" ")[0]
        if mount.split(" ")[2] == wanted and name.startswith(_NETWORK_FILE_SYSTEMS):
            return name
    return None


_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "afs",
    "lustre",
)
