"""Free pages given back to the file system.

LMDB uses freed pages again but never shortens its file: after a long backlog the disk would stay as full as
it was. So where most of a large file is free, holes are made in it. LMDB does not notice: it never reads a
free page, and what it writes to a hole fills it again. (`leveret compact` shortens the file, too.)

LMDB uses first what was freed first, so the holes wander through the file: what goes on being written fills
some, and what was just freed takes their place. A pass therefore looks at what was freed since the one
before, and only at everything where that does not keep the file small.

The writer thread does it, while nobody reads, so that all pages that were freed before the last commit are
nobody's. It may be within a write transaction, which writes its pages later, when it is committed.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator

from .lmdb_tree import Tree

KEPT_FREE_BYTES = 64 * 1024 * 1024
"""Free room that the file keeps; as much again may pile up before holes are made."""

RUN_PAGES = 16
"""Shorter runs of free pages are left alone."""

SLICE_PAGES = 8 * 256
"""What is given back at a time, 8 MiB at most: takes 1 to 10 ms."""


class Holes:
    """Makes holes in one file, a pass at a time."""

    def __init__(self, page_bytes: int, punch: Callable[[int, int], None]) -> None:
        """`punch` is given offset and size."""
        self._page_bytes = page_bytes
        self._punch = punch
        self._next: tuple[int, int] | None = None  # in a pass: a transaction, and how much of it is done
        self._seen = 0  # what was freed by transactions up to this one was looked at by earlier passes
        self._is_whole = False  # whether the pass is over everything
        self._kept_bytes = 0  # what the last such pass left of the file

    def begin(self, file_bytes: int, used_bytes: int) -> bool:
        """Begin a pass, if it is worth the trouble."""
        if file_bytes <= 2 * (used_bytes + KEPT_FREE_BYTES):
            return False
        if file_bytes > self._kept_bytes + self._kept_bytes // 4 + 2 * KEPT_FREE_BYTES:
            self._seen = 0
        self._next = (self._seen + 1, 0)
        self._is_whole = self._seen == 0
        return True

    @property
    def is_under_way(self) -> bool:
        return self._next is not None

    def go_on(self, free: Tree, before: int, file_bytes: int, used_bytes: int) -> None:
        """Give a slice back of what was freed before a transaction, but for the first part of the file.

        `free` is LMDB's list of free pages: by transaction, their number and so many page numbers, falling.
        """
        assert self._next is not None
        first_page = (used_bytes + KEPT_FREE_BYTES) // self._page_bytes
        first, done = self._next
        work = 0
        for key, offset, size in free.entries(first.to_bytes(8, "big")):
            transaction = int.from_bytes(key, "big")
            if transaction >= before:
                break
            pages = array("Q", free.read(offset, size))
            for page, count, end in _runs(pages[1 : 1 + pages[0]], done if transaction == first else 0):
                work += 1
                if page >= first_page and count >= RUN_PAGES:
                    self._punch(page * self._page_bytes, count * self._page_bytes)
                    work += count
                if work >= SLICE_PAGES:
                    self._next = (transaction, end)
                    return
        self._next, self._seen = None, before - 1
        if self._is_whole:
            self._kept_bytes = file_bytes


def _runs(pages: "array[int]", start: int) -> Iterator[tuple[int, int, int]]:
    """The runs among falling page numbers, from an index on: the lowest page, count, and the index behind."""
    while start < len(pages):
        # In a run, page and index have always the same sum; behind it, smaller ones.
        behind = 1 - (pages[start] + start)
        near = range(min(len(pages), start + SLICE_PAGES))
        end = bisect_left(near, behind, lo=start, key=lambda at: -(pages[at] + at))
        yield pages[end - 1], end - start, end
        start = end
