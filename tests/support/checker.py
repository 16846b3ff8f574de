"""The checker of histories: it finds what a broker must never do, whenever it was killed.

- lost          confirmed and persistent, but never delivered, or handed back and never delivered again;
                or a durable queue, exchange or binding that was answered and is not there
- unexpected    delivered, but never published to that queue; or transient and older than the last start
- duplicated    delivered again without a crash, a requeue or the loss of the consumer in between
- resurrected   delivered again although the ack, or the deletion of its queue, was certainly durable;
                or a queue, exchange or binding that was removed, and is there
- reordered     one publisher's messages of a queue reached a consumer out of order, and nothing was requeued
- unmarked      delivered again without `redelivered`
- overmarked    delivered with `redelivered` although it can never have been delivered before
- corrupt       the body is not what was published
- torn          a transaction of which only a part is left

An ack is certainly durable once the broker confirmed a `barrier`: a persistent message that the acking
channel published afterwards to a durable queue from which nobody consumes. What else was under way at a crash
may have happened or not; `recovered` counts the publishes of that kind that had.

One walk over the events, then one look at the end, when the load drained every queue and acked everything.
`python checker.py FILE` judges a history that was saved.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from history import (
    Acked,
    Built,
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
    Refused,
    Rejected,
    Removed,
    Removing,
    Requeued,
    Standing,
    Stopped,
    load,
)

Message = tuple[str, int]
Copy = tuple[str, str, int]
Transaction = tuple[str, int]
Line = tuple[str, str, str]
"""(channel, queue, publisher): along it numbers must rise."""

LOST = "lost"
UNEXPECTED = "unexpected"
DUPLICATED = "duplicated"
RESURRECTED = "resurrected"
REORDERED = "reordered"
UNMARKED = "unmarked"
OVERMARKED = "overmarked"
CORRUPT = "corrupt"
TORN = "torn"

SHOWN_MAX = 10
"""How many violations of a kind are spelled out; all are counted."""


@dataclass(slots=True)
class Report:
    """What the checker found. `counts` says how much was tried: a history without traffic proves nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def ok(self) -> bool:
        return not self.violations

    def violation(self, kind: str, text: str) -> None:
        self.violations[kind] += 1
        if len(self.examples[kind]) < SHOWN_MAX:
            self.examples[kind].append(text)

    def __str__(self) -> str:
        lines = [", ".join(f"{name} {count}" for name, count in self.counts.items())]
        lines += [f"{kind.upper()}: {count}" for kind, count in self.violations.items()]
        lines += [f"  {kind}: {text}" for kind, texts in self.examples.items() for text in texts]
        return "\n".join(lines)


@dataclass(slots=True)
class _Publication:
    event: Invoked
    at: int  # index of the event
    incarnation: int  # of the broker that it was sent to
    confirmed_at: int | None = None
    refused: bool = False

    @property
    def copies(self) -> list[Copy]:
        return [(queue, self.event.publisher, self.event.number) for queue in self.event.queues]


@dataclass(slots=True)
class _CopyState:
    """What is known of one queue's copy. Every delivery begins its story anew, except for `first_at`."""

    first_at: int  # index of the first delivery
    may_return: bool = False  # a further delivery has an explanation
    may_return_unmarked: bool = False  # ... as a new message: it was dead-lettered once more
    settled: bool = False  # acked or rejected
    proven: bool = False  # ... and that is certainly durable
    dead_letter_queue: str | None = None  # where a rejected copy must be found
    transaction: Transaction | None = None  # the one that acked it


@dataclass(slots=True)
class _ChannelState:
    outstanding: dict[Copy, None] = field(default_factory=dict)  # delivered, not proven to be settled
    settlements: list[Copy] = field(default_factory=list)  # in the order sent, since the last proof
    barriers: dict[int, int] = field(default_factory=dict)  # number of the barrier -> settlements before it
    consumed: set[str] = field(default_factory=set)  # queues
    closing: bool = False


class Checker:
    """Feed it a history with `feed`, then ask for the `report`."""

    def __init__(self) -> None:
        self._at = 0
        self._incarnation = 1
        self._report = Report()
        self._published: dict[Message, _Publication] = {}
        self._copies: dict[Copy, _CopyState] = {}
        self._dead_lettered: set[Copy] = set()  # copies that a Rejected announced
        self._channels: dict[str, _ChannelState] = defaultdict(_ChannelState)
        self._consumed: set[str] = set()  # queues ever consumed from
        self._handed_back: dict[str, int] = {}  # queue -> index when copies may last have gone back unseen
        self._disturbed: set[str] = set()  # queues where, in this incarnation, something was put back
        self._fresh: dict[Line, int] = {}  # the last number that came unmarked
        self._last: dict[Line, int] = {}  # the last number while the queue was undisturbed
        self._deleting: dict[str, int] = {}  # queue -> index of the last Deleting
        self._graves: dict[str, tuple[int, int]] = {}  # deleted queue -> (index of Deleting, incarnation)
        self._absent: set[str] = set()  # queues that may be deleted and are not yet declared again
        self._usable_from: dict[str, int] = {}  # queue -> index of its last Declared
        self._standing: dict[str, bool] = {}  # what must, or must not, be there after a start
        self._survived: set[Message] = set()  # delivered by a later incarnation than they were published to
        self._transactions: dict[Transaction, list[Message]] = defaultdict(list)
        self._undone: set[Transaction] = set()  # transactions of which an acked copy came again

    def feed(self, events: Iterable[Event]) -> None:
        """Walk over (a further part of) the history."""
        steps: dict[type, Callable[[Any], None]] = {
            Invoked: self._invoked,
            Confirmed: self._confirmed,
            Refused: self._refused,
            Consuming: self._consuming,
            Delivered: self._delivered,
            Acked: self._acked,
            Rejected: self._rejected,
            Requeued: self._requeued,
            Closing: self._closing,
            Closed: self._closed,
            Deleting: self._queue_deleting,
            Deleted: self._queue_deleted,
            Declared: self._queue_declared,
            Built: self._built,
            Removing: self._removing,
            Removed: self._removed,
            Standing: self._stands,
            Crashed: self._crashed,
            Stopped: self._stopped,
        }
        for event in events:
            self._at += 1
            self._report.counts[type(event).__name__.lower()] += 1
            steps[type(event)](event)

    def report(self) -> Report:
        """Judge what can only be known at the end. Call it once."""
        for publication in self._published.values():
            for copy in publication.copies:
                if self._must_survive(copy, publication):
                    self._look_for(copy)
        self._judge_transactions()
        delivered = {copy[1:] for copy in self._copies}
        self._report.counts["recovered"] = sum(
            publication.confirmed_at is None and not publication.refused and message in delivered
            for message, publication in self._published.items()
        )
        return self._report

    # -- publishing

    def _invoked(self, event: Invoked) -> None:
        message = event.publisher, event.number
        if message in self._published:
            raise ValueError(f"the load published {message} twice: this history proves nothing")
        self._published[message] = _Publication(event, self._at, self._incarnation)
        if event.barrier:
            channel = self._channels[event.publisher]
            channel.barriers[event.number] = len(channel.settlements)
        if event.transaction:
            self._transactions[event.publisher, event.transaction].append(message)

    def _confirmed(self, event: Confirmed) -> None:
        publication = self._published.get((event.publisher, event.number))
        if publication is None:
            self._report.violation(UNEXPECTED, f"{self._at}: {event} of what was never published")
            return
        publication.confirmed_at = self._at
        if publication.event.barrier and publication.incarnation == self._incarnation:
            self._prove(self._channels[event.publisher], event.number)

    def _prove(self, channel: _ChannelState, barrier: int) -> None:
        count = channel.barriers.pop(barrier, 0)
        for copy in channel.settlements[:count]:
            self._copies[copy].proven = True
            channel.outstanding.pop(copy, None)
        del channel.settlements[:count]
        channel.barriers = {number: max(0, before - count) for number, before in channel.barriers.items()}

    def _refused(self, event: Refused) -> None:
        self._published[event.publisher, event.number].refused = True

    # -- delivery

    def _consuming(self, event: Consuming) -> None:
        self._channels[event.channel].consumed.add(event.queue)
        self._consumed.add(event.queue)

    def _delivered(self, event: Delivered) -> None:
        copy = event.queue, event.publisher, event.number
        publication = self._published.get(copy[1:])
        if publication is None or not self._is_expected(copy, publication):
            self._report.violation(UNEXPECTED, f"{self._at}: {event}")
            self._copies.setdefault(copy, _CopyState(self._at))
            return
        state = self._copies.get(copy)
        self._check_order(event, publication)
        self._check_deletion(event, publication, state)
        if not event.intact:
            self._report.violation(CORRUPT, f"{self._at}: {event}")
        if state is not None:
            self._check_repetition(event, state)
        elif event.redelivered and not self._may_be_handed_back(event.queue, publication.at):
            self._report.violation(OVERMARKED, f"{self._at}: {event}")
        self._copies[copy] = _CopyState(state.first_at if state else self._at)
        self._channels[event.channel].outstanding[copy] = None
        if publication.incarnation < self._incarnation:
            self._survived.add(copy[1:])

    def _is_expected(self, copy: Copy, publication: _Publication) -> bool:
        if copy[0] not in publication.event.queues and copy not in self._dead_lettered:
            return False
        return publication.event.persistent or publication.incarnation == self._incarnation

    def _check_order(self, event: Delivered, publication: _Publication) -> None:
        if event.queue not in publication.event.queues:
            return  # dead-lettered: in the order of death
        line = event.channel, event.queue, event.publisher
        before = -1
        if not event.redelivered:
            before = self._fresh.get(line, before)
            self._fresh[line] = event.number
        if event.queue not in self._disturbed:
            before = max(before, self._last.get(line, before))
            self._last[line] = event.number
        if event.number < before:
            self._report.violation(REORDERED, f"{self._at}: {event} after {before}")

    def _check_deletion(self, event: Delivered, publication: _Publication, state: _CopyState | None) -> None:
        """A copy that was in a queue when its deletion began must not be there after a later start."""
        if event.queue not in self._graves:
            return
        deleting_at, incarnation = self._graves[event.queue]
        known_at = min(publication.confirmed_at or self._at, state.first_at if state else self._at)
        if known_at < deleting_at and incarnation < self._incarnation:
            text = f"{self._at}: {event}, but its queue was deleted at {deleting_at}"
            self._report.violation(RESURRECTED, text)

    def _check_repetition(self, event: Delivered, state: _CopyState) -> None:
        if state.may_return_unmarked:
            return
        if state.proven:
            self._report.violation(RESURRECTED, f"{self._at}: {event}")
        elif not state.may_return:
            self._report.violation(DUPLICATED, f"{self._at}: {event}")
        elif not event.redelivered:
            self._report.violation(UNMARKED, f"{self._at}: {event}")
        if state.transaction is not None:
            self._undone.add(state.transaction)

    # -- settling

    def _acked(self, event: Acked) -> None:
        state = self._settle(event)
        if event.transaction:
            state.transaction = event.channel, event.transaction

    def _rejected(self, event: Rejected) -> None:
        self._settle(event).dead_letter_queue = event.dead_letter_queue
        dead_letter = event.dead_letter_queue, event.publisher, event.number
        self._dead_lettered.add(dead_letter)
        if dead_letter in self._copies:
            self._copies[dead_letter].may_return_unmarked = True

    def _settle(self, event: Acked | Rejected) -> _CopyState:
        copy = event.queue, event.publisher, event.number
        state = self._copies[copy]
        state.settled = True
        self._channels[event.channel].settlements.append(copy)
        return state

    def _requeued(self, event: Requeued) -> None:
        copy = event.queue, event.publisher, event.number
        self._copies[copy].may_return = True
        self._channels[event.channel].outstanding.pop(copy, None)
        self._disturbed.add(event.queue)

    # -- what breaks

    def _closing(self, event: Closing) -> None:
        self._give_back(self._channels[event.channel])
        self._channels[event.channel].closing = True

    def _closed(self, event: Closed) -> None:
        self._give_back(self._channels.pop(event.channel))

    def _give_back(self, channel: _ChannelState) -> None:
        for copy in channel.outstanding:
            self._copies[copy].may_return = True
        channel.outstanding.clear()
        self._handed_back.update(dict.fromkeys(channel.consumed, self._at))
        self._disturbed.update(channel.consumed)

    def _may_be_handed_back(self, queue: str, published_at: int) -> bool:
        """Whether a consumer may have been sent a copy, and lost it, before it was ever read."""
        if self._handed_back.get(queue, 0) > published_at:
            return True
        return any(channel.closing and queue in channel.consumed for channel in self._channels.values())

    def _queue_deleting(self, event: Deleting) -> None:
        self._deleting[event.queue] = self._at
        self._absent.add(event.queue)

    def _queue_deleted(self, event: Deleted) -> None:
        self._graves[event.queue] = self._deleting[event.queue], self._incarnation

    def _queue_declared(self, event: Declared) -> None:
        self._absent.discard(event.queue)
        self._usable_from[event.queue] = self._at

    def _built(self, event: Built) -> None:
        self._standing[event.name] = True

    def _removing(self, event: Removing) -> None:
        self._standing.pop(event.name, None)

    def _removed(self, event: Removed) -> None:
        self._standing[event.name] = False

    def _stands(self, event: Standing) -> None:
        for name, must_stand in self._standing.items():
            if (name in event.names) != must_stand:
                kind = LOST if must_stand else RESURRECTED
                self._report.violation(kind, f"{self._at}: {name}")

    def _crashed(self, _event: Crashed) -> None:
        self._restart()
        # All of a queue that was ever consumed from may come back marked: the broker cannot know better.
        self._handed_back.update(dict.fromkeys(self._consumed, self._at))

    def _stopped(self, _event: Stopped) -> None:
        self._restart()

    def _restart(self) -> None:
        for channel in self._channels.values():
            self._give_back(channel)
        self._channels.clear()
        self._disturbed.clear()
        self._last.clear()
        self._incarnation += 1

    # -- the end

    def _must_survive(self, copy: Copy, publication: _Publication) -> bool:
        """Whether only a consumer may have ended this copy."""
        is_kept = publication.confirmed_at is not None and publication.event.persistent
        return is_kept and not self._is_excused(copy, publication)

    def _is_excused(self, copy: Copy, publication: _Publication) -> bool:
        """Whether a deletion may have taken the copy, or there was no queue to take it."""
        return copy[0] in self._absent or publication.at < self._usable_from.get(copy[0], 0)

    def _look_for(self, copy: Copy) -> None:
        state = self._copies.get(copy)
        if state is None:
            self._report.violation(LOST, f"{copy} was never delivered")
        elif not state.settled:
            self._report.violation(LOST, f"{copy} was handed back and never delivered again")
        elif state.dead_letter_queue is not None:
            self._look_for((state.dead_letter_queue, *copy[1:]))

    def _judge_transactions(self) -> None:
        """All publishes and acks of a transaction are kept, or none."""
        acks_kept: dict[Transaction, list[Copy]] = defaultdict(list)
        for copy, state in self._copies.items():
            source = self._published.get(copy[1:])
            if state.transaction and source and self._must_survive(copy, source):
                acks_kept[state.transaction].append(copy)
        for transaction, messages in self._transactions.items():
            kept = [message for message in messages if message in self._survived] + acks_kept[transaction]
            lost = [copy for message in messages for copy in self._missing(self._published[message])]
            undone = transaction in self._undone
            if kept and (lost or undone):
                text = f"{transaction}: kept {kept}, lost {lost}, acks undone: {undone}"
                self._report.violation(TORN, text)

    def _missing(self, publication: _Publication) -> list[Copy]:
        copies = [copy for copy in publication.copies if copy not in self._copies]
        return [copy for copy in copies if not self._is_excused(copy, publication)]


def check(events: Iterable[Event]) -> Report:
    """Judge a whole history."""
    checker = Checker()
    checker.feed(events)
    return checker.report()


if __name__ == "__main__":
    found = check(load(Path(sys.argv[1])))
    print(found)
    sys.exit(0 if found.ok else 1)
