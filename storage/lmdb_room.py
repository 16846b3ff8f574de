"""Room on the disk for LMDB's data file, allocated before it is needed.

A commit must not meet a full disk: any commit error ends the engine. So the file is always allocated some way
beyond the pages in use, and a transaction only ever writes to what is allocated. When the disk has no more,
LMDB's map is cut to what there is: LMDB then goes on using the free pages inside the file, and says "map
full" before it writes anything. Ordinary appends leave some of them free, as a reserve for urgent ones and
for the operations by which room comes back, drops and checkpoints.

Allocating ahead also makes commits quicker, which need not enlarge the file: small ones take a quarter less
on ext4.

Pages that LMDB touches in its map count as the process's memory, though they are only the page cache: four
tenths of what is appended, and of what is dropped. So the map is laid out anew now and then.

The writer thread owns it, and calls it only between write transactions but for `require`; while it has
nothing to do, the loop may ask `has_allocated`.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from . import failpoints
from .lmdb_file import MetaPages, punch_hole

AHEAD_BYTES = 32 * 1024 * 1024
"""What is allocated behind the pages in use, at least, while the disk has it."""

RESERVE_BYTES = 24 * 1024 * 1024
"""What ordinary appends leave when the disk is full.

Urgent ones may take two thirds: an owner that stopped its publishers has up to 16 MiB under way. The rest is
left to drops and checkpoints: without them no room would ever come back.
"""

TOUCHED_BYTES_MAX = 32 * 1024 * 1024
"""What transactions may touch of the map until it is laid out anew, which takes 0.05 to 0.2 ms."""

COMMIT_TOUCHES_BYTES = 64 * 1024
"""By its own pages."""

DROP_TOUCHES_BYTES = 128 * 1024
"""By one blob: its first page, and what the kernel maps around it."""

FILL_BELOW_BYTES = 256 * 1024 * 1024
"""Of free disk: holes in the file are filled again, while there is something to fill them with."""

_STEP_BYTES_MAX = 64 * 1024 * 1024  # beyond that, an eighth of the file at a time, at most this
_LEFT_BYTES = 1024 * 1024  # on the disk, for what the file system itself needs


class NoRoom(Exception):
    """A transaction did not fit; nothing was written."""


class Room:
    """What is allocated for one data file, and how far LMDB may use it."""

    def __init__(
        self, path: Path, metas: MetaPages, map_bytes: int, set_map_bytes: Callable[[int], None]
    ) -> None:
        """`set_map_bytes` changes LMDB's map; it is `map_bytes` large."""
        self._path = path
        self._metas = metas
        self._map_bytes_max = map_bytes
        # A store that was given little has to make do with little.
        self._ahead = min(AHEAD_BYTES, map_bytes // 4)
        self.reserve_bytes = min(RESERVE_BYTES, map_bytes // 8)
        self._map_bytes = map_bytes
        self._set_map_bytes = set_map_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._allocated = os.fstat(self._descriptor).st_size
        self._has_holes = self.file_bytes < self._allocated
        self._end = 0  # of the pages in use, if all that this transaction appends is put behind them
        self._is_cut = False  # whether the map ends where the disk does
        self._touched = 0  # bytes of the map, since it was laid out

    @property
    def file_bytes(self) -> int:
        """What the file takes of the disk."""
        stat = os.fstat(self._descriptor)
        return min(stat.st_blocks * 512, stat.st_size)

    @property
    def disk_bytes(self) -> int:
        """By how much the file can still be enlarged."""
        disk = os.fstatvfs(self._descriptor)
        return min(max(0, disk.f_bavail * disk.f_frsize - _LEFT_BYTES), self._map_bytes_max - self._allocated)

    def close(self) -> None:
        os.close(self._descriptor)

    def begin(self, *, in_need: bool) -> None:
        """Before a write transaction: allocate ahead, or cut the map to what is allocated.

        One that did not fit before is `in_need`: it must do with what is allocated.
        """
        self.touch(COMMIT_TOUCHES_BYTES)
        if self._has_holes and self.disk_bytes < FILL_BELOW_BYTES:
            self._fill_holes()
        self._end = (self._metas.last_page() + 1) * self._metas.page_bytes
        self._is_cut = not self._allocate(self._end + self._ahead) or in_need
        self._resize(self._allocated if self._is_cut else self._map_bytes_max)

    def require(self, size: int, used_bytes: Callable[[], int], *, urgent: bool) -> None:
        """Within a transaction, before it appends this much. Raises NoRoom.

        Where the map was cut, LMDB itself finds out whether there are pages for it; here it is only seen to
        that enough are left.
        """
        self._end += size
        self.touch(size)
        spared = self.reserve_bytes // 3 if urgent else self.reserve_bytes
        if self._is_cut:
            fits = used_bytes() + size + spared <= self.file_bytes
        else:
            fits = self._allocate(self._end + spared)
        if not fits:
            raise NoRoom

    def has_ahead(self, size: int) -> bool:
        """Between transactions: whether one that appends this much would certainly fit."""
        return not self._is_cut and self._allocate(self._end + size + self.reserve_bytes)

    def has_allocated(self, size: int) -> bool:
        """As `has_ahead`, without allocating anything for it; for the loop, while the writer is idle."""
        return not self._is_cut and self._end + size + self.reserve_bytes <= self._allocated

    def touch(self, size: int) -> None:
        """This transaction touches about this much of the map."""
        self._touched += size

    def punch(self, offset: int, size: int) -> None:
        """Make a hole in the file, where no page is in use, if the disk is roomy."""
        if self.disk_bytes >= 2 * FILL_BELOW_BYTES:
            self._has_holes |= punch_hole(self._descriptor, offset, size)

    def _fill_holes(self) -> None:
        """Allocate all of the file again, from its beginning, which LMDB uses first."""
        for offset in range(0, self._allocated, _STEP_BYTES_MAX):
            size = min(_STEP_BYTES_MAX, self._allocated - offset)
            try:
                os.posix_fallocate(self._descriptor, offset, size)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                return
        self._has_holes = False

    def _resize(self, map_bytes: int) -> None:
        """See that the map is so large, and that not too much of it was touched."""
        if map_bytes != self._map_bytes or self._touched > TOUCHED_BYTES_MAX:
            self._set_map_bytes(map_bytes)
            self._map_bytes = map_bytes
            self._touched = 0

    def _allocate(self, needed: int) -> bool:
        """See that the file is allocated up to `needed`, or generously further, but never beyond the map.

        Where the disk has too little for it, take what it has.
        """
        if needed <= self._allocated:
            return True
        there_is = self._allocated + self.disk_bytes
        generous = needed + min(self._allocated // 8, _STEP_BYTES_MAX)
        for wanted in (generous, needed):
            target = min(wanted, there_is)
            if target <= self._allocated:
                break
            try:
                if failpoints.armed:
                    failpoints.hit("allocate")
                os.posix_fallocate(self._descriptor, self._allocated, target - self._allocated)
                self._allocated = target
                break
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                self._allocated = os.fstat(self._descriptor).st_size  # some file systems give a part
        return needed <= self._allocated
