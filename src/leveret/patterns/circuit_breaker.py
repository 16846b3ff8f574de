"""Stop calling a service that is down; ask it again, carefully, after a while.

Each call to a dead service costs a timeout and keeps the service from getting up. A breaker counts: after
five failures in a row it opens, and calls fail at once with `CircuitOpen`. After 30 s one call may try
(half-open). If that succeeds the breaker closes, if it fails the next 30 s begin.

              5 failures in a row                 30 s are over
    CLOSED ──────────────────────────► OPEN ──────────────────────► HALF_OPEN
       ▲                                 ▲        the trial failed      │  │
       │                                 └──────────────────────────────┘  │
       └───────────────────────────────────────────────────────────────────┘ the trial succeeded

    breaker = CircuitBreaker("billing")

    async with breaker.call():
        await http.post(...)

    @breaker.call()                       # the same, around a function
    async def charge(order): ...

**While it is open, a consumer pauses**: every message it took would fail, and burn an attempt of its retry.
`Worker(..., gate=breaker.ready)` begins none until a call may be tried; they wait where they are.
`CircuitOpen` is a `Postponed`: a message that was taken already comes back later without losing an attempt.

Only failures that pass by themselves count (`failures`): a service that calls our order nonsense is well.
One breaker per service and process; it is not for several threads.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto

from .failures import Failure, Failures, Postponed

log = logging.getLogger(__name__)


class State(Enum):
    """What a breaker does with calls."""

    CLOSED = auto()
    """Lets them through."""
    OPEN = auto()
    """Refuses them."""
    HALF_OPEN = auto()
    """Lets one through, to see."""


class Event(Enum):
    """What changes a breaker's state."""

    SUCCEEDED = auto()
    """A call went well."""
    FAILED = auto()
    """A call failed, and there may be more."""
    FAILED_TOO_OFTEN = auto()
    """A call failed, as the last of so many in a row."""
    TIME_PASSED = auto()
    """It was open long enough."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.SUCCEEDED): State.CLOSED,
    (State.CLOSED, Event.FAILED): State.CLOSED,
    (State.CLOSED, Event.FAILED_TOO_OFTEN): State.OPEN,
    (State.OPEN, Event.TIME_PASSED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
    (State.HALF_OPEN, Event.FAILED_TOO_OFTEN): State.OPEN,
}
"""All there is; calls that were begun in an earlier state say nothing about this one and are not asked."""

TRIAL_S = 1.0  # how long a call is put off while another one is the trial

Observer = Callable[[State, State], object]


class CircuitOpen(Postponed):
    """The call was not made: the service failed too often just now."""


class CircuitBreaker:
    """See the module's docstring. `on_change` is called with the old and the new state."""

    def __init__(
        self,
        name: str,
        *,
        failures_max: int = 5,
        open_s: float = 30.0,
        failures: Failures | None = None,
        on_change: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if failures_max < 1 or open_s <= 0:
            raise ValueError(f"failures_max ({failures_max}) and open_s ({open_s}) must be above 0")
        self.name = name
        self._failures_max = failures_max
        self._open_s = open_s
        self._failures = failures or Failures()
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._state = State.CLOSED
        self._changes = 0  # tells the calls of one state from those of another
        self._failed = 0  # in a row
        self._open_until = 0.0
        self._trial_over = asyncio.Event()
        self._trial_over.set()

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}, {self.state.name}>"

    # Looking

    @property
    def state(self) -> State:
        """As of now; that time has passed is noticed by looking."""
        if self._state is State.OPEN and self._clock() >= self._open_until:
            self._happened(Event.TIME_PASSED)
        return self._state

    @property
    def may_call(self) -> bool:
        """Whether a call would be made now."""
        return self.state is not State.OPEN and self._trial_over.is_set()

    async def ready(self) -> None:
        """Wait until a call may be made; at once while the breaker is closed."""
        while not self.may_call:
            if self._state is State.OPEN:
                await self._sleep(max(self._open_until - self._clock(), 0))
            else:
                await self._trial_over.wait()

    # Calling

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call of the service: raises CircuitOpen instead when none may be made."""
        if not self.may_call:
            is_open = self._state is State.OPEN
            wait_s = self._open_until - self._clock() if is_open else TRIAL_S
            raise CircuitOpen(
                f"{self.name} failed {self._failures_max} times in a row; next try in {wait_s:.1f} s",
                retry_after_s=max(wait_s, 0),
            )
        is_trial = self._state is State.HALF_OPEN
        if is_trial:
            self._trial_over.clear()
        changes = self._changes
        event: Event | None = None  # what is cancelled or postponed says nothing
        try:
            yield
            event = Event.SUCCEEDED
        except Postponed:
            raise
        except Exception as error:
            event = self._event(error)
            raise
        finally:
            if is_trial:
                self._trial_over.set()
            if event is not None and changes == self._changes:
                self._happened(event)

    def _event(self, error: Exception) -> Event:
        if self._failures.classify(error) is Failure.PERMANENT:
            return Event.SUCCEEDED  # the service is well, it is the call that was wrong
        return Event.FAILED if self._failed + 1 < self._failures_max else Event.FAILED_TOO_OFTEN

    def _happened(self, event: Event) -> None:
        old, self._state = self._state, TRANSITIONS[self._state, event]
        self._failed = 0 if event is Event.SUCCEEDED else self._failed + (event is not Event.TIME_PASSED)
        if self._state is old:
            return
        self._changes += 1
        if self._state is State.OPEN:
            self._open_until = self._clock() + self._open_s
        log.warning("circuit breaker %s: %s, was %s", self.name, self._state.name, old.name)
        if self._on_change is not None:
            self._on_change(old, self._state)
