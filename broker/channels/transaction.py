"""A tx.* transaction of one channel: publishes and settlements kept back until commit or thrown away by
rollback.

Commit applies everything in one synchronous step, so the journal packs it into one batch: after a crash all
of it is there or none, over any number of queues.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ..queues.delivery import REFUSED, Outcome


class Kept(NamedTuple):
    """One ack, nack or reject that waits for the commit."""

    commit: Callable[[], None]
    undo: Callable[[], None]


@dataclass(slots=True)
class Transaction:
    """What a channel in tx mode has kept back, in order."""

    publishes: list[Callable[[], Outcome]] = field(default_factory=list)
    settlements: list[Kept] = field(default_factory=list)

    def commit(self, before_publish: Callable[[int], object]) -> list[int]:
        """Publishes first, then settlements, as RabbitMQ orders them.

        Calls back with the position of each publish before it happens; returns those that a queue refused.
        """
        publishes, self.publishes = self.publishes, []
        settlements, self.settlements = self.settlements, []
        refused = []
        for position, publish in enumerate(publishes):
            before_publish(position)
            if publish() >= REFUSED:
                refused.append(position)
        for kept in settlements:
            kept.commit()
        return refused

    def rollback(self) -> None:
        """Forget the publishes; the settled deliveries are unacked again. Nothing is requeued."""
        self.publishes = []
        settlements, self.settlements = self.settlements, []
        for kept in settlements:
            kept.undo()
