"""A tx.* transaction of one channel: publishes and settlements kept back until commit or thrown away by
rollback.

Commit applies everything in one synchronous step, so the journal packs it into one batch: after a crash all
of it is there or none, over any number of queues.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .message import QueuedMessage


class Kept(NamedTuple):
    """One ack, nack or reject that waits for the commit."""

    copies: list[QueuedMessage]
    commit: Callable[[], None]
    undo: Callable[[], None]


@dataclass(slots=True)
class Transaction:
    """What a channel in tx mode has kept back, in order."""

    publishes: list[Callable[[], None]] = field(default_factory=list)
    settlements: list[Kept] = field(default_factory=list)

    def kept_copies(self) -> Iterator[QueuedMessage]:
        """The copies whose settlement waits for the commit."""
        for kept in self.settlements:
            yield from kept.copies

    def commit(self) -> None:
        """Publishes first, then settlements, as RabbitMQ orders them."""
        publishes, self.publishes = self.publishes, []
        settlements, self.settlements = self.settlements, []
        for publish in publishes:
            publish()
        for kept in settlements:
            kept.commit()

    def rollback(self) -> None:
        """Forget the publishes; the settled deliveries are unacked again. Nothing is requeued."""
        self.publishes = []
        settlements, self.settlements = self.settlements, []
        for kept in settlements:
            kept.undo()
