"""LMDB's B-trees, read from its file instead of through its map: the log's, and that of the free pages.

There are three reasons to follow the B-tree here, with `pread`, and not to leave it to the `lmdb` module:

- it tells the length of a value only after it touched every page of it, so asking for the sizes of all blobs
  would read the whole log;
- a blob that is not in the page cache takes one read of its size, and not one for each of its 64 pages;
- pages touched in a map count as the process's memory, so reading a backlog would look like holding it.

A read transaction must be open all the while: it keeps the pages from being used again.

LMDB 0.9's layout (`mdb.c`: MDB_page, MDB_node, MDB_db), in the machine's byte order:

    page:  page number 8 | pad 2 | flags 2 | lower, upper 4 | one offset of 2 bytes per node, up to `lower`
    node:  length of the value, or low half of the child's page number 4 | flags, or its high part 2
           | length of the key 2 | key | value, or the number of the first of its own pages 8
    a value's own pages: a page header, and the value without any gap
"""

import os
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from .engine import Corrupt

_PAGE = struct.Struct("=QHHHH")
_NODE = struct.Struct("=IHH")
_NUMBER = struct.Struct("=Q")
_DATABASE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, three page counts, entries, root page
_BRANCH, _LEAF = 0x01, 0x02  # kinds of page
_INTEGER_KEYS = 0x08  # flag of a database
_BIG = 0x01  # flag of a node: the value has pages of its own
_NO_PAGE = 2**64 - 1

Extent = tuple[int, int]
"""A part of the file: offset and size."""


class Tree:
    """One B-tree as one read transaction sees it."""

    def __init__(self, path: Path, descriptor: int, page_bytes: int, database: bytes | None) -> None:
        """`database` is LMDB's own record of it (MDB_db); `path` is named in errors.

        Where keys are integers (MDB_INTEGERKEY), they are taken and given as big-endian ones.
        """
        self._path = path
        self._descriptor = descriptor
        self._page_bytes = page_bytes
        if database is None or len(database) != _DATABASE.size:
            raise self._damaged("a database's record is not one")
        _, flags, self._depth, *_, self._root = _DATABASE.unpack(database)
        self._key_step = -1 if flags & _INTEGER_KEYS and sys.byteorder == "little" else 1

    def entries(self, first: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The key of each row, where its value lies in the file, and its size; from `first` on, rising."""
        if self._root == _NO_PAGE:
            return
        try:
            yield from self._below(self._root, self._depth, first)
        except struct.error:
            raise self._damaged("a node reaches beyond its page") from None

    def find(self, key: bytes) -> list[Extent]:
        """Where the value of a key, and those of longer keys that begin with it, lie in the file."""
        rows = takewhile(lambda row: row[0].startswith(key), self.entries(key))
        return [(offset, size) for _, offset, size in rows]

    def read(self, offset: int, size: int) -> bytes:
        """A value, or any other part of the file."""
        found = os.pread(self._descriptor, size, offset)
        if len(found) != size:
            raise self._damaged(f"{size} bytes at {offset} reach beyond the file")
        return found

    def _below(self, number: int, depth: int, first: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The entries under a page, which is `depth` levels above nothing."""
        page = self._read_page(number, _BRANCH if depth > 1 else _LEAF)

        def key_of(node: int) -> bytes:
            start = node + _NODE.size
            return page[start : start + _NODE.unpack_from(page, node)[2]][:: self._key_step]

        lower = _PAGE.unpack_from(page)[3]
        nodes = struct.unpack_from(f"={(lower - _PAGE.size) // 2}H", page, _PAGE.size)
        if depth > 1:
            # A child holds the keys from its own up to the next one's; the first child's own is left empty.
            for node in nodes[max(0, bisect_right(nodes, first, key=key_of) - 1) :]:
                low, high, _ = _NODE.unpack_from(page, node)
                yield from self._below(low | high << 32, depth - 1, first)
            return
        for node in nodes[bisect_left(nodes, first, key=key_of) :]:
            size, flags, key_bytes = _NODE.unpack_from(page, node)
            value = node + _NODE.size + key_bytes
            offset = number * self._page_bytes + value
            if flags & _BIG:
                offset = _NUMBER.unpack_from(page, value)[0] * self._page_bytes + _PAGE.size
            yield key_of(node), offset, size

    def _read_page(self, number: int, kind: int) -> bytes:
        page = self.read(number * self._page_bytes, self._page_bytes)
        found, _, flags, _, _ = _PAGE.unpack_from(page)
        if (found, flags & kind) != (number, kind):
            raise self._damaged(f"page {number} is not what the one above says")
        return page

    def _damaged(self, what: str) -> Corrupt:
        return Corrupt(f"{self._path}: LMDB's pages are damaged: {what}")
