"""What a broker must hold, and what it may hold after a crash. `storm.py` tells a `Ledger` everything that
clients do, and holds what they see, and what comes back, against it.

A batch becomes durable whole, and batches do so in order. So what recovery finds must be exactly what was
there after some step since the last one that is known to be durable.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from leveret.protocol.amqp.field_table import FieldValue

QUORUM = "quorum"
FULL = "full"
FULL_AT = 4
TRANSIENT = "transient"  # not durable itself
QUEUES: Mapping[str, dict[str, FieldValue]] = {
    "plain": {},
    "priorities": {"x-max-priority": 3},
    QUORUM: {"x-queue-type": "quorum", "x-delivery-limit": -1},
    FULL: {"x-max-length": FULL_AT, "x-overflow": "reject-publish"},
    TRANSIENT: {},
}
EXPIRING: Mapping[str, dict[str, FieldValue]] = {
    "expiring": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
    "dead": {},
}

State = dict[str, tuple[int, ...]]
"""The durable messages of each durable queue, and the publish tags that the log has of each producer."""


class Produced(NamedTuple):
    """A publish of a producer."""

    tag: int
    queue: str
    number: int
    is_mandatory: bool


@dataclass
class Book:
    """One queue."""

    live: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)  # those of them that no consumer has


@dataclass
class Tags:
    """The publish tags of one producer."""

    accepted: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)  # those of them that a restart does not lose


class Ledger:
    """See the module's docstring. A message is known by its number, with which its body begins."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self._tags: dict[str, Tags] = {}  # by producer
        self.failures: Counter[int] = Counter()  # deliveries from the quorum queue that counted as failed
        self._bodies: dict[int, bytes] = {}
        self._priorities: dict[int, int] = {}
        self._persistent: set[int] = set()
        self._sent: set[int] = set()  # were with a client that knew of it
        self._expiring: dict[int, bool] = {}  # whether they are known to be durable
        self._states: list[State] = [{}]
        self._durable = 0  # the index of the newest state that is known to be durable

    def write(self, size: int, *, persistent: bool, priority: int = 0) -> tuple[int, bytes]:
        """A new message: number and body."""
        number = len(self._bodies) + 1
        body = self._bodies[number] = b"%d." % number + b"x" * size
        self._priorities[number] = priority
        if persistent:
            self._persistent.add(number)
        return number, body

    def read(self, body: bytes) -> int:
        """The number of a message that came back."""
        number = int(body.partition(b".")[0])
        assert body == self._bodies[number]
        return number

    # What clients do

    def declare(self, queue: str) -> None:
        self.books.setdefault(queue, Book())
        self._step()

    def commit(self, published: Sequence[tuple[str, int]], settled: Sequence[tuple[str, int]] = ()) -> None:
        """All of it at one go; a full queue refuses."""
        for queue, number in published:
            book = self.books[queue]
            if queue == FULL and len(book.ready) >= FULL_AT:
                continue
            self._put(queue, number)
        for queue, number in settled:
            self.books[queue].live.remove(number)
        self._step()

    def introduce(self, producer: str) -> None:
        """There will be a producer with this name."""
        self._tags[producer] = Tags()
        self._states[-1][producer] = ()

    def forget(self, producer: str) -> None:
        """The broker does, and whoever has the name from now on is another one."""
        self._tags[producer] = Tags()
        self._step()

    def accepted(self, producer: str) -> set[int]:
        return self._tags[producer].accepted

    def produce(self, producer: str, batch: Sequence[Produced]) -> Callable[[], None]:
        """What was accepted before changes nothing. To be called back when it is durable."""
        tags = self._tags[producer]
        for tag, queue, number, is_mandatory in batch:
            if tag in tags.accepted:
                continue
            book = self.books.get(queue)
            if book is not None:
                if queue == FULL and len(book.ready) >= FULL_AT:
                    continue
                self._put(queue, number)
                if queue != TRANSIENT and number in self._persistent:
                    tags.stored.add(tag)
            elif is_mandatory:
                continue
            tags.accepted.add(tag)
        return self.barrier()

    def _put(self, queue: str, number: int) -> None:
        book = self.books[queue]
        book.live.add(number)
        book.ready.add(number)
        if queue == QUORUM:
            self._persistent.add(number)

    def take(self, queue: str, body: bytes, *, redelivered: bool, is_sent: bool) -> int:
        """Somebody got it: it must have been the head. `is_sent`: and will see it, whatever happens."""
        number = self.read(body)
        ready = self.books[queue].ready
        assert number == min(ready, key=lambda other: (-self._priorities[other], other))
        assert redelivered or number not in self._sent or number not in self._persistent
        ready.remove(number)
        if is_sent:
            self._sent.add(number)
        return number

    def settle(self, queue: str, number: int) -> None:
        self.commit([], [(queue, number)])

    def give_back(self, queue: str, number: int, *, failed: bool) -> None:
        self.books[queue].ready.add(number)
        self.failures[number] += failed
        self._step()

    def purge(self, queue: str) -> None:
        book = self.books[queue]
        book.live -= book.ready
        book.ready.clear()
        self._step()

    def delete(self, queue: str) -> None:
        del self.books[queue]
        self._step()

    def publish_expiring(self, number: int) -> Callable[[], None]:
        """To be called back when it is durable."""
        self._expiring[number] = False

        def is_durable() -> None:
            if number in self._expiring:
                self._expiring[number] = True

        return is_durable

    # What is durable

    def _step(self) -> None:
        self._states.append(self._state())

    def _state(self) -> State:
        return {
            name: tuple(sorted(book.live & self._persistent))
            for name, book in self.books.items()
            if name != TRANSIENT
        } | {producer: tuple(sorted(tags.stored)) for producer, tags in self._tags.items()}

    def barrier(self) -> Callable[[], None]:
        """To be called back when all up to now is durable."""
        self._step()
        states, index = self._states, len(self._states) - 1

        def is_durable() -> None:
            if self._states is states:
                self._durable = max(self._durable, index)

        return is_durable

    def come_back(self, found: Mapping[str, Sequence[int]], *, is_clean: bool) -> None:
        """Recovery found these, in this order before priorities."""
        self._step()
        possible = self._states[-1:] if is_clean else self._states[self._durable :]
        state = {name: tuple(found[name]) for name in found if name in QUEUES or name in self._tags}
        assert state in possible, f"{state} was never there; the last that should be is {possible[0]}"
        expiring = Counter(number for name in EXPIRING for number in found[name])
        for number, is_durable in list(self._expiring.items()):
            assert expiring[number] == 1 or (not is_durable and not expiring[number])
            if expiring[number]:
                self._expiring[number] = True
            else:
                del self._expiring[number]
        self.books = {name: Book(set(state[name]), set(state[name])) for name in state if name in QUEUES}
        self._tags = {name: Tags(set(state[name]), set(state[name])) for name in self._tags}
        self._states, self._durable = [self._state()], 0
