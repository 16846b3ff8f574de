"""The sizes of blobs, from the B-tree's own pages.

The `lmdb` module shows the length of a value only after it read every page of it, so asking it how large the
blobs are would read the whole log. The lengths lie in the leaf pages, beside the keys: 136 blobs to a page.
They are read here from the file, while a read transaction keeps the pages from being used again.

LMDB 0.9's layout (`mdb.c`: MDB_page, MDB_node, MDB_db), in the machine's byte order:

    page:  page number 8 | pad 2 | flags 2 | lower, upper 4 | one offset of 2 bytes per node, up to `lower`
    node:  length of the value, or low half of the child's page number 4 | flags, or its high part 2
           | length of the key 2 | key
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from .engine import Corrupt, Position
from .lmdb_rows import blob_key, unpack_blob_key

_PAGE = struct.Struct("=QHHHH")
_NODE = struct.Struct("=IHH")
_DATABASE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, three page counts, entries, root page
_BRANCH, _LEAF = 0x01, 0x02
_NO_PAGE = 2**64 - 1


class LogTree:
    """The log's B-tree as one read transaction sees it, which must be open all the while."""

    def __init__(self, path: Path, descriptor: int, page_bytes: int, database: bytes) -> None:
        """`database` is the record of the log in LMDB's main database; `path` is named in errors."""
        self._path = path
        self._descriptor = descriptor
        self._page_bytes = page_bytes
        if len(database) != _DATABASE.size:
            raise self._damaged("the log's record is not one of a database")
        _, _, self._depth, *_, self._root = _DATABASE.unpack(database)

    def sizes(self, group: int, after: Position) -> Iterator[list[tuple[Position, int]]]:
        """Position and size of the group's blobs behind `after`, rising, one leaf page at a time."""
        first = blob_key(group, after + 1)
        for page in self._leaves(self._root, self._depth, first):
            found: list[tuple[Position, int]] = []
            for key, size, _ in self._nodes(page):
                if key >= first:
                    at, position = unpack_blob_key(key)
                    if at != group:
                        yield found
                        return
                    found.append((Position(position), size))
            yield found

    def _leaves(self, number: int, depth: int, first: bytes) -> Iterator[bytes]:
        """The leaf pages from the one on where the key `first` belongs."""
        if number == _NO_PAGE:
            return
        page = self._read(number, _BRANCH if depth > 1 else _LEAF)
        if depth <= 1:
            yield page
            return
        children = [(key, low | high << 32) for key, low, high in self._nodes(page)]
        for index, (_, child) in enumerate(children):
            # A child holds the keys from its own up to the next one's; the first child's own is left empty.
            if index + 1 == len(children) or children[index + 1][0] > first:
                yield from self._leaves(child, depth - 1, first)

    def _nodes(self, page: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The nodes of a page: key, and the two fields before its length."""
        lower = _PAGE.unpack_from(page)[3]
        try:
            for offset in struct.unpack_from(f"={(lower - _PAGE.size) // 2}H", page, _PAGE.size):
                low, high, length = _NODE.unpack_from(page, offset)
                start = offset + _NODE.size
                yield page[start : start + length], low, high
        except struct.error:
            raise self._damaged("a node reaches beyond its page") from None

    def _read(self, number: int, kind: int) -> bytes:
        page = os.pread(self._descriptor, self._page_bytes, number * self._page_bytes)
        found, _, flags, _, _ = _PAGE.unpack_from(page) if len(page) == self._page_bytes else (-1, 0, 0, 0, 0)
        if (found, flags & kind) != (number, kind):
            raise self._damaged(f"page {number} is not what the one above says")
        return page

    def _damaged(self, what: str) -> Corrupt:
        return Corrupt(f"{self._path}: LMDB's pages are damaged: {what}")
