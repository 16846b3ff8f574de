"""Which publishes are confirmed. Confirms may come one by one, out of order, or many at once."""

from collections import deque
from collections.abc import Iterator


class Confirms:
    """The tags of one channel, from 1."""

    def __init__(self) -> None:
        self.refused = 0
        self._last_sent = 0
        self._all_up_to = 0
        self._beyond: set[int] = set()
        self._sends: deque[tuple[int, float]] = deque()  # (last tag, due) of what is not confirmed entirely

    @property
    def waiting(self) -> int:
        return self._last_sent - self._all_up_to - len(self._beyond)

    @property
    def settled(self) -> int:
        return self._all_up_to + len(self._beyond)

    def sent(self, messages: int, due: float) -> None:
        self._last_sent += messages
        self._sends.append((self._last_sent, due))

    def settle(self, first: int, last: int, *, confirmed: bool) -> None:
        """A first of 0 means all up to the last."""
        before = self.settled
        if first > self._all_up_to + 1:
            self._beyond.update(range(first, last + 1))
        elif last > self._all_up_to:
            self._all_up_to = last
            if self._beyond:
                self._beyond = {tag for tag in self._beyond if tag > last}
        while self._all_up_to + 1 in self._beyond:
            self._all_up_to += 1
            self._beyond.remove(self._all_up_to)
        if not confirmed:
            self.refused += self.settled - before

    def answered(self) -> Iterator[float]:
        """When what is now confirmed had been due; one time per `sent`."""
        sends = self._sends
        while sends and sends[0][0] <= self._all_up_to:
            yield sends.popleft()[1]
