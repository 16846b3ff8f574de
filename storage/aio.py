"""Writes by the kernel itself: Linux's asynchronous I/O on one file, one write at a time.

A thread that writes needs the interpreter twice, and waits for it while the loop's thread computes: of 390 us
that an append took in a broker with one publisher, the disk had 100. Here the loop hands the write over, and
the kernel rings a bell (eventfd) that the loop listens to when it has ended.

The file must be open with O_DIRECT: only then does the kernel not write while it is asked. RWF_NOWAIT asks it
to refuse what it cannot do without waiting; file systems follow that in part.
"""

import asyncio
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Callable

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""Of io_setup, io_destroy, io_getevents and io_submit, which have no wrappers in the C library."""

_IOCB = struct.Struct("<QIiHhIQQqQII")  # of include/uapi/linux/aio_abi.h; likewise on all of these machines
_EVENT = struct.Struct("<QQqq")
_PWRITE = 1
_NOWAIT = 8
_RING_BELL = 1
_WITHOUT_KEY = 0


class Aio:
    """The loop's thread owns it, and from `start` to the answer what is in the buffer."""

    def __init__(self, descriptor: int, buffer: mmap.mmap) -> None:
        """Listen on the running loop. Raises OSError where the kernel has no such thing, or allows none."""
        if platform.machine() not in _NUMBERS or struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._setup, self._destroy, self._getevents, self._submit = _NUMBERS[platform.machine()]
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._descriptor = descriptor
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._request = ctypes.create_string_buffer(_IOCB.size)
        self._requests = ctypes.byref(ctypes.c_void_p(ctypes.addressof(self._request)))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._done: Callable[[int], None] | None = None
        self._context = ctypes.c_ulong(0)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._call(self._setup, 1, ctypes.byref(self._context))
        except OSError:
            os.close(self._bell)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._bell, self._on_bell)

    def start(self, size: int, offset: int, done: Callable[[int], None]) -> None:
        """Write the first octets of the buffer; `done` gets their number, or an error's negated.

        Raises OSError when it does not even begin.
        """
        assert self._done is None
        fields = (_WITHOUT_KEY, _NOWAIT, _PWRITE, 0, self._descriptor, self._address, size, offset, 0)
        _IOCB.pack_into(self._request, 0, 0, *fields, _RING_BELL, self._bell)
        self._call(self._submit, self._context, ctypes.c_long(1), self._requests)
        self._done = done

    def close(self) -> None:
        """What is under way ends first."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._bell)
        self._call(self._destroy, self._context)
        os.close(self._bell)

    def _on_bell(self) -> None:
        os.eventfd_read(self._bell)
        one = ctypes.c_long(1)
        self._call(self._getevents, self._context, one, one, self._event, None)
        done, self._done = self._done, None
        assert done is not None
        _, _, octets, _ = _EVENT.unpack(self._event)
        done(octets)

    def _call(self, number: int, *arguments: object) -> None:
        if self._syscall(ctypes.c_long(number), *arguments) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
