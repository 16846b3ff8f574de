"""Many publishes that one task waits for: it stands where a publish of its own has a future.

Made by `Publisher.publish_all`. It costs a count for each message, in the place of a future and a task.
"""

import asyncio

from .errors import LeveretError


class Batch:
    """See the module's docstring."""

    def __init__(self, count: int) -> None:
        self.left = count  # not settled yet
        self.errors: list[LeveretError] = []  # how some of them failed
        self.is_over = False  # nobody waits any more
        self._wanted = 0  # what `left` is waited for to be
        self._reached: asyncio.Future[None] | None = None

    def done(self) -> bool:
        """As a future's: no outcome is wanted any more."""
        return self.is_over

    def set_result(self, outcome: LeveretError | None) -> None:
        """As a future's: one of the publishes is settled; None: well."""
        self.left -= 1
        if outcome is not None:
            self.errors.append(outcome)
        if self.left <= self._wanted and self._reached is not None and not self._reached.done():
            self._reached.set_result(None)

    async def until_left(self, count: int) -> None:
        """Wait until no more than so many are left."""
        if self.left > count:
            self._wanted = count
            self._reached = asyncio.get_running_loop().create_future()
            await self._reached
