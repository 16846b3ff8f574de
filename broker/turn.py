"""The end of the loop's turn: work that many events of one turn share is done once.

Whatever happens in a turn only marks queues and sessions. At its end, in this order: queues hand messages to
consumers, the committer is told that there is work, and every marked session writes what it buffered in one
go.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .queues.queue import Queue

# Dead lettering can mark queues while queues are dispatched. A chain of dead-letter exchanges is done in so
# many rounds; a backlog that expires needs more, which wait for the next turn, for others must get theirs.
DISPATCH_ROUNDS_MAX = 10

log = logging.getLogger(__name__)


class Flushable(Protocol):
    """Who writes at the end of a turn."""

    def flush(self) -> None: ...


class Turn:
    """One per broker. `schedule` runs a callback once, soon, on the loop."""

    def __init__(
        self, schedule: Callable[[Callable[[], None]], object], kick_committer: Callable[[], None]
    ) -> None:
        self._schedule = schedule
        self._kick_committer = kick_committer
        self._queues: dict[Queue, None] = {}
        self._flushables: dict[Flushable, None] = {}
        self._scheduled = False

    def mark_queue(self, queue: "Queue") -> None:
        """The queue may have something to deliver."""
        self._queues[queue] = None
        if not self._scheduled:
            self.wake()

    def mark_flush(self, flushable: Flushable) -> None:
        """There is something to write."""
        self._flushables[flushable] = None
        if not self._scheduled:
            self.wake()

    def wake(self) -> None:
        """See to it that the end of the turn comes."""
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self.end)

    def end(self) -> None:
        """Do what was marked."""
        self._scheduled = False
        for _ in range(DISPATCH_ROUNDS_MAX):
            if not self._queues:
                break
            queues, self._queues = self._queues, {}
            for queue in queues:
                try:
                    queue.dispatch()
                except Exception:  # a bug, but of one queue: the others must go on
                    log.exception("%s could not do what was due", queue)
        else:
            self.wake()
        self._kick_committer()
        flushables, self._flushables = self._flushables, {}
        for flushable in flushables:
            flushable.flush()
