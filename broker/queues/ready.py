"""The ready messages of one queue, in the order in which they are delivered.

A queue owns exactly one of these. Order is `message.sequence`, below an `x-max-priority` queue's levels: a
copy that was given back therefore returns to its original position, whatever was delivered or published
meanwhile.

Invariants:
- `count` and `body_bytes` are exact at all times: of the copies in here whose state is READY.
- A copy that ends while it lies in here (it expired) is reported with `forget` and skipped lazily; the
  memory of such copies is bounded by that of the live ones, because they are thrown out when they outnumber
  them.
- Nothing here costs more than O(log n); adding and taking without give-backs is O(1).
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, merge
from operator import itemgetter
from typing import Protocol

from ..message import CopyState, QueuedMessage

GONE_TOLERATED = 64  # ended copies that are not worth a clean-up, however few live ones there are

_READY = CopyState.READY


class ReadyMessages(Protocol):
    """What a queue asks of its ready messages."""

    @property
    def count(self) -> int:
        """How many messages are ready."""

    @property
    def body_bytes(self) -> int:
        """The size of their bodies together."""

    def add(self, copy: QueuedMessage) -> None:
        """Put a READY copy at its place: a new one at the end, one that was given back where it was."""

    def pop(self) -> QueuedMessage | None:
        """Take the head out."""

    def forget(self, copy: QueuedMessage) -> None:
        """A copy in here is no longer READY; it will not come out again."""

    def drain(self) -> list[QueuedMessage]:
        """Take everything out, in order."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        """What is ready, in order."""


def ready_messages(max_priority: int | None) -> ReadyMessages:
    """An empty collection for a queue with this `x-max-priority` (None: a queue without priorities)."""
    return FifoMessages() if max_priority is None else PriorityMessages()


class FifoMessages:
    """In sequence order.

    Copies nearly always come in rising order, so they lie in a deque. Those that do not (given back, or
    late) lie in a heap, and the head is the smaller of the two heads.
    """

    __slots__ = ("_gone", "_in_order", "_last_sequence", "_out_of_order", "body_bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.body_bytes = 0
        self._in_order: deque[QueuedMessage] = deque()
        self._last_sequence = 0  # the highest sequence that ever went into `_in_order`
        self._out_of_order: list[tuple[int, QueuedMessage]] = []  # a heap by sequence
        self._gone = 0  # copies in either that are no longer READY

    def add(self, copy: QueuedMessage) -> None:
        message = copy.message
        sequence = message.sequence
        if sequence > self._last_sequence:
            self._last_sequence = sequence
            self._in_order.append(copy)
        else:
            heappush(self._out_of_order, (sequence, copy))
        self.count += 1
        self.body_bytes += len(message.body)

    def pop(self) -> QueuedMessage | None:
        in_order = self._in_order
        out_of_order = self._out_of_order
        while True:
            if out_of_order and (not in_order or out_of_order[0][0] < in_order[0].message.sequence):
                copy = heappop(out_of_order)[1]
            elif in_order:
                copy = in_order.popleft()
            else:
                return None
            if copy.state is _READY:
                self.count -= 1
                self.body_bytes -= len(copy.message.body)
                return copy
            self._gone -= 1

    def forget(self, copy: QueuedMessage) -> None:
        self.count -= 1
        self.body_bytes -= len(copy.message.body)
        self._gone += 1
        if self._gone > self.count + GONE_TOLERATED:
            self._throw_out_gone()

    def drain(self) -> list[QueuedMessage]:
        copies = list(self)
        self._in_order.clear()
        self._out_of_order.clear()
        self.count = self.body_bytes = self._gone = 0
        return copies

    def __iter__(self) -> Iterator[QueuedMessage]:
        returned = [copy for _, copy in sorted(self._out_of_order, key=itemgetter(0))]
        everything = merge(returned, self._in_order, key=lambda copy: copy.message.sequence)
        return (copy for copy in everything if copy.state is _READY)

    def _throw_out_gone(self) -> None:
        self._in_order = deque(copy for copy in self._in_order if copy.state is _READY)
        self._out_of_order = [entry for entry in self._out_of_order if entry[1].state is _READY]
        heapify(self._out_of_order)
        self._gone = 0


class PriorityMessages:
    """Strictly the highest priority first; inside one priority in sequence order."""

    __slots__ = ("_levels", "_occupied", "body_bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.body_bytes = 0
        self._levels: dict[int, FifoMessages] = {}  # by priority, made when first used
        self._occupied = 0  # bit p is set while level p has something ready

    def add(self, copy: QueuedMessage) -> None:
        priority = copy.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = FifoMessages()
        level.add(copy)
        self._occupied |= 1 << priority
        self.count += 1
        self.body_bytes += len(copy.message.body)

    def pop(self) -> QueuedMessage | None:
        if not self._occupied:
            return None
        priority = self._occupied.bit_length() - 1
        copy = self._levels[priority].pop()
        assert copy is not None, "an occupied level is not empty"
        self._took_out(copy)
        return copy

    def forget(self, copy: QueuedMessage) -> None:
        self._levels[copy.priority].forget(copy)
        self._took_out(copy)

    def drain(self) -> list[QueuedMessage]:
        copies = list(self)
        self._levels.clear()
        self.count = self.body_bytes = self._occupied = 0
        return copies

    def __iter__(self) -> Iterator[QueuedMessage]:
        for priority in sorted(self._levels, reverse=True):
            yield from self._levels[priority]

    def _took_out(self, copy: QueuedMessage) -> None:
        self.count -= 1
        self.body_bytes -= len(copy.message.body)
        if not self._levels[copy.priority].count:
            self._occupied &= ~(1 << copy.priority)
