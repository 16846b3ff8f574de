"""A message, and a queue's copy of it.

A `Message` is what was published: shared by all queues it was routed to, never changed afterwards. A
`QueuedMessage` is one queue's copy with the state that differs per queue. `Channel.publish` and dead
lettering create messages; only the queue that holds a copy changes it.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

from leveret.protocol.amqp.properties import PropertyFacts

if TYPE_CHECKING:
    from .queues.lane import Lane
    from .queues.queue import Queue
    from .queues.runs import Run


NO_COPIES: "tuple[QueuedMessage, ...]" = ()


class Message:
    """One publish.

    Persistent fields (they go into the log): sequence, published_at, exchange, routing_key, properties, body.
    """

    __slots__ = (
        "__weakref__",
        "body",
        "durable_copies",
        "exchange",
        "facts",
        "properties",
        "published_at",
        "routing_key",
        "sequence",
    )

    def __init__(
        self,
        sequence: int,
        published_at: int,
        exchange: str,
        routing_key: str,
        properties: bytes,
        facts: PropertyFacts,
        body: bytes,
    ) -> None:
        self.sequence = sequence  # broker-wide, rising in publish order, never 0, never reused
        self.published_at = published_at  # ms since the epoch
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties  # the AMQP property list (flags and values) exactly as published
        self.facts = facts  # what the broker itself must know of the properties
        self.body = body
        # In memory only, the journal's: those to be stored; emptied when they are packed.
        self.durable_copies = NO_COPIES


class CopyState(IntEnum):
    """Where a queue's copy of a message is."""

    READY = 0
    UNACKED = 1
    GONE = 2  # acked, dropped, expired, dead-lettered, purged, or alive on the disk only; may still sit in a
    # lazily cleaned structure


_READY = CopyState.READY  # an attribute of an enum costs 0.13 us, and there is one per message


class QueuedMessage:
    """One queue's copy of a message. Order within a queue is `message.sequence`, before priorities."""

    __slots__ = (
        "delivery_count",
        "expires_at",
        "is_durable",
        "lane",
        "message",
        "priority",
        "queue",
        "redelivered",
        "run",
        "state",
    )

    def __init__(self, message: Message, queue: "Queue", expires_at: int | None, priority: int) -> None:
        self.message = message
        self.queue = queue
        self.expires_at = expires_at  # ms since the epoch, kept over requeues; None: never
        self.priority = priority  # already capped to the queue's x-max-priority; 0 in a queue without
        self.state = _READY
        self.lane: Lane  # of its queue; written by the lane that it comes into
        self.run: Run | None = None  # where it is stored, once it is packed; written by the journal
        self.is_durable = False  # written by the journal: the log holds it, or will after the next commit
        self.redelivered = False
        self.delivery_count = 0  # how often a delivery failed (not: was merely handed back with nack)
