"""What the domain needs of its surroundings, as narrow interfaces; `Broker` makes one set and hands it down.

The real ones are `Journal`, `Turn` and `Timers`; unit tests pass fakes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .clock import Clock
from .message import Message, QueuedMessage

if TYPE_CHECKING:
    from .queues.lane import Lane
    from .queues.queue import Queue
    from .queues.runs import RunTable


class JournalLike(Protocol):
    """Where the domain says what must be durable. Nothing is durable before the next commit."""

    def publish(self, messages: Sequence[Message], copies: Iterable[QueuedMessage]) -> None:
        """These copies of the messages lie in durable queues and must be stored."""

    def settle(self, copies: Iterable[QueuedMessage]) -> None:
        """They are gone for good: acked, dropped, expired, dead-lettered, purged. Always safe to call."""

    def requeue(self, copy: QueuedMessage) -> None:
        """`redelivered` or `delivery_count` of the copy changed. Always safe to call."""

    def purge(self, lane: "Lane", cold: "RunTable") -> None:
        """These runs of the lane, of which nothing is in memory, are gone for good."""

    def close_lane(self, lane: "Lane", cold: "RunTable") -> None:
        """The lane's queue is deleted, and with it these runs and whatever else it has."""

    def topology(self, packed: bytes) -> None:
        """A durable exchange, queue or binding came or went; what `packed` says is replayed in order."""


class TurnLike(Protocol):
    """The end of the loop's current turn, where coalesced work is done."""

    def mark_queue(self, queue: "Queue") -> None:
        """The queue may have something to deliver: call its `dispatch` once at the end of the turn."""


class ReaderLike(Protocol):
    """Where lanes ask for what is on the disk only."""

    def want(self, lane: "Lane") -> None:
        """Read what the lane's `wanted_rows` says, soon; then call its queue's `was_read`."""


class SpillerLike(Protocol):
    """What keeps long backlogs of transient messages out of memory."""

    def look_at(self, lane: "Lane") -> None:
        """The lane has grown by copies that are in memory only, or were given back."""


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None: ...


class TimersLike(Protocol):
    """Calls at a later time."""

    def call_at(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        """Call back once at or shortly after this time of `Clock.now_ms`; never from inside this method."""


@dataclass(frozen=True, slots=True)
class Services:
    """One per broker, shared by its vhosts."""

    clock: Clock
    journal: JournalLike
    turn: TurnLike
    timers: TimersLike
    reader: ReaderLike
    spiller: SpillerLike
    next_sequences: Callable[[int], int]
    """The first of so many new message sequence numbers in a row."""
    next_queue_id: Callable[[], int]
    """A new queue id (u32, never reused)."""
    random_name: Callable[[], str]
    """22 URL-safe characters for server-made names (`amq.gen-...`, `amq.ctag-...`)."""
