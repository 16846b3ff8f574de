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


def enqueue_to(message: Message, queues: "Sequence[Queue]", services: Services) -> Outcome:
    """Put a copy into each queue and tell the journal what must be durable."""
    persistent = message.facts.persistent
    if len(queues) == 1:  # by far the most usual case
        queue = queues[0]
        copy = queue.enqueue(message)
        if copy is None:
            return REFUSED
        if queue.durable and (persistent or queue.persists_everything):
            services.journal.publish(message, [copy])
            return STORED
        queue.has_grown = True
        return TAKEN
    copies = [copy for queue in queues if (copy := queue.enqueue(message)) is not None]
    durable = [
        copy for copy in copies if copy.queue.durable and (persistent or copy.queue.persists_everything)
    ]
    if durable:
        services.journal.publish(message, durable)
    if len(durable) < len(copies):
        for copy in copies:
            copy.queue.has_grown |= not copy.is_durable
    if len(copies) < len(queues):
        return REFUSED_IN_PART if copies else REFUSED
    return STORED if durable else TAKEN


def delivered_properties(copy: QueuedMessage) -> bytes:
    """The property list as a consumer gets it: as published, and how often it failed if that counts."""
    properties = copy.message.properties
    if copy.queue.counts_deliveries:
        return with_changes(properties, set_headers={"x-delivery-count": Long(copy.delivery_count)})
    return properties
