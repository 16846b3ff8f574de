"""Try a failed message again, later and later, and give it up in the end. The broker does the waiting.

A worker that sleeps before it tries again does nothing meanwhile, and forgets when it dies. Here a failed
message goes to a delay queue with the wait as its expiration; when that is over, the broker dead-letters it
back to the work queue, to whichever worker is free:

    orders ──► worker ──┬─ done: ack
      ▲                 ├─ failed: orders.retry, for 1 s, 2 s, 4 s ... up to 5 minutes ──┐
      │                 └─ permanent, or attempts used up: orders.dead                   │
      └──────────────────────────────────────────────────────────────────────────────────┘

    retry = Retry("orders", attempts=8)
    channel = await connection.channel(publisher_confirms=False)
    queue = await retry.declare(channel)
    await Worker(queue, retry.guard(channel, handle)).run()      # or queue.consume(retry.guard(...))

**Promised.** The message is in exactly one of the three queues at any moment, whoever dies when (see
`handover`). Body and properties stay what they were, apart from its expiration (see `successor`). A message
that kills its worker each time comes to the dead letters, too, after `DELIVERY_LIMIT` deliveries.

**Yours.** A handler runs at least once: make it idempotent (`inbox`). What it publishes goes through another
channel. Messages overtake each other while they wait.

One delay queue is enough for all waits because this broker expires each message in its time, wherever in
the queue it stands; on RabbitMQ a short wait would stand behind a long one.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from leveret.client import Channel, IncomingMessage, Queue

from .calling import awaitable
from .failures import Failure, Failures, Postponed
from .handover import HandOver, successor

log = logging.getLogger(__name__)

ATTEMPTS = "x-retry-attempts"  # how often it has failed
REASON = "x-retry-reason"  # why it waits, or why it was given up
ERROR_TYPE, ERROR_TEXT = "x-retry-error-type", "x-retry-error-text"  # of the last failure
EXCHANGE, ROUTING_KEY = "x-retry-exchange", "x-retry-routing-key"  # where it was published at first
HEADERS = (ATTEMPTS, REASON, ERROR_TYPE, ERROR_TEXT, EXCHANGE, ROUTING_KEY)

ERROR_TEXT_MAX = 1000  # characters: headers are carried along by every delivery
DELIVERY_LIMIT = 20  # deliveries that ended with the worker instead of a result

Handler = Callable[[IncomingMessage], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after each failure: 1 s, 2 s, 4 s ... each shortened by chance, up to a cap.

    The chance (up to the share `jitter`) keeps apart what failed together, or it would come back together.
    """

    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 300.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.first_s <= self.cap_s and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(
                f"a backoff has 0 <= first_s <= cap_s, factor >= 1, 0 <= jitter <= 1, not {self}"
            )

    def delay_s(self, failures: int, chance: float) -> float:
        """The wait after so many failures, with `chance` from 0 to 1."""
        try:
            delay_s = min(self.first_s * self.factor ** (failures - 1), self.cap_s)
        except OverflowError:
            delay_s = self.cap_s
        return delay_s * (1 - self.jitter * chance)


DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a failed message."""

    attempts: int  # that have failed so far
    reason: str
    delay_s: float | None  # None: it is given up

    @property
    def is_final(self) -> bool:
        return self.delay_s is None


class Retry:
    """The policy and the three queues of one work queue. See the module's docstring."""

    def __init__(
        self,
        queue: str,
        *,
        attempts: int = 10,
        backoff: Backoff = DEFAULT_BACKOFF,  # frozen
        failures: Failures | None = None,
        random: Random | None = None,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        self.queue, self.delay_queue, self.dead_queue = queue, f"{queue}.retry", f"{queue}.dead"
        self.attempts = attempts
        self.backoff = backoff
        self.failures = failures or Failures()
        self._random = random or Random()

    # The queues

    async def declare(self, channel: Channel) -> Queue:
        """Make the three durable queues, and return the work queue."""
        await self._declare_dead(channel)
        await self._declare_delay(channel)
        arguments = {**_dead_letter_to(self.dead_queue), "x-delivery-limit": DELIVERY_LIMIT}
        return await channel.declare_queue(self.queue, durable=True, arguments=arguments)

    async def _declare_dead(self, channel: Channel) -> Queue:
        return await channel.declare_queue(self.dead_queue, durable=True)

    async def _declare_delay(self, channel: Channel) -> Queue:
        return await channel.declare_queue(
            self.delay_queue, durable=True, arguments=_dead_letter_to(self.queue)
        )

    # Handling

    def guard(self, channel: Channel, handler: Callable[[IncomingMessage], object]) -> Handler:
        """A handler that settles each message by what the given one does with it, on the channel that it
        came from. A `def` runs in a thread.
        """
        hand_over = HandOver(channel)
        handle = awaitable(handler)

        async def guarded(message: IncomingMessage) -> None:
            try:
                await handle(message)
            except Exception as error:
                await self.carry_out(hand_over, message, error, self.judge(message, error))
            else:
                await hand_over.ack(message)

        return guarded

    def judge(self, message: IncomingMessage, error: Exception) -> Verdict:
        """What becomes of a message whose handling raised this error."""
        attempts = attempts_made(message)
        if isinstance(error, Postponed):
            return Verdict(attempts, "postponed", error.retry_after_s)
        attempts += 1
        if self.failures.classify(error) is Failure.PERMANENT:
            return Verdict(attempts, "permanent", None)
        if attempts >= self.attempts:
            return Verdict(attempts, "attempts used up", None)
        return Verdict(attempts, "transient", self.backoff.delay_s(attempts, self._random.random()))

    async def carry_out(
        self, hand_over: HandOver, message: IncomingMessage, error: Exception, verdict: Verdict
    ) -> None:
        """Move the message to the delay queue or to the dead letters."""
        headers = {
            ATTEMPTS: verdict.attempts,
            REASON: verdict.reason,
            ERROR_TYPE: type(error).__qualname__,
            ERROR_TEXT: str(error)[:ERROR_TEXT_MAX],
            EXCHANGE: message.headers.get(EXCHANGE, message.exchange),
            ROUTING_KEY: message.headers.get(ROUTING_KEY, message.routing_key),
        }
        queue, declare = self.delay_queue, self._declare_delay
        if verdict.is_final:
            queue, declare = self.dead_queue, self._declare_dead
            log.error("%r is given up (%s): %r", message, verdict.reason, error)
        else:
            log.warning("%r is tried again in %.1f s: %r", message, verdict.delay_s, error)
        again = successor(message, headers=headers, expiration_s=verdict.delay_s)
        channel = hand_over.channel
        await hand_over.replace(message, again, queue, declare=lambda: declare(channel))

    async def redrive(self, channel: Channel) -> int:
        """Put all dead letters back to work, with all attempts before them; returns how many."""
        hand_over = HandOver(channel)
        dead = await self._declare_dead(channel)
        for number in range(dead.message_count):
            message = await dead.get(fail=False)
            if message is None:
                return number
            anew = successor(message, headers=dict.fromkeys(HEADERS))
            await hand_over.replace(message, anew, self.queue, declare=lambda: self.declare(channel))
        return dead.message_count


def attempts_made(message: IncomingMessage) -> int:
    """How often a message has failed; 0 also when somebody wrote nonsense there."""
    attempts = message.headers.get(ATTEMPTS)
    return max(attempts, 0) if isinstance(attempts, int) else 0


def _dead_letter_to(queue: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
