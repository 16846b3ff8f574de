"""Resource alarms: while memory or disk is short, connections that publish are not read; consumers go on.

RabbitMQ's rule: a connection is blocked by its first publish during an alarm, is told why with
connection.blocked if it understands that, and goes on when no alarm is left. What was read is not refused.

The disk is looked at every now and then, and counted down by what is written in between: a fast publisher
fills the last of it within one look.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

MEMORY_MARGIN = 0.05
DISK_MARGIN = 0.25
"""An alarm ends so much of its limit on the good side of it, so that it does not flutter. The disk's is more
than what publishers write before the next alarm stops them."""

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """When the alarms go off."""

    memory_bytes: int
    """More of the process's own memory than this."""
    disk_free_bytes: int
    """Less room for the log than this."""


NO_LIMITS = Limits(memory_bytes=sys.maxsize, disk_free_bytes=0)


class Alarms:
    """One per broker; the server and the committer feed it, sessions ask it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory_is_low = False
        self.disk_is_low = False
        self.memory_bytes = 0  # at the last look
        self.disk_free_bytes = sys.maxsize  # at the last look, less what was written since
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_active(self) -> bool:
        return self.memory_is_low or self.disk_is_low

    @property
    def reason(self) -> str:
        """In the words of connection.blocked."""
        return "low on " + " & ".join(
            name for name, is_low in (("memory", self.memory_is_low), ("disk", self.disk_is_low)) if is_low
        )

    @property
    def waiting_count(self) -> int:
        """How many connections are blocked."""
        return len(self._waiting)

    def when_clear(self, callback: Callable[[], None]) -> None:
        """Call back once, when no alarm is left."""
        self._waiting[callback] = None

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call back any more. Idempotent."""
        self._waiting.pop(callback, None)

    def update(self, memory_bytes: int, disk_free_bytes: int) -> None:
        """What a look at the machine found."""
        self.memory_bytes = memory_bytes
        self.disk_free_bytes = disk_free_bytes
        self._judge()

    def wrote(self, size: int) -> None:
        """So many bytes go to the log. To be called before they are written rather than after it: the alarm
        then stops publishers while the disk is busy.
        """
        self.disk_free_bytes -= size
        self._judge()

    def _judge(self) -> None:
        limits = self.limits
        memory_margin = MEMORY_MARGIN * limits.memory_bytes if self.memory_is_low else 0
        disk_margin = DISK_MARGIN * limits.disk_free_bytes if self.disk_is_low else 0
        self._set(
            self.memory_bytes > limits.memory_bytes - memory_margin,
            self.disk_free_bytes < limits.disk_free_bytes + disk_margin,
        )

    def _set(self, memory_is_low: bool, disk_is_low: bool) -> None:
        if (memory_is_low, disk_is_low) == (self.memory_is_low, self.disk_is_low):
            return
        self.memory_is_low, self.disk_is_low = memory_is_low, disk_is_low
        if self.is_active:
            log.warning("%s: publishers are blocked (%s)", self.reason, self._figures())
            return
        log.warning("no longer low on anything: publishers go on (%s)", self._figures())
        waiting, self._waiting = self._waiting, {}
        for callback in waiting:
            callback()

    def _figures(self) -> str:
        limits = self.limits
        return (
            f"{self.memory_bytes // MIB} MiB of memory in use, limit {limits.memory_bytes // MIB}; "
            f"{self.disk_free_bytes // MIB} MiB of disk free, limit {limits.disk_free_bytes // MIB}"
        )
