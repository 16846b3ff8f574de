"""When to try again: the delays between attempts to reach a broker, and the loop that makes them.

Time is the event loop's, which no change of the wall clock moves.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from .errors import AuthenticationFailed, ConnectionLost, LeveretError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How a connection that broke is made again: `connect(url, reconnect=Reconnect(attempts=10))`.

    The delays grow from `first_delay_s` by `factor` up to `max_delay_s`. Of each delay, the share `jitter` is
    left to chance, lest a thousand clients come back in the same moment: with 0.5, it is 50 to 100 % of it.
    """

    first_delay_s: float = 0.1
    factor: float = 2.0
    max_delay_s: float = 30.0
    jitter: float = 0.5
    attempts: int | None = None
    """In a row, each of them at all hosts; then the connection is given up. None: for ever."""
    from_start: bool = False
    """Also when the first connect fails, instead of raising at once."""
    chance: Callable[[], float] = field(default=random.random, repr=False)
    """A number from 0 to 1; tests know it beforehand."""
    sleep: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.first_delay_s <= self.max_delay_s:
            raise ValueError(
                f"first_delay_s ({self.first_delay_s}) must be 0 or more, and not over max_delay_s"
                f" ({self.max_delay_s})"
            )
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}: delays do not shrink")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a share, 0 to 1, not {self.jitter}")
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}; reconnect=False is for none")

    def delays(self, short_lives: int = 0) -> Iterator[float]:
        """How long to wait before each attempt, in seconds; longer from the start when so many connections in
        a row soon broke again.
        """
        delay_s = self.first_delay_s
        for _ in range(short_lives):
            if delay_s >= self.max_delay_s:
                break
            delay_s = min(delay_s * self.factor, self.max_delay_s)
        for _ in count() if self.attempts is None else range(self.attempts):
            yield delay_s * (1 - self.jitter * self.chance())
            delay_s = min(delay_s * self.factor, self.max_delay_s)


async def keep_trying(
    attempt: Callable[[], Awaitable[None]], policy: Reconnect, reason: str, short_lives: int = 0
) -> None:
    """Call `attempt` until it succeeds; `reason` is why the connection ended.

    Raises ConnectionLost when all attempts have failed, and AuthenticationFailed at once: the broker would
    answer the same for ever, and count it as an attack.
    """
    number = 0
    for number, delay_s in enumerate(policy.delays(short_lives), 1):
        await policy.sleep(delay_s)
        try:
            await attempt()
        except AuthenticationFailed:
            raise
        except (LeveretError, OSError) as error:
            reason = str(error)
            log.log(logging.WARNING if number == 1 else logging.INFO, "attempt %d failed: %s", number, reason)
        else:
            return
    raise ConnectionLost(f"given up after {number} attempts: {reason}")
