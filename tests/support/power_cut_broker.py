"""`leveret` as the power-cut experiment runs it: what takes gigabytes elsewhere happens all the time.

Little of a queue stays in memory, and few dead bytes are enough for cleaning. With `--unsynced` as the first
argument LMDB syncs nothing, with `--unsynced-tail` the tail does not: what the experiment must not let pass.
"""

import mmap
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import lmdb

from leveret.broker.cli import main
from leveret.broker.durability import cleaner
from leveret.broker.queues import lane, windows
from leveret.storage import tail_file
from leveret.storage.aio import Aio

UNSYNCED, UNSYNCED_TAIL = "--unsynced", "--unsynced-tail"
BOUNDS: tuple[tuple[ModuleType, str, int], ...] = (
    (cleaner, "SLACK_BYTES", 100_000),
    (windows, "WINDOW_BYTES", 10_000),
    (windows, "LET_GO_AT_BYTES", 20_000),
    (windows, "READ_AHEAD_BYTES", 5_000),
    (lane, "READ_AHEAD_BYTES", 5_000),
)


class RecordedAio(Aio):
    """strace does not tell to which file the kernel writes by itself: when it has, the same is written again
    in a way that is recorded, before anybody hears of it.
    """

    def __init__(self, descriptor: int, buffer: mmap.mmap) -> None:
        super().__init__(descriptor, buffer)
        self._file, self._buffer = descriptor, buffer

    def start(self, size: int, offset: int, done: Callable[[int], None]) -> None:
        def write_again(octets: int) -> None:
            if octets > 0:
                with memoryview(self._buffer) as whole, whole[:octets] as piece:
                    assert os.pwrite(self._file, piece, offset) == octets
            done(octets)

        super().start(size, offset, write_again)


tail_file.Aio = RecordedAio  # type: ignore[misc]
for module, name, value in BOUNDS:
    assert getattr(module, name) > value
    setattr(module, name, value)
if sys.argv[1] == UNSYNCED:
    del sys.argv[1]
    open_environment: Any = lmdb.open
    lmdb.open = lambda *arguments, **options: open_environment(*arguments, **options | {"sync": False})  # type: ignore[assignment]
elif sys.argv[1] == UNSYNCED_TAIL:
    del sys.argv[1]
    tail_file.SYNCED = 0
main()
