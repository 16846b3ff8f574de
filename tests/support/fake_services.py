"""The domain's surroundings, in memory and under the test's control: time stands still until a test moves it.

Make a `FakeServices()` per test: its fields are the fakes, `.services` is what the domain takes.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from leveret.broker.durability.records import unpack_map
from leveret.broker.message import Message, QueuedMessage
from leveret.broker.services import Services

if TYPE_CHECKING:
    from leveret.broker.queues.lane import Lane
    from leveret.broker.queues.queue import Queue
    from leveret.broker.queues.runs import RunTable

START_MS = 1_700_000_000_000


class FakeClock:
    """Stands still until `advance`."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def advance(self, ms: int) -> None:
        self._now_ms += ms


class FakeJournal:
    """Remembers every call, in order per kind."""

    def __init__(self) -> None:
        self.published: list[tuple[Message, list[QueuedMessage]]] = []
        self.settled: list[QueuedMessage] = []
        self.requeued: list[QueuedMessage] = []
        self.changes: list[dict[str, object]] = []
        """Of the topology, unpacked."""
        self.calls: list[tuple[str, object]] = []
        """All of the above, interleaved as they came: ("publish", message), ("settle", copy), ..."""

    def publish(self, messages: Sequence[Message], copies: Collection[QueuedMessage]) -> None:
        for message in messages:
            self.published.append((message, [copy for copy in copies if copy.message is message]))
        self.calls += [("publish", message) for message in messages]

    def settle(self, copies: Iterable[QueuedMessage]) -> None:
        for copy in copies:
            self.settled.append(copy)
            self.calls.append(("settle", copy))

    def requeue(self, copy: QueuedMessage) -> None:
        self.requeued.append(copy)
        self.calls.append(("requeue", copy))

    def purge(self, lane: "Lane", cold: "RunTable") -> None:
        self.calls.append(("purge", lane))

    def close_lane(self, lane: "Lane", cold: "RunTable") -> None:
        lane.is_closed = True

    def topology(self, packed: bytes) -> None:
        change = unpack_map(packed)
        self.changes.append(change)
        self.calls.append(("topology", change))


class FakeReader:
    """Remembers who wants something; nothing is ever read."""

    def __init__(self) -> None:
        self.wanted: list[Lane] = []

    def want(self, lane: "Lane") -> None:
        self.wanted.append(lane)


class FakeSpiller:
    """Remembers where something transient came; nothing is ever spilled."""

    def __init__(self) -> None:
        self.looked_at: list[Lane] = []

    def look_at(self, lane: "Lane") -> None:
        self.looked_at.append(lane)


class FakeTurn:
    """Collects marked queues; `end` is the end of the loop's turn."""

    def __init__(self) -> None:
        self.marked: list[Queue] = []

    def mark_queue(self, queue: "Queue") -> None:
        if queue not in self.marked:
            self.marked.append(queue)

    def end(self) -> None:
        """Dispatch the marked queues, and those that get marked by that, until none is left."""
        while self.marked:
            self.marked.pop(0).dispatch()


class FakeTimer:
    """A pending call; it is due when the clock has reached `when_ms`."""

    def __init__(self, when_ms: int, callback: Callable[[], None]) -> None:
        self.when_ms = when_ms
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTimers:
    """Calls back when `advance` moves the clock over the time of a timer."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._timers: list[FakeTimer] = []

    @property
    def pending(self) -> list[FakeTimer]:
        """What would still be called, earliest first."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return sorted(self._timers, key=lambda timer: timer.when_ms)

    def call_at(self, when_ms: int, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(when_ms, callback)
        self._timers.append(timer)
        return timer

    def advance(self, ms: int) -> None:
        """Move the clock by `ms`, stopping at every timer on the way to call it."""
        end_ms = self._clock.now_ms() + ms
        while (pending := self.pending) and pending[0].when_ms <= end_ms:
            timer = pending[0]
            self._timers.remove(timer)
            self._clock.advance(max(0, timer.when_ms - self._clock.now_ms()))
            timer.callback()
        self._clock.advance(end_ms - self._clock.now_ms())


@dataclass
class FakeServices:
    """The fakes of one test; `services` is what the domain gets."""

    clock: FakeClock = field(default_factory=FakeClock)
    journal: FakeJournal = field(default_factory=FakeJournal)
    turn: FakeTurn = field(default_factory=FakeTurn)
    reader: FakeReader = field(default_factory=FakeReader)
    spiller: FakeSpiller = field(default_factory=FakeSpiller)
    last_sequence: int = 0

    def __post_init__(self) -> None:
        self.timers = FakeTimers(self.clock)
        queue_ids, names = count(1), count(1)
        self.services = Services(
            clock=self.clock,
            journal=self.journal,
            turn=self.turn,
            timers=self.timers,
            reader=self.reader,
            spiller=self.spiller,
            next_sequences=self._next_sequences,
            next_queue_id=lambda: next(queue_ids),
            random_name=lambda: f"name-{next(names):017}",  # 22 characters, as the real ones
        )

    def _next_sequences(self, count: int) -> int:
        self.last_sequence += count
        return self.last_sequence - count + 1
