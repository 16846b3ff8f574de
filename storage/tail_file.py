"""The file of the tail as a disk: what was written is there when that is said.

Threads may use it in turn. Its owner sees to it that they do not meet: there is one buffer, for one write.
"""

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .aio import Aio

BUFFER_BYTES = 128 * 1024
"""No write is longer."""

SYNCED = os.O_DSYNC
"""A write returns when its bytes are on the disk."""


FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs"})
"""Where the kernel may write by itself. Not Btrfs: until Linux 6.0.8 it forgot the sync of such a write."""

REFUSALS_MAX = 8
"""In a row, of writes that the kernel could not do without waiting: then it is not asked any more (XFS)."""

SLOW_S = 0.01
SLOW_MAX = 10
"""It may have to wait even to begin one, and the loop with it. If that happens so often, likewise."""


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
        self._refusals = 0  # in a row
        self._slow = 0

    def attend(self) -> None:
        """From now on the running loop can `start` writes, if this is a place for it."""
        if self._is_direct and _file_system(self._descriptor) in FILE_SYSTEMS:
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
            try:
                return os.pwrite(self._descriptor, piece, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._is_direct = False  # its blocks are larger than our pieces, say
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
                return os.pwrite(self._descriptor, piece, offset)

    def start(self, data: bytes, offset: int, done: Callable[[int], None]) -> bool:
        """Begin to write; `done` is called with the number of octets, or an error's negated.

        Returns whether it began; if not, `write` is the way.
        """
        if not self._is_direct:
            self._give_up_aio()
        if self._aio is None:
            return False
        self._buffer[: len(data)] = data
        began = time.perf_counter()
        try:
            self._aio.start(len(data), offset, lambda octets: done(self._judged(octets)))
        except OSError as error:
            self._judged(-(error.errno or errno.EINVAL))
            return False
        self._slow += time.perf_counter() - began > SLOW_S
        return True

    def _judged(self, octets: int) -> int:
        """What the kernel answered; that it cannot do it without waiting, and not at all, is one."""
        is_refused = -octets in {errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL}
        self._refusals = self._refusals + 1 if is_refused else 0
        if (
            octets in {-errno.EOPNOTSUPP, -errno.EINVAL}
            or max(self._refusals - REFUSALS_MAX, self._slow - SLOW_MAX) >= 0
        ):
            self._give_up_aio()
        return -errno.EAGAIN if is_refused else octets

    def _give_up_aio(self) -> None:
        if self._aio is not None:
            self._aio.close()
            self._aio = None


def _file_system(descriptor: int) -> str:
    """Its type; "" if the device is not among those mounted, as that of btrfs never is."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for mount in mounts:
        if mount.split()[2] == number:
            return mount.partition(" - ")[2].split()[0]
    return ""
