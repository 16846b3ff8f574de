"""The ready messages of one queue, in the order in which they are delivered.

A queue owns exactly one of these: a `Lane`, or in a queue with `x-max-priority` a lane for each priority.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ..message import QueuedMessage
from .lane import Emptied, Lane

if TYPE_CHECKING:
    from .queue import Queue


class ReadyMessages(Protocol):
    """What a queue asks of its ready messages."""

    @property
    def count(self) -> int:
        """How many messages are ready, in memory or not."""

    @property
    def body_bytes(self) -> int:
        """The size of their bodies together."""

    @property
    def lanes(self) -> Iterable[Lane]:
        """Those that exist."""

    def lane(self, priority: int) -> Lane:
        """The lane of a priority, made where there is none yet."""

    def add(self, copy: QueuedMessage) -> None:
        """Put a READY copy at its place: a new one at the end, one that was given back where it was."""

    def extend(self, copies: Sequence[QueuedMessage]) -> None:
        """Put new READY copies of one priority at the end."""

    def take(self, count_max: int, bytes_max: int) -> list[QueuedMessage]:
        """Take some out at the head, one at least, until it is so many or so much (of octets to be sent).

        There may be more in spite of that. None when there is nothing, or when the head must be read first
        (`count` tells).
        """

    def pop(self) -> QueuedMessage | None:
        """Take the head out; None when there is nothing, or when it must be read first (`count` tells)."""

    def read_ahead(self) -> None:
        """See to it that the head is in memory before it is asked for."""

    def forget(self, copy: QueuedMessage) -> None:
        """A copy in here is no longer READY; it will not come out again."""

    def drain(self) -> list[Emptied]:
        """Take everything out of every lane."""

    def recount(self) -> None:
        """Lanes were filled behind our back (recovery does)."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        """What is ready in memory, in order."""


class NothingReady:
    """What all queues have that never had a message: tens of thousands may be declared and hardly used."""

    __slots__ = ()

    count = 0
    body_bytes = 0
    lanes: Iterable[Lane] = ()

    def lane(self, priority: int) -> Lane:
        raise AssertionError("the queue makes its own before it asks for a lane")

    def add(self, copy: QueuedMessage) -> None:
        raise AssertionError("the queue makes its own before it adds anything")

    def extend(self, copies: Sequence[QueuedMessage]) -> None:
        raise AssertionError("the queue makes its own before it adds anything")

    def take(self, count_max: int, bytes_max: int) -> list[QueuedMessage]:
        return []

    def pop(self) -> None:
        """There is nothing."""

    def read_ahead(self) -> None:
        """There is nothing."""

    def forget(self, copy: QueuedMessage) -> None:
        raise AssertionError("no copy was ever in here")

    def drain(self) -> list[Emptied]:
        return []

    def recount(self) -> None:
        """There is nothing."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        return iter(())


NOTHING_READY = NothingReady()


def ready_messages(queue: "Queue", max_priority: int | None) -> ReadyMessages:
    """An empty collection for a queue with this `x-max-priority` (None: a queue without priorities)."""
    return FifoMessages(queue, 0) if max_priority is None else PriorityMessages(queue)


class FifoMessages(Lane):
    """In sequence order: a single lane."""

    __slots__ = ()

    @property
    def lanes(self) -> Iterable[Lane]:
        return (self,)

    def lane(self, priority: int) -> Lane:
        return self

    def drain(self) -> list[Emptied]:
        return [self.empty()]

    def recount(self) -> None:
        """A lane counts for itself."""


class PriorityMessages:
    """Strictly the highest priority first; inside one priority in sequence order."""

    __slots__ = ("_levels", "_occupied", "_queue", "body_bytes", "count")

    def __init__(self, queue: "Queue") -> None:
        self.count = 0
        self.body_bytes = 0
        self._queue = queue
        self._levels: dict[int, Lane] = {}  # by priority, made when first used
        self._occupied = 0  # bit p is set while level p has something ready

    @property
    def lanes(self) -> Iterable[Lane]:
        return self._levels.values()

    def lane(self, priority: int) -> Lane:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = Lane(self._queue, priority)
        return level

    def add(self, copy: QueuedMessage) -> None:
        self.lane(copy.priority).add(copy)
        self._put_in(copy)

    def extend(self, copies: Sequence[QueuedMessage]) -> None:
        self.lane(copies[0].priority).extend(copies)
        for copy in copies:
            self._put_in(copy)

    def take(self, count_max: int, bytes_max: int) -> list[QueuedMessage]:
        if not self._occupied:
            return []
        # Where the head must be read, nothing of a lower priority may go before it.
        taken = self._levels[self._occupied.bit_length() - 1].take(count_max, bytes_max)
        for copy in taken:
            self._took_out(copy)
        return taken

    def pop(self) -> QueuedMessage | None:
        taken = self.take(1, 1)
        return taken[0] if taken else None

    def read_ahead(self) -> None:
        if self._occupied:
            self._levels[self._occupied.bit_length() - 1].read_ahead()

    def forget(self, copy: QueuedMessage) -> None:
        self._levels[copy.priority].forget(copy)
        self._took_out(copy)

    def drain(self) -> list[Emptied]:
        drained = [lane.empty() for _, lane in sorted(self._levels.items(), reverse=True)]
        self.count = self.body_bytes = self._occupied = 0
        return drained

    def recount(self) -> None:
        levels = self._levels
        self.count = sum(lane.count for lane in levels.values())
        self.body_bytes = sum(lane.body_bytes for lane in levels.values())
        self._occupied = sum(1 << priority for priority, lane in levels.items() if lane.count)

    def __iter__(self) -> Iterator[QueuedMessage]:
        for priority in sorted(self._levels, reverse=True):
            yield from self._levels[priority]

    def _put_in(self, copy: QueuedMessage) -> None:
        self._occupied |= 1 << copy.priority
        self.count += 1
        self.body_bytes += len(copy.message.body)

    def _took_out(self, copy: QueuedMessage) -> None:
        self.count -= 1
        self.body_bytes -= len(copy.message.body)
        if not self._levels[copy.priority].count:
            self._occupied &= ~(1 << copy.priority)
