"""Resource alarms: while memory or disk is short, connections that publish are not read; consumers go on.

RabbitMQ's rule: a connection is blocked by its first publish during an alarm, is told why with
connection.blocked if it understands that, and goes on when no alarm is left. What was read is not refused.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

RELEASE_FRACTION = 0.05  # an alarm ends this far on the good side of its limit, so that it does not flutter
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Limits:
    """When the alarms go off."""

    memory_bytes: int
    """More of the process's own memory than this."""
    disk_free_bytes: int
    """Less room than this on the file system of the data directory."""


NO_LIMITS = Limits(memory_bytes=sys.maxsize, disk_free_bytes=0)


class Alarms:
    """One per broker; the server feeds it, sessions ask it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._memory = False
        self._disk = False
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_active(self) -> bool:
        return self._memory or self._disk

    @property
    def reason(self) -> str:
        """In the words of connection.blocked."""
        return "low on " + " & ".join(
            name for name, active in (("memory", self._memory), ("disk", self._disk)) if active
        )

    def when_clear(self, callback: Callable[[], None]) -> None:
        """Call back once, when no alarm is left."""
        self._waiting[callback] = None

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call back any more. Idempotent."""
        self._waiting.pop(callback, None)

    def update(self, memory_bytes: int, disk_free_bytes: int) -> None:
        """What the machine says now."""
        limits = self._limits
        memory_margin = RELEASE_FRACTION * limits.memory_bytes if self._memory else 0
        disk_margin = RELEASE_FRACTION * limits.disk_free_bytes if self._disk else 0
        self._set(
            memory_bytes > limits.memory_bytes - memory_margin,
            disk_free_bytes < limits.disk_free_bytes + disk_margin,
        )

    def _set(self, memory: bool, disk: bool) -> None:
        was_active = self.is_active
        if (memory, disk) != (self._memory, self._disk):
            self._memory, self._disk = memory, disk
            if self.is_active:
                log.warning("%s: publishers are blocked", self.reason)
            else:
                log.warning("no longer low on anything: publishers go on")
        if was_active and not self.is_active:
            waiting, self._waiting = self._waiting, {}
            for callback in waiting:
                callback()


def memory_of_machine() -> int:
    """Bytes that this process could use at most: the machine's, or less if its control group has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    try:
        return min(machine, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return machine


def memory_used() -> int:
    """Bytes of this process's own: what is mapped from files (the log) is the kernel's to take back."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        _, resident, shared, *_ = statm.read().split()
    return (int(resident) - int(shared)) * PAGE_BYTES


def disk_free(directory: Path) -> int:
    """Bytes that may still be written to the file system of a directory."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
