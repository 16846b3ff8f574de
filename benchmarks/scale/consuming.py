"""Consumers that check every body and its place in the order, and ack all, or all but some survivors."""

import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pamqp import commands, frame

from .amqp_link import ACK, BODY, DELIVER, METHOD, METHOD_ID, SILENCE_MAX_S, Link
from .bodies import Bodies
from .progress import FINISHED, SETTLED, TAKEN, Progress
from .publishing import Load

ACK_FRAME = struct.Struct(">BHIIQ?B")
BODY_SIZE = struct.Struct(">I")
HEADER = 2
NOTHING = -1
ACK_EVERY = 50
PREFETCH = 1000
BEHIND = 2000
"""Without `multiple`: so many deliveries are held before the oldest is acked, so that messages reach the
disk: what is acked before its commit never does."""


@dataclass(frozen=True)
class Keep:
    """Which messages are never acked: every so-manieth one of the first so many queues.

    The queues take turns, so that the survivors lie as far apart in the log as they can.
    """

    every: int
    queues: int

    def of(self, published: Mapping[int, range]) -> dict[int, range]:
        """Which of the published ones that are."""
        return {
            queue: published[queue][queue * self.every // self.queues :: self.every]
            for queue in range(self.queues)
        }

    def total(self, published: Mapping[int, range]) -> int:
        return sum(map(len, self.of(published).values()))


@dataclass(frozen=True)
class Consumed:
    """What a consumer saw."""

    messages: int
    seconds: float
    problem: str
    """The first thing that was wrong; then it stopped."""


class Consumer(ABC):
    """One connection that consumes several queues of a load. Subclasses say how it acks."""

    prefetch = 0

    def __init__(self, load: Load, expected: Mapping[int, range]) -> None:
        """`expected`: the numbers of the messages that are in each of the queues that it is to consume."""
        self._load = load
        self._expected = {queue: iter(numbers) for queue, numbers in expected.items()}
        self._total = sum(map(len, expected.values()))
        self._bodies = Bodies(load.size)
        self._by_tag = {str(queue).encode(): queue for queue in expected}
        self._queue = -1  # of the delivery whose body comes next
        self._progress = Progress(load.progress)
        self._problem = ""
        self.taken = 0
        self.link = Link(load.port)

    def run(self) -> Consumed:
        """Until everything came, or something wrong."""
        if self.prefetch:
            self.link.call(commands.Basic.Qos(prefetch_count=self.prefetch))
        for queue in self._expected:  # without answers, between which deliveries would come
            consume = commands.Basic.Consume(
                queue=self._load.queues[queue], consumer_tag=str(queue), nowait=True
            )
            self.link.send(frame.marshal(consume, 1))
        began = time.monotonic()
        while self.taken < self._total and not self._problem:
            try:
                acks = b"".join(self._read())
            except TimeoutError:
                self._problem = f"{SILENCE_MAX_S} s of silence after {self.taken} of {self._total} messages"
                break
            if acks:
                self.link.send(acks)
            self._progress[TAKEN] = self.taken
            self._progress[SETTLED] = self.settled
        seconds = time.monotonic() - began
        if not self._problem:
            self._make_acks_durable()  # and maybe there is a problem now
        return Consumed(self.taken, seconds, self._problem)

    @property
    @abstractmethod
    def settled(self) -> int: ...

    @abstractmethod
    def acks(self, queue: int, number: int) -> Iterator[bytes]:
        """What to send after a delivery; its tag is `taken`."""

    def _read(self) -> Iterator[bytes]:
        for buffer, kind, start in self.link.receive():
            if kind == BODY:
                queue = self._queue
                number = next(self._expected[queue], NOTHING)
                size = BODY_SIZE.unpack_from(buffer, start - BODY_SIZE.size)[0]
                if problem := self._bodies.problem(queue, number, buffer, start, size):
                    self._problem = problem
                    return
                self.taken += 1
                yield from self.acks(queue, number)
            elif kind == METHOD and METHOD_ID.unpack_from(buffer, start)[0] == DELIVER:
                tag_at = start + 5
                self._queue = self._by_tag[buffer[tag_at : tag_at + buffer[start + 4]]]

    def _make_acks_durable(self) -> None:
        """A durable declare is answered when it is on the disk, and with it what this channel did before."""
        barrier = f"{self._load.queues[0]}-acked"
        answer = self.link.call(commands.Queue.Declare(queue=barrier, durable=True))
        if isinstance(answer, commands.Basic.Deliver):
            self._problem = f"more than {self._total} messages came"
            return
        self.link.call(commands.Queue.Delete(queue=barrier))


class Drain(Consumer):
    """Acks everything, many at once."""

    prefetch = PREFETCH

    @property
    def settled(self) -> int:
        return self.taken - self.taken % ACK_EVERY if self.taken < self._total else self.taken

    def acks(self, queue: int, number: int) -> Iterator[bytes]:
        if self.taken % ACK_EVERY == 0 or self.taken == self._total:
            yield ack(self.taken, multiple=True)


class Keeper(Consumer):
    """Acks one by one, and some never; BEHIND deliveries late."""

    def __init__(self, load: Load, keep: Keep) -> None:
        published = load.numbers()
        super().__init__(load, published)
        self._kept = {**dict.fromkeys(published, range(0)), **keep.of(published)}
        self._held: deque[int] = deque()
        self._acked = 0

    @property
    def settled(self) -> int:
        return self._acked

    def acks(self, queue: int, number: int) -> Iterator[bytes]:
        if number not in self._kept[queue]:
            self._held.append(self.taken)
        hold = BEHIND if self.taken < self._total else 0
        while len(self._held) > hold:
            self._acked += 1
            yield ack(self._held.popleft(), multiple=False)

    def hold(self) -> None:
        """Say that everything came, and keep the connection until the broker ends it."""
        self._progress[FINISHED] = 1
        try:
            while True:
                for _ in self.link.receive(timeout_s=SILENCE_MAX_S):
                    pass
        except (ConnectionError, TimeoutError):
            self.link.close()


def drain(load: Load, expected: Mapping[int, range]) -> Consumed:
    """Consume, check and ack what is expected in these queues."""
    consumer = Drain(load, expected)
    consumed = consumer.run()
    consumer.link.close()
    return consumed


def consume_but(load: Load, keep: Keep) -> Consumed:
    """Consume everything that is published; ack all but what is kept, and hold that until the broker dies."""
    consumer = Keeper(load, keep)
    consumed = consumer.run()
    consumer.hold()
    return consumed


def first_delivery(port: int, queue: str) -> float:
    """Seconds from now until a new consumer has the body of its first message. It does not ack."""
    began = time.monotonic()
    link = Link(port)
    link.call(commands.Basic.Qos(prefetch_count=PREFETCH))
    link.send(frame.marshal(commands.Basic.Consume(queue=queue, nowait=True), 1))
    while not any(kind == BODY for _, kind, _ in link.receive()):
        continue
    seconds = time.monotonic() - began
    link.close()
    return seconds


def get(link: Link, queue: str) -> bytes | None:
    """Fetch and ack a message of any size; None if the queue is empty."""
    answer = link.call(commands.Basic.Get(queue=queue))
    if isinstance(answer, commands.Basic.GetEmpty):
        return None
    parts: list[bytes] = []
    missing = -1  # until the header says how much there is
    while missing:
        for buffer, kind, start in link.receive():
            if kind == HEADER:
                missing = int.from_bytes(buffer[start + 4 : start + 12])
            elif kind == BODY:
                size = BODY_SIZE.unpack_from(buffer, start - BODY_SIZE.size)[0]
                parts.append(buffer[start : start + size])
                missing -= size
    link.send(ack(answer.delivery_tag, multiple=False))
    return b"".join(parts)


def ack(tag: int, *, multiple: bool) -> bytes:
    return ACK_FRAME.pack(METHOD, 1, 13, ACK, tag, multiple, 0xCE)
