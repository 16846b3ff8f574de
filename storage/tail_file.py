"""The file of the tail as a disk: what was written is there when that is said.

Threads may use it in turn. Its owner sees to it that they do not meet: there is one buffer, for one write.
"""

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .aio import Aio

BUFFER_BYTES = 128 * 1024
"""No write is longer."""

SYNCED = os.O_DSYNC
"""A write returns when its bytes are on the disk."""


class TailFile:
    """Open, and written past the page cache where the file system can do that."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        flags = os.O_RDWR | os.O_CLOEXEC | SYNCED
        self._is_direct = True
        try:
            self._descriptor = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._is_direct = False
            self._descriptor = os.open(path, flags)
        # The kernel does not write directly without waiting what it has in memory as well.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # begins with a page, as it must
        self._aio: Aio | None = None

    def attend(self) -> None:
        """From now on the running loop can `start` writes, if this is a place for it."""
        if self._is_direct:
            with suppress(OSError):
                self._aio = Aio(self._descriptor, self._buffer)

    def close(self) -> None:
        """To be called from the loop, if it attends."""
        self._give_up_aio()
        os.close(self._descriptor)

    def write(self, data: bytes, offset: int) -> int:
        """Returns how many octets are on the disk. Raises OSError."""
        self._buffer[: len(data)] = data
        with memoryview(self._buffer) as whole, whole[: len(data)] as piece:
            return os.pwrite(self._descriptor, piece, offset)

    def start(self, data: bytes, offset: int, done: Callable[[int], None]) -> bool:
        """Begin to write; `done` is called with the number of octets, or an error's negated.

        Returns whether it began; if not, `write` is the way.
        """
        if self._aio is None:
            return False
        self._buffer[: len(data)] = data
        try:
            self._aio.start(len(data), offset, done)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # the file system cannot do it at all
                self._give_up_aio()
            return False
        return True

    def _give_up_aio(self) -> None:
        if self._aio is not None:
            self._aio.close()
            self._aio = None
