"""The history of a test that kills the broker: what was done to it and what it did, in one order.

The load appends events as it causes or sees them: `Invoked`, `Consuming`, `Acked`, `Requeued`, `Rejected`,
`Closing`, `Deleting` and `Removing` before the bytes leave, everything else once the broker's answer was
read, and `Crashed` or `Stopped` once the last byte of the dead broker was read. `checker.py` judges a
history.

A message is (publisher, number); the numbers of one publisher rise. A copy is (queue, publisher, number).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Invoked(NamedTuple):
    """A publish is about to be sent. The publisher is the name of its channel."""

    publisher: str
    number: int
    queues: tuple[str, ...]  # every queue that must get a copy
    persistent: bool = True  # must survive a restart: a persistent message, and all of `queues` durable
    barrier: bool = False
    transaction: int = 0  # 0: none; numbered per channel, shared with the acks of the transaction


class Confirmed(NamedTuple):
    """The broker took responsibility (basic.ack, or commit-ok for each publish of the transaction)."""

    publisher: str
    number: int


class Refused(NamedTuple):
    """basic.nack: the broker does not promise anything."""

    publisher: str
    number: int


class Consuming(NamedTuple):
    """A consume (or the first get) of a channel on a queue is about to be sent."""

    channel: str
    queue: str


class Delivered(NamedTuple):
    channel: str
    queue: str
    publisher: str
    number: int
    redelivered: bool = False
    intact: bool = True  # the body is the published one


class Acked(NamedTuple):
    channel: str
    queue: str
    publisher: str
    number: int
    transaction: int = 0


class Rejected(NamedTuple):
    """A reject or nack without requeue; `dead_letter_queue` must get the message."""

    channel: str
    queue: str
    publisher: str
    number: int
    dead_letter_queue: str


class Requeued(NamedTuple):
    """A reject or nack with requeue."""

    channel: str
    queue: str
    publisher: str
    number: int


class Closing(NamedTuple):
    """A channel is about to be closed in a running broker, or was: what it holds goes back."""

    channel: str


class Closed(NamedTuple):
    """The broker will not send anything to this channel any more (close-ok was read)."""

    channel: str


class Deleting(NamedTuple):
    """A queue.delete or queue.purge is about to be sent."""

    queue: str


class Deleted(NamedTuple):
    """The delete-ok or purge-ok was read."""

    queue: str


class Declared(NamedTuple):
    """The queue is there: the declare after a `Deleting` was answered (or the purge was)."""

    queue: str


class Built(NamedTuple):
    """A durable exchange, queue or binding is there: the answer was read."""

    name: str  # of what it is, too: "queue x", "exchange x", "binding x y"


class Removing(NamedTuple):
    """The delete or unbind of something durable is about to be sent. Its name is never used again."""

    name: str


class Removed(NamedTuple):
    """It is gone: the answer was read."""

    name: str


class Standing(NamedTuple):
    """Everything durable that a broker has right after its start."""

    names: tuple[str, ...]


class Crashed(NamedTuple):
    """The broker died without warning, and nothing of it is left to read."""


class Stopped(NamedTuple):
    """The broker stopped in order (exit status 0), and nothing of it is left to read."""


Event = (
    Invoked | Confirmed | Refused | Consuming | Delivered | Acked | Rejected | Requeued | Closing | Closed
    | Deleting | Deleted | Declared | Built | Removing | Removed | Standing | Crashed | Stopped
)  # fmt: skip

_EVENT_TYPES = {kind.__name__: kind for kind in Event.__args__}


def save(events: Iterable[Event], path: Path) -> None:
    """Write a history, one JSON array a line, so that a failure can be studied (`python checker.py FILE`)."""
    with path.open("w") as file:
        file.writelines(json.dumps([type(event).__name__, *event]) + "\n" for event in events)


def load(path: Path) -> Iterator[Event]:
    """Read what `save` wrote."""
    with path.open() as file:
        for line in file:
            name, *fields = json.loads(line)
            yield _EVENT_TYPES[name](
                *(tuple(value) if isinstance(value, list) else value for value in fields)
            )
