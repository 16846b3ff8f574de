"""A consumer: finds messages by their mark, checks that each is the next of its lane, acks."""

import math
import time
from dataclasses import dataclass

from .actor import Actor, Report
from .body import HEAD, MARK, age_us, as_stamp
from .link import Address, Link, LoadFailed
from .wires import WIRES


@dataclass(frozen=True)
class ConsumerTask:
    """What one connection consumes: all messages of some lanes, from several queues perhaps."""

    address: Address
    wire: str
    queues: tuple[str, ...]
    lanes: tuple[int, ...]
    size: int
    ack_every: int = 50  # one ack (of many) for so many deliveries; 1: each by itself; 0: no acks
    prefetch: int = 500
    sample_every: int = 1  # one in so many deliveries has its time recorded
    is_early: bool = True  # it consumes before anything is published; else what is there comes when it goes

    def start(self) -> "Consumer":
        return Consumer(self, WIRES[self.wire].open(self.address))


class Consumer(Actor):
    """Deliveries on a channel have the tags 1, 2, 3, ...: the count of messages is the tag of the last."""

    def __init__(self, task: ConsumerTask, link: Link) -> None:
        super().__init__()
        self._link = link
        self._task = task
        self._span = self._link.body_span(task.size)
        self._next = dict.fromkeys(task.lanes, 0)  # by lane: the number that is expected
        self._taken = 0
        self._lost = self._doubled = 0
        self._published: dict[int, int] = {}
        self._wanted = math.inf  # how many it has to take; infinite while that is not known
        if task.ack_every:
            self._link.set_prefetch(task.prefetch)
        if task.is_early:
            self._consume()
            self._link.set_prefetch(task.prefetch)  # for its answer: the broker has seen the consumers

    @property
    def count(self) -> int:
        return self._taken

    def fileno(self) -> int:
        return self._link.fileno()

    @property
    def is_done(self) -> bool:
        return self._taken >= self._wanted

    def go(self, now: float) -> None:
        if not self._task.is_early:
            self._consume()

    def read(self) -> None:
        inbox = self._link.inbox
        inbox.fill()
        before = self._taken
        try:
            inbox.start = self._scan(inbox.data, inbox.start, inbox.end)
        except KeyError as error:
            raise LoadFailed(f"a message of lane {error} came where it does not belong") from None
        if self._task.ack_every and self._taken > before:
            acks = self._link.acks(before + 1, self._taken, self._task.ack_every)
            if acks:
                self._link.send(acks)

    def expect(self, published: dict[int, int] | None) -> None:
        if published is None:
            self._wanted = self._taken
        else:
            self._published = {lane: published.get(lane, 0) for lane in self._task.lanes}
            self._wanted = sum(self._published.values())

    def report(self, report: Report) -> None:
        if self._task.ack_every and self._taken % self._task.ack_every:
            self._link.send(self._link.ack_all(self._taken))
        surplus = self._link.close()
        if self._published:  # else what it does not take stays in the queues
            self._doubled += surplus
        never = (number - self._next[lane] for lane, number in self._published.items())
        report.received += self._taken
        report.lost += self._lost + sum(never)
        report.doubled += self._doubled

    def _consume(self) -> None:
        for number, queue in enumerate(self._task.queues):
            self._link.consume(queue, number, no_ack=not self._task.ack_every)

    def _scan(self, data: bytearray, start: int, end: int) -> int:
        """Take the complete messages between start and end; return where the rest begins."""
        find, unpack_from, expected, span = data.find, HEAD.unpack_from, self._next, self._span
        taken, sample_every = self._taken, self._task.sample_every if self.is_recording else 0
        now = as_stamp(time.monotonic())
        at = find(MARK, start, end)
        while at >= 0 and at + span <= end:
            _, lane, number, stamp = unpack_from(data, at)
            if number == expected[lane]:
                expected[lane] = number + 1
            else:
                self._is_not_next(lane, number)
            taken += 1
            if sample_every and taken % sample_every == 0:
                self.histogram.record(age_us(stamp, now))
            start = at + span
            at = find(MARK, start, end)
        if at < 0:
            self._link.look_for_trouble(start, end)
        self._taken = taken
        return start

    def _is_not_next(self, lane: int, number: int) -> None:
        missing = number - self._next[lane]
        if missing < 0:
            self._doubled += 1
        else:
            self._lost += missing
            self._next[lane] = number + 1
