"""Room on the disk for LMDB's data file, allocated before it is needed.

A commit must not meet a full disk: any commit error ends the engine. So the file is always allocated some way
beyond the pages in use, and a transaction only ever writes to what is allocated. When the disk has no more,
LMDB's map is cut to what there is: LMDB then goes on using the free pages inside the file, and says "map
full" before it writes anything. The last part of what is allocated is a reserve: for urgent appends, and for
the operations by which room comes back, drops and checkpoints.

It also makes commits quicker, which need not enlarge the file (a quarter for small ones on ext4).

The writer thread owns it, and calls it only between write transactions but for `require`.
"""

import errno
import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from . import failpoints
from .lmdb_file import MetaPages

AHEAD_BYTES = 32 * 1024 * 1024
"""What is allocated behind the pages in use, at least, while the disk has it."""

RESERVE_BYTES = 24 * 1024 * 1024
"""The last part of it, which ordinary appends may not touch when the disk is full.

Urgent ones may take two thirds: an owner that stopped its publishers has up to 16 MiB under way. The rest is
left to drops and checkpoints: without them no room would ever come back.
"""

_STEP_BYTES_MAX = 64 * 1024 * 1024  # beyond that, an eighth of the file at a time, at most this


class Use(IntEnum):
    """What a transaction is for: how many thirds of the reserve it may have."""

    ORDINARY = 0
    URGENT = 2
    FREEING = 3


class NoRoom(Exception):
    """A transaction did not fit; nothing was written."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.use = use


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
        self._end = 0  # of the pages in use, if all that this transaction appends is put behind them

    def close(self) -> None:
        os.close(self._descriptor)

    def begin(self, use: Use) -> None:
        """Before a write transaction: allocate ahead, or cut the map to what is allocated."""
        self._end = (self._metas.last_page() + 1) * self._metas.page_bytes
        if self._allocate(self._end + self._ahead):
            self._resize(self._map_bytes_max)
        else:
            self._resize(max(self._end, self._allocated - self._spared(use)))

    def require(self, size: int, use: Use) -> None:
        """Within a transaction, before it appends this much. Raises NoRoom.

        Where the map was cut, LMDB itself knows best whether it fits.
        """
        self._end += size
        if self._map_bytes == self._map_bytes_max and not self._allocate(self._end + self._spared(use)):
            raise NoRoom(use)

    def _spared(self, use: Use) -> int:
        """What a transaction must leave of the reserve."""
        return self.reserve_bytes * (Use.FREEING - use) // Use.FREEING

    def _resize(self, map_bytes: int) -> None:
        if map_bytes != self._map_bytes:
            self._set_map_bytes(map_bytes)
            self._map_bytes = map_bytes

    def _allocate(self, needed: int) -> bool:
        """See that the file is allocated up to `needed`, or generously further, but never beyond the map."""
        within_map = min(needed, self._map_bytes_max)
        generous = min(needed + min(self._allocated // 8, _STEP_BYTES_MAX), self._map_bytes_max)
        for target in (generous, within_map):
            if within_map <= self._allocated:
                break
            try:
                if failpoints.armed:
                    failpoints.hit("allocate")
                os.posix_fallocate(self._descriptor, self._allocated, target - self._allocated)
                self._allocated = target
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
        return needed <= self._allocated
