"""What every worker of the crash load shares: where messages go, what is in them, and the history.

What a body must be follows from the name of its message, publisher/number/size, which is its message-id.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from random import Random
from zlib import crc32

from history import Declared, Deleting, Delivered, Event

SIZE_MAX = 1 << 20
POOL = Random(1).randbytes(SIZE_MAX + (1 << 16))
"""Bodies are slices of it: cheap to make and to compare, and a shifted or mixed-up one differs."""
UNCONFIRMED_MAX = 200
DEAD, BARRIER, SCRATCH = "dead", "barrier", "scratch"
QUEUE_ARGUMENTS: dict[str, dict[str, str | int]] = {
    "work": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD},
    "quorum": {"x-queue-type": "quorum", "x-delivery-limit": -1},
}
COPIES = ("copy-a", "copy-b")
OUT = ("out-a", "out-b")
DURABLE_QUEUES = ("work", "single", *COPIES, "backlog", "quorum", SCRATCH, DEAD, "orders", *OUT, BARRIER)
TRANSIENT_QUEUE = "volatile"


@dataclass(frozen=True)
class Destination:
    """Where a publisher sends, and how often."""

    weight: float
    queues: tuple[str, ...]
    exchange: str = ""
    durable: bool = True
    quorum: bool = False

    def keeps(self, *, persistent: bool) -> bool:
        """Whether a message must survive a restart."""
        return self.durable and (persistent or self.quorum)


DESTINATIONS = (
    Destination(4, ("work",)),
    Destination(1, ("single",)),
    Destination(3, COPIES, exchange="copies"),
    Destination(1, ("backlog",)),
    Destination(1, (SCRATCH,)),
    Destination(1, ("orders",)),
    Destination(1, ("quorum",), quorum=True),
    Destination(1, (TRANSIENT_QUEUE,), durable=False),
)
SIZES = ((0, 10), (100, 45), (1024, 39), (1 << 16, 5), (1 << 18, 0.8), (SIZE_MAX, 0.2))  # (at most, weight)


def body_of(publisher: str, number: int, size: int) -> bytes:
    start = crc32(f"{publisher}/{number}".encode()) & 0xFFFF
    return POOL[start : start + size]


class Journal:
    """The history that all workers write, and the numbers they gave out."""

    def __init__(self) -> None:
        self.history: list[Event] = []
        self.moments: list[float] = []  # of the events, by the wall clock
        self.complaints: list[str] = []  # what the broker said that it should not have
        self._numbers: Counter[str] = Counter()

    def add(self, *events: Event) -> None:
        self.history += events
        self.moments += [time.time()] * len(events)

    def forget(self, kept: int) -> None:
        """Forget all but the first events, as if the world had ended there. Numbers are not used again."""
        del self.history[kept:]
        del self.moments[kept:]

    @property
    def scratch_in_doubt(self) -> bool:
        """A deletion or purge was asked for and not answered."""
        for event in reversed(self.history):
            if isinstance(event, Deleting | Declared):
                return isinstance(event, Deleting)
        return False

    def next_number(self, publisher: str) -> int:
        self._numbers[publisher] += 1
        return self._numbers[publisher]

    def delivered(
        self, channel: str, queue: str, message_id: str | None, body: bytes, *, redelivered: bool
    ) -> tuple[str, str, int]:
        """Write down a delivery and return its copy."""
        publisher, number, size = (message_id or "nobody/0/0").split("/")
        intact = body == body_of(publisher, int(number), int(size))
        self.add(Delivered(channel, queue, publisher, int(number), redelivered, intact))
        return queue, publisher, int(number)


class Worker(ABC):
    """One named client of the load. It lives on through all incarnations of the broker."""

    def __init__(self, journal: Journal, name: str, seed: int) -> None:
        self.journal = journal
        self.name = name
        self.random = Random(f"{seed} {name}")

    @abstractmethod
    async def work(self, port: int) -> None:
        """Connect and work until the broker is gone and the last byte of it was read."""

    async def pause(self, mean_s: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / mean_s))

    def some_destinations(self) -> list[Destination]:
        weights = [destination.weight for destination in DESTINATIONS]
        return self.random.choices(DESTINATIONS, weights, k=self.random.randint(1, 20))

    def some_size(self) -> int:
        at_most = self.random.choices([size for size, _ in SIZES], [weight for _, weight in SIZES])[0]
        return self.random.randint(at_most // 2, at_most)

    def is_persistent(self) -> bool:
        return self.random.random() < 0.8
