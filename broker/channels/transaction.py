"""A tx.* transaction of one channel: publishes and settlements kept back until commit or thrown away by
rollback.

Commit applies everything in one synchronous step, so the journal packs it into one batch: after a crash all
of it is there or none, over any number of queues.

AMQP commits the rest when a publish reaches no queue, or a queue refuses it. Who wants none of it then asks
for `failures` before, in the same step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from leveret.protocol.amqp.properties import PropertyFacts
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..queues.delivery import REFUSED, Outcome
from .direct_reply import is_answer

if TYPE_CHECKING:
    from ..queues.queue import Queue


class KeptPublish(NamedTuple):
    """One publish that waits for the commit: what `deliver` of the transaction is called with."""

    routed_to: "Sequence[Queue]"  # when it came
    exchange: str
    routing_key: str
    mandatory: bool
    properties: bytes
    facts: PropertyFacts
    body: bytes

    @property
    def queues(self) -> "list[Queue]":
        """Those that are still there."""
        return [queue for queue in self.routed_to if not queue.is_deleted]


class KeptSettlement(NamedTuple):
    """One ack, nack or reject that waits for the commit."""

    commit: Callable[[], None]
    undo: Callable[[], None]


@dataclass(slots=True)
class Transaction:
    """What a channel in tx mode has kept back, in order."""

    deliver: Callable[..., Sequence[Outcome]]
    publishes: list[KeptPublish] = field(default_factory=list)
    settlements: list[KeptSettlement] = field(default_factory=list)

    def failures(self) -> list[tuple[int, SoftError]]:
        """Which publishes, by position, would be returned or refused if all were committed now, and why.

        Until the next event nothing but this transaction adds to a queue, and its settlements come last. So
        when there is room for all of its messages at once, each is taken. The reverse does not quite hold:
        while consumers take every message at once, more of them can pass a queue than it has room for, but
        how many do is up to the consumers.
        """
        failures = []
        planned: dict[Queue, tuple[int, int]] = {}  # messages and bytes
        for position, publish in enumerate(self.publishes):
            error = _failure(publish, planned)
            if error is not None:
                failures.append((position, error))
        return failures

    def commit(self, before_publish: Callable[[int], object]) -> list[int]:
        """Publishes first, then settlements, as RabbitMQ orders them.

        Calls back with the position of each publish before it happens; returns those that a queue refused.
        """
        publishes, self.publishes = self.publishes, []
        settlements, self.settlements = self.settlements, []
        refused = []
        for position, publish in enumerate(publishes):
            before_publish(position)
            *fields, body = publish[1:]
            [outcome] = self.deliver(publish.queues, *fields, [body])
            if outcome >= REFUSED:
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


def _failure(publish: KeptPublish, planned: "dict[Queue, tuple[int, int]]") -> SoftError | None:
    """Why it would not arrive, if queues take what is planned before. Adds it to that."""
    queues = publish.queues
    if not queues and publish.mandatory and not is_answer(publish.exchange, publish.routing_key):
        text = f"exchange '{publish.exchange}' has no queue for routing key '{publish.routing_key}'"
        return SoftError(ReplyCode.NO_ROUTE, text)
    error = None
    for queue in queues:
        count, body_bytes = planned.get(queue, (0, 0))
        needed = count + 1, body_bytes + len(publish.body)
        if queue.has_room(*needed):
            planned[queue] = needed
        else:
            error = SoftError(ReplyCode.RESOURCE_ERROR, f"{queue} has no room for all of the transaction")
    return error
