"""From a routed message to its copies in queues, and from a copy to what a consumer sees.

Publishing and dead lettering both end in `enqueue_to`; every wire renders what `delivered_properties`
gives.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import Long
from leveret.protocol.amqp.properties import with_changes

from ..message import Message, QueuedMessage
from ..services import Services

if TYPE_CHECKING:
    from .queue import Queue


Delivery = tuple[bool, str, str, bytes, bytes]
"""Redelivered, exchange, routing key, properties, body: a plain tuple, for there is one per message."""


class Outcome(IntEnum):
    """What became of a publish."""

    STORED = 0
    """Queues have it, one of them durably."""
    TAKEN = 1
    """It went where it should, which may be nowhere; nothing of it will be left after a restart."""
    RETURNED = 2
    """No queue has it, and the publisher is told."""
    REFUSED = 3
    """No queue has it, for one refused it."""
    REFUSED_IN_PART = 4
    """A queue refused it; others have it."""


STORED, TAKEN, RETURNED, REFUSED, REFUSED_IN_PART = Outcome  # an enum's attributes are slow


def enqueue_to(
    messages: Sequence[Message], queues: "Sequence[Queue]", services: Services
) -> Sequence[Outcome]:
    """Put copies into each queue and tell the journal what must be durable; returns what became of each.

    The messages differ in their bodies only.
    """
    for queue in queues:
        if queue.refuses_surplus:  # it has to look at each of them
            return [_offer_to(message, queues, services) for message in messages]
    return (_enqueue_to(messages, queues, services),) * len(messages)


def _offer_to(message: Message, queues: "Sequence[Queue]", services: Services) -> Outcome:
    accepting = [queue for queue in queues if queue.accepts(message)]
    if not accepting:
        return REFUSED
    outcome = _enqueue_to((message,), accepting, services)
    return outcome if len(accepting) == len(queues) else REFUSED_IN_PART


def _enqueue_to(messages: Sequence[Message], queues: "Sequence[Queue]", services: Services) -> Outcome:
    persistent = messages[0].facts.persistent
    durable: list[QueuedMessage] = []  # the copies that must be
    for queue in queues:
        copies = queue.enqueue(messages)
        if queue.durable and (persistent or queue.persists_everything):
            durable += copies
        else:
            queue.has_grown = True
    if not durable:
        return TAKEN
    services.journal.publish(messages, durable)
    return STORED


def deliveries_of(copies: Sequence[QueuedMessage]) -> list[Delivery]:
    """What a wire sends of copies of one queue."""
    counts = copies[0].queue.counts_deliveries
    deliveries = []
    for copy in copies:  # a comprehension costs more where it is one, and that is often
        message = copy.message
        properties = delivered_properties(copy) if counts else message.properties
        deliveries.append((copy.redelivered, message.exchange, message.routing_key, properties, message.body))
    return deliveries


def delivered_properties(copy: QueuedMessage) -> bytes:
    """The property list as a consumer gets it: as published, and how often it failed if that counts."""
    properties = copy.message.properties
    if copy.queue.counts_deliveries:
        return with_changes(properties, set_headers={"x-delivery-count": Long(copy.delivery_count)})
    return properties
