"""Producers: who publishes under tags that outlive a channel, a connection and the broker's process.

A client that reconnects does not know which of its unanswered publishes arrived, and sends all of them again.
A `Producer` remembers which tags were accepted, so that none of these is enqueued twice. What it knows is
part of the durable state: the journal writes it down in the batch that has the messages.

Invariants:
- A set of accepted tags only ever grows. So whatever is known of a producer may be folded in any order, and
  twice.
- `stored` has just the tags of which the log holds, or will hold with the next commit, a message; `accepted`
  has besides them what would be lost in a restart: after one, such a publish is sent again and accepted anew.
- A producer has at most one channel. `Producers` owns them all; a channel only uses its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..clock import Clock
from ..queues.delivery import REFUSED_IN_PART, STORED, TAKEN, Outcome

if TYPE_CHECKING:
    from ..durability.journal import Journal
    from ..turn import Turn
    from .channel import Channel

WINDOW = 65_536  # so many of the newest tags are remembered one by one
PRODUCERS_MAX = 10_000  # that have no channel are forgotten above this
TTL_S = 86_400.0  # where nobody says otherwise
_ALL = (1 << WINDOW) - 1


class ProducerKey(NamedTuple):
    """Ids are the clients' own choice, so they count per vhost."""

    vhost: str
    id: bytes


class TagSet:
    """Tags that were accepted: the newest, and what is missing below it, as far back as `WINDOW` goes."""

    __slots__ = ("last", "missing")

    def __init__(self, last: int = 0, missing: int = 0) -> None:
        self.last = last  # the highest one; 0: there is none
        self.missing = missing & _ALL  # bit n is set where `last - n` is not in the set

    def add(self, first: int, last: int) -> None:
        if last <= self.last:
            self._add_late(first, last)
            return
        if first <= self.last:
            self._add_late(first, self.last)
            first = self.last + 1
        left_out = min(first - 1 - self.last, WINDOW)
        if left_out or self.missing:
            self.missing = (self.missing << left_out | (1 << left_out) - 1) & _ALL
            self.missing = self.missing << min(last - first + 1, WINDOW) & _ALL
        self.last = last

    def _add_late(self, first: int, last: int) -> None:
        age = self.last - last
        if self.missing and age < WINDOW:
            count = min(last - first + 1, WINDOW)
            self.missing &= ~(((1 << count) - 1) << age)

    def forgets(self, tag: int) -> bool:
        """Whether the tag is so old that nobody knows any more."""
        return self.last - tag >= WINDOW

    def __contains__(self, tag: int) -> bool:
        age = self.last - tag
        return 0 <= age < WINDOW and not self.missing >> age & 1


class TagRun(NamedTuple):
    """Neighbouring tags of which the log holds messages."""

    first: int
    last: int
    refused_in_part: bool


class ProducerImage(NamedTuple):
    """A producer as checkpoints have it: `last` and `missing` of its sets of tags."""

    key: ProducerKey
    stored: tuple[int, int]
    refused_in_part: tuple[int, int]


class Producer:
    """See the module's docstring."""

    def __init__(self, key: ProducerKey) -> None:
        self.key = key
        self.channel: Channel | None = None
        self.opening = 0  # of that channel or the last one, as its client counts them
        self.accepted = TagSet()
        self.stored = TagSet()
        # Of the accepted ones: a queue refused it, others have it. It is not enqueued again, but refused.
        self.refused_in_part = TagSet()

    def took(self, first_tag: int, outcomes: Sequence[Outcome]) -> list[TagRun]:
        """What became of publishes that were made just now; returns what the journal must write down."""
        if outcomes.count(STORED) == len(outcomes):  # by far the most usual case
            runs = [TagRun(first_tag, first_tag + len(outcomes) - 1, False)] if outcomes else []
        else:
            runs = []
            first = first_tag
            for outcome, neighbours in groupby(outcomes):
                last = first + sum(1 for _ in neighbours) - 1
                if outcome is TAKEN:
                    self.accepted.add(first, last)
                elif outcome in (STORED, REFUSED_IN_PART):
                    runs.append(TagRun(first, last, outcome is REFUSED_IN_PART))
                first = last + 1
        for run in runs:
            self.accepted.add(run.first, run.last)
            self.store(run)
        return runs

    def store(self, run: TagRun) -> None:
        """The log holds these, or will."""
        self.stored.add(run.first, run.last)
        if run.refused_in_part:
            self.refused_in_part.add(run.first, run.last)

    def come_back(self) -> None:
        """After a restart there is what was stored."""
        self.accepted = TagSet(self.stored.last, self.stored.missing)

    @property
    def image(self) -> ProducerImage:
        stored, refused = self.stored, self.refused_in_part
        return ProducerImage(self.key, (stored.last, stored.missing), (refused.last, refused.missing))

    @classmethod
    def from_image(cls, image: ProducerImage) -> "Producer":
        producer = cls(image.key)
        producer.stored = TagSet(*image.stored)
        producer.refused_in_part = TagSet(*image.refused_in_part)
        return producer


class Producers:
    """All of them, by key. One per broker."""

    def __init__(self, clock: Clock, journal: "Journal", turn: "Turn", ttl_s: float) -> None:
        self._clock = clock
        self._journal = journal
        self._turn = turn
        self._ttl_s = ttl_s
        self._producers: dict[ProducerKey, Producer] = {}
        self._idle: dict[Producer, float] = {}  # since when no channel has them, the longest first

    def __len__(self) -> int:
        return len(self._producers)

    def attach(self, key: ProducerKey, channel: "Channel", opening: int) -> Producer:
        """From now on the channel has this producer; another one that had it is closed.

        Raises SoftError for an opening before the present one: it was long under way, over a connection that
        its client has left, and so were the publishes behind it.
        """
        producer = self._producers.get(key)
        if producer is None:
            producer = self._producers[key] = Producer(key)
        elif opening < producer.opening:
            raise _taken_over(key)
        producer.opening = opening
        predecessor, producer.channel = producer.channel, channel
        self._idle.pop(producer, None)
        if predecessor is not None:
            predecessor.wire.close_channel(_taken_over(key))
        self._forget_surplus()
        return producer

    def detach(self, producer: Producer, channel: "Channel") -> None:
        """The channel is closed."""
        if producer.channel is not channel:
            return  # it was taken over
        producer.channel = None
        self._idle[producer] = self._clock.monotonic_s()
        if not producer.accepted.last:
            self._forget(producer)
        self._forget_surplus()

    def _forget_surplus(self) -> None:
        while len(self._producers) > PRODUCERS_MAX and self._idle:
            self._forget(next(iter(self._idle)))

    def forget_old(self) -> None:
        """To be called every now and then."""
        long_ago_s = self._clock.monotonic_s() - self._ttl_s
        while self._idle:
            producer, since_s = next(iter(self._idle.items()))
            if since_s > long_ago_s:
                return
            self._forget(producer)

    def _forget(self, producer: Producer) -> None:
        """Whoever comes with this id next is a new one, with tags of its own: the log must know, too."""
        del self._producers[producer.key], self._idle[producer]
        if producer.stored.last:
            self._journal.forget_producer(producer)
            self._turn.wake()

    # Checkpoints and recovery

    def images(self) -> Iterator[ProducerImage]:
        """Of those of which the log knows."""
        return (producer.image for producer in self._producers.values() if producer.stored.last)

    def come_back(self, producers: Iterable[Producer]) -> None:
        """Recovery found these; their clients have not come back yet."""
        now_s = self._clock.monotonic_s()
        for producer in producers:
            producer.come_back()
            self._producers[producer.key] = producer
            self._idle[producer] = now_s


def _taken_over(key: ProducerKey) -> SoftError:
    text = f"producer {key.id.hex()} was taken over by another channel"
    return SoftError(ReplyCode.RESOURCE_LOCKED, text)
