"""When things of a queue expire: its messages (TTL) and the queue itself (`x-expires`).

A queue owns one of each as far as it needs them. Both keep at most one timer, and neither trusts it to be
on time: the queue asks `take_due` before it hands anything out.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from ..message import CopyState, QueuedMessage
from ..services import Services, Timer

if TYPE_CHECKING:
    from .lane import Lane

_ColdRun = tuple[
    int, int, int, "Lane"
]  # expires_at, first sequence, priority (lanes cannot be compared), lane

CLEAN_UP_AT = 1024  # entries; below that, ended copies are not worth looking for
CLEAN_UP_BYTES = 1024 * 1024  # of bodies; likewise
COLD_RUNS_MAX = 64  # at a time: when a backlog expires others must get their turn


class MessageExpiry:
    """The copies of one queue that have an expiry instant, earliest first.

    Holds every copy in memory that is not GONE and whose instant was not yet reached by `take_due`; those
    that ended for another reason are cleaned out lazily, so that they and their bodies stay fewer than the
    others. Of what is on the disk it holds the instant when the first copy of a run expires; the run is read
    then. Of these, too, the ones that were read or purged before are cleaned out lazily.
    """

    def __init__(self, services: Services, wake: Callable[[], None]) -> None:
        """`wake` is called at or shortly after each instant."""
        self._services = services
        self._wake = wake
        # (expires_at, sequence, number, copy): what was read back may be in here a second time
        self._heap: list[tuple[int, int, int, QueuedMessage]] = []
        self._cold: list[_ColdRun] = []  # a heap
        self._added = 0
        self._body_bytes = 0  # of all in `_heap`
        self._clean_up_at = CLEAN_UP_AT
        self._clean_up_bytes = CLEAN_UP_BYTES
        self._clean_up_cold_at = CLEAN_UP_AT
        self._timer: Timer | None = None
        self._timer_at = 0  # when it fires; meaningless without a timer

    def __bool__(self) -> bool:
        return bool(self._heap or self._cold)

    def add(self, copy: QueuedMessage) -> None:
        """A copy with an `expires_at`. Once is enough, also for one that is taken and given back."""
        assert copy.expires_at is not None
        self._added += 1
        heappush(self._heap, (copy.expires_at, copy.message.sequence, self._added, copy))
        self._body_bytes += len(copy.message.body)
        if len(self._heap) > self._clean_up_at or self._body_bytes > self._clean_up_bytes:
            self._clean_up()
        self._arm()

    def _clean_up(self) -> None:
        self._heap = [entry for entry in self._heap if entry[3].state is not CopyState.GONE]
        heapify(self._heap)
        self._body_bytes = sum(len(entry[3].message.body) for entry in self._heap)
        self._clean_up_at = max(CLEAN_UP_AT, 2 * len(self._heap))
        self._clean_up_bytes = max(CLEAN_UP_BYTES, 2 * self._body_bytes)

    def add_cold(self, expires_at: int, lane: "Lane", first: int) -> None:
        """A run that begins with this sequence, and is not in memory, has a copy that expires then."""
        heappush(self._cold, (expires_at, first, lane.priority, lane))
        if len(self._cold) > self._clean_up_cold_at:
            self._cold = [entry for entry in self._cold if _is_cold(*entry)]
            heapify(self._cold)
            self._clean_up_cold_at = max(CLEAN_UP_AT, 2 * len(self._cold))
        self._arm()

    def take_due(self) -> list[QueuedMessage]:
        """The READY copies whose instant has come.

        UNACKED ones are with a consumer and do not expire there; the queue checks what is given back.
        """
        now_ms = self._services.clock.now_ms()
        heap = self._heap
        due = []
        while heap and (heap[0][0] <= now_ms or heap[0][3].state is CopyState.GONE):
            copy = heappop(heap)[3]
            self._body_bytes -= len(copy.message.body)
            if copy.state is CopyState.READY:
                due.append(copy)
        cold = self._cold
        for _ in range(min(COLD_RUNS_MAX, len(cold))):
            if cold[0][0] > now_ms:
                break
            run = heappop(cold)
            if _is_cold(*run):
                run[3].want_run(run[1])
        self._arm()  # at once where there are more
        return due

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._cold.clear()
        self._body_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """See to it that the timer does not fire later than the first instant; too early does no harm."""
        if not self:
            return
        first_at = min(heap[0][0] for heap in (self._heap, self._cold) if heap)
        if self._timer is not None:
            if self._timer_at <= first_at:
                return
            self._timer.cancel()
        self._timer_at = first_at
        self._timer = self._services.timers.call_at(first_at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._wake()


def _is_cold(expires_at: int, first: int, _: int, lane: "Lane") -> bool:
    """Whether the run is on the disk only, and this is when it expires."""
    row = lane.cold_row(first)
    return row is not None and row.expires_at == expires_at


class QueueExpiry:
    """Ends a queue that nobody used for `expires_ms`: no consumer, no get, no declare."""

    def __init__(
        self,
        services: Services,
        expires_ms: int,
        is_consumed: Callable[[], bool],
        expire: Callable[[], None],
    ) -> None:
        self._services = services
        self._expires_ms = expires_ms
        self._is_consumed = is_consumed
        self._expire = expire
        self._used_at = services.clock.now_ms()
        self._timer = services.timers.call_at(self._used_at + expires_ms, self._fire)

    def touch(self) -> None:
        """The queue was used just now."""
        self._used_at = self._services.clock.now_ms()

    def close(self) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        if self._is_consumed():
            self.touch()
        expires_at = self._used_at + self._expires_ms
        if expires_at <= self._services.clock.now_ms():
            self._expire()
        else:
            self._timer = self._services.timers.call_at(expires_at, self._fire)
