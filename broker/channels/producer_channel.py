"""A channel that publishes for a producer (`producers.py`): its publish tags are the producer's, and what was
accepted before is not enqueued again.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from ..queues.delivery import Outcome
from .channel import Channel
from .confirms import Confirms
from .producers import ProducerKey
from .wire import Wire

if TYPE_CHECKING:
    from ..connection import Connection


class Known(Enum):
    """What a producer knows of a publish that it was sent before."""

    NOTHING = "it was not accepted: publish it"
    ACCEPTED = "do not enqueue it again; it is confirmed"
    REFUSED = "some queue has it and another one refused it: do not enqueue it again; it is refused"
    FORGOTTEN = "it is too long ago"


class ProducerChannel(Channel):
    """Made by `Connection.open_channel`."""

    _confirms: "ProducerConfirms"

    def __init__(
        self, connection: "Connection", number: int, wire: Wire, producer_id: bytes, opening: int
    ) -> None:
        super().__init__(connection, number, wire)
        self._confirms = ProducerConfirms(wire)
        self._producers = connection.producers
        self._producer = self._producers.attach(
            ProducerKey(connection.vhost.name, producer_id), self, opening
        )

    @property
    def last_tag(self) -> int:
        """The highest publish tag of the producer that was accepted, on whichever channel; 0: none."""
        return self._producer.accepted.last

    def go_on_at(self, publish_tag: int) -> None:
        """The next publish has this tag."""
        self._confirms.go_on_at(publish_tag)

    def recall(self, publish_tag: int) -> Known:
        """Whether a publish was sent before, and what became of it."""
        producer = self._producer
        if producer.accepted.forgets(publish_tag):
            return Known.FORGOTTEN
        if publish_tag not in producer.accepted:
            return Known.NOTHING
        return Known.REFUSED if publish_tag in producer.refused_in_part else Known.ACCEPTED

    def answer_again(self, known: Known) -> None:
        """The next publish was accepted before: it is answered once that is durable."""
        self._counters.sent_again += 1
        self._confirms.last_tag += 1
        if known is Known.REFUSED:
            self._confirms.refuse(self._confirms.last_tag)
        self._journal.confirm(self, self._confirms.last_tag)

    def took(self, first_tag: int, outcomes: Sequence[Outcome]) -> None:
        """What became of publishes that were made just now, in the same step of the domain."""
        runs = self._producer.took(first_tag, outcomes)
        if runs:
            self._journal.store_tags(self._producer, runs)

    def close(self) -> None:
        if self.is_open:
            super().close()
            self._producers.detach(self._producer, self)


class ProducerConfirms(Confirms):
    """Confirms whose tags may begin anywhere and may be left out."""

    __slots__ = ("_left_out",)

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._left_out: deque[tuple[int, int]] = deque()  # (the last of some tags, how many they are), rising

    def go_on_at(self, publish_tag: int) -> None:
        """The next publish has this tag."""
        count = publish_tag - 1 - self.last_tag
        if count:
            self.last_tag += count
            self._left_out.append((self.last_tag, count))

    @property
    def outstanding(self) -> int:
        return super().outstanding - sum(count for _, count in self._left_out)

    def confirm_up_to(self, tag: int) -> int:
        answered = super().confirm_up_to(tag)
        while self._left_out and self._left_out[0][0] <= tag:
            answered -= self._left_out.popleft()[1]
        return answered
