"""A broker that keeps every promise, as small as can be: the checker must find nothing in its histories.

It has a committed and a current state; a crash goes back to the committed one. A message is its sequence
number, and a queue hands out the smallest. Only for the self-test of the checker.
"""

from collections import defaultdict
from copy import deepcopy

from history import (
    Acked,
    Closed,
    Closing,
    Confirmed,
    Consuming,
    Crashed,
    Declared,
    Deleted,
    Deleting,
    Delivered,
    Event,
    Invoked,
    Rejected,
    Requeued,
    Stopped,
)

DEAD = "dead"
BARRIER = "barrier"
QUEUES = ("a", "b", "scratch", DEAD, BARRIER)
CHANNELS = ("c0", "c1", "c2")
CONSUMED = ("a", "b", "scratch", DEAD)


class CorrectBroker:
    """Each method is something that a load does; `events` is the history."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._published: list[Invoked] = []  # the sequence number of a message is its index
        self._ready: dict[str, dict[int, bool]] = {queue: {} for queue in QUEUES}  # sequence -> redelivered
        self._unacked: dict[str, dict[tuple[str, int], None]] = defaultdict(dict)  # channel -> copies
        self._consumers: set[tuple[str, str]] = set()
        self._ever_consumed: set[str] = set()  # queues
        self._unconfirmed: list[int] = []
        self._committed = self._state()

    def publish(self, publisher: int, queues: tuple[str, ...] = ("a", "b"), persistent: bool = True) -> None:
        self._publish(Invoked(f"p{publisher}", len(self._published), queues, persistent))

    def publish_barrier(self, channel: int) -> None:
        self._publish(Invoked(CHANNELS[channel], len(self._published), (BARRIER,), barrier=True))

    def transfer(self, channel: int, source: str = "a") -> None:
        """In one transaction: ack everything that the channel holds of `source`, publish two messages."""
        self.commit()
        transaction = len(self._published) + 1
        for _ in range(2):
            event = Invoked(CHANNELS[channel], len(self._published), ("b",), transaction=transaction)
            self._publish(event)
        for queue, sequence in list(self._unacked[CHANNELS[channel]]):
            if queue == source:
                del self._unacked[CHANNELS[channel]][queue, sequence]
                self.events.append(Acked(CHANNELS[channel], queue, *self._name(sequence), transaction))

    def commit(self) -> None:
        self._committed = self._state()
        for sequence in self._unconfirmed:
            self.events.append(Confirmed(*self._name(sequence)))
        self._unconfirmed.clear()

    def deliver(self, channel: int, queue: str = "a") -> None:
        if (CHANNELS[channel], queue) not in self._consumers:
            self._consumers.add((CHANNELS[channel], queue))
            self._ever_consumed.add(queue)
            self.events.append(Consuming(CHANNELS[channel], queue))
        if self._ready[queue]:
            sequence = min(self._ready[queue])
            redelivered = self._ready[queue].pop(sequence)
            self._unacked[CHANNELS[channel]][queue, sequence] = None
            self.events.append(Delivered(CHANNELS[channel], queue, *self._name(sequence), redelivered))

    def ack(self, channel: int) -> None:
        for queue, sequence in self._take(channel):
            self.events.append(Acked(CHANNELS[channel], queue, *self._name(sequence)))

    def reject(self, channel: int) -> None:
        for queue, sequence in self._take(channel):
            if queue == DEAD:
                self.events.append(Acked(CHANNELS[channel], queue, *self._name(sequence)))
            else:
                self.events.append(Rejected(CHANNELS[channel], queue, *self._name(sequence), DEAD))
                self._ready[DEAD][sequence] = False

    def requeue(self, channel: int) -> None:
        for queue, sequence in self._take(channel):
            self.events.append(Requeued(CHANNELS[channel], queue, *self._name(sequence)))
            self._ready[queue][sequence] = True

    def lose(self, channel: int) -> None:
        self.events.append(Closing(CHANNELS[channel]))
        for queue, sequence in self._unacked.pop(CHANNELS[channel], {}):
            self._ready[queue][sequence] = True
        self.events.append(Closed(CHANNELS[channel]))
        self._consumers = {pair for pair in self._consumers if pair[0] != CHANNELS[channel]}

    def redeclare(self, queue: str = "scratch") -> None:
        self.events.append(Deleting(queue))
        self._ready[queue].clear()
        for copies in self._unacked.values():
            for copy in [copy for copy in copies if copy[0] == queue]:
                del copies[copy]
        self.commit()
        self.events += [Deleted(queue), Declared(queue)]

    def crash(self) -> None:
        self.events.append(Crashed())
        self._restart(self._committed)

    def stop(self) -> None:
        self.events.append(Stopped())
        self._restart(self._state())

    def drain(self) -> None:
        self.commit()
        for channel in range(len(CHANNELS)):
            self.lose(channel)
        for queue in QUEUES:
            while self._ready[queue]:
                self.deliver(0, queue)
                self.ack(0)

    def _publish(self, event: Invoked) -> None:
        self.events.append(event)
        for queue in event.queues:
            self._ready[queue][len(self._published)] = False
        self._unconfirmed.append(len(self._published))
        self._published.append(event)

    def _take(self, channel: int) -> list[tuple[str, int]]:
        copies = list(self._unacked[CHANNELS[channel]])
        self._unacked[CHANNELS[channel]].clear()
        return copies

    def _name(self, sequence: int) -> tuple[str, int]:
        return self._published[sequence].publisher, self._published[sequence].number

    def _state(self) -> dict[str, dict[int, bool]]:
        """What a restart finds: unacked copies are back, marked."""
        state = deepcopy(self._ready)
        for copies in self._unacked.values():
            for queue, sequence in copies:
                state[queue][sequence] = True
        return state

    def _restart(self, state: dict[str, dict[int, bool]]) -> None:
        crashed = isinstance(self.events[-1], Crashed)
        self._ready = {
            queue: {
                sequence: redelivered or (crashed and queue in self._ever_consumed)
                for sequence, redelivered in copies.items()
                if self._published[sequence].persistent
            }
            for queue, copies in state.items()
        }
        self._unacked.clear()
        self._consumers.clear()
        self._unconfirmed.clear()
        self._committed = self._state()
