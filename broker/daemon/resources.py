"""What the machine has left: asks it every now and then, and tells the alarms.

How much room the log has is the engine's to say: pages that are free in its file count, too.
"""

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

from leveret.storage.engine import Durability, EngineError, LogEngine

from ..alarms import Alarms, Limits
from .config import MIB, Config

log = logging.getLogger(__name__)

LOOK_S = 0.5
DISK_FREE_LIMIT_BYTES = 256 * MIB
DISK_FREE_SHARE = 0.15  # of a file system on which that would be more
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ResourceWatch:
    """One per server."""

    def __init__(self, engine: LogEngine, alarms: Alarms, make_room: Callable[[], None]) -> None:
        """`make_room` is called while the disk is low: publishers wait, and no commit may come by itself."""
        self._engine = engine
        self._alarms = alarms
        self._make_room = make_room

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # out of file descriptors, say: the next time may be better
                log.exception("looking at what the machine has left failed")

    async def look(self) -> None:
        """Tell the alarms what there is now."""
        if self._alarms.memory_is_low:
            await asyncio.to_thread(give_back_memory)
        try:
            stats = await self._engine.stats()
        except EngineError:
            return  # it ended; the committer hears of it, too, and that ends the broker
        self._alarms.update(memory_used(), stats.free_bytes)
        if self._alarms.disk_is_low:
            self._make_room()


def limits_of(config: Config, engine: LogEngine) -> Limits:
    """When the alarms go off, on this machine. The data directory exists."""
    memory = int(config.memory_high_watermark * memory_of_machine())
    if engine.caps.durability is Durability.MEMORY:
        return Limits(memory, disk_free_bytes=0)
    return Limits(memory, disk_free_limit(config.disk_free_limit_bytes, disk_size(config.data_dir)))


def disk_free_limit(configured: int | None, disk_bytes: int) -> int:
    """What was asked for; else enough for every disk, but on a small one a share that leaves something."""
    if configured is not None:
        return configured
    return min(DISK_FREE_LIMIT_BYTES, int(DISK_FREE_SHARE * disk_bytes))


def disk_size(directory: Path) -> int:
    """Bytes that the file system of a directory has for everybody, without what is kept for root."""
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree + status.f_bavail) * status.f_frsize


def memory_of_machine() -> int:
    """Bytes that this process could use at most: the machine's, or less if its control group has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    try:
        return min(machine, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return machine


def give_back_memory() -> None:
    """Return to the system what was freed. glibc keeps what lies between pieces still in use, and so the
    memory that bodies took would count until the process ends. Takes about 0.5 s per GB, once.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # else another C library
        trim(0)


def memory_used() -> int:
    """Bytes of this process's own: what is mapped from files (the log) is the kernel's to take back."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        _, resident, shared, *_ = statm.read().split()
    return (int(resident) - int(shared)) * PAGE_BYTES
