"""What a start of Leveret finds in a data directory: the real recovery, in this process, without sockets."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from whole_broker import USER, Delivered, NotingWire, WholeBroker

from leveret.broker.broker import DEFAULT_VHOST
from leveret.broker.channels.producers import TagSet
from leveret.protocol.amqp.properties import decode_properties
from leveret.storage.lmdb import LmdbEngine

CHECKPOINT_EVERY_BYTES = 1000  # commits after the start come with checkpoints
DRAIN_MAX_S = 30.0


class Copy(NamedTuple):
    """A message of a queue."""

    message_id: str | None
    body: bytes
    redelivered: bool


@dataclass
class Recovered:
    """What was found. Names are those of `history.Built`."""

    queues: dict[str, list[Copy]] = field(default_factory=dict)
    """The messages of every queue, in order."""
    others: list[str] = field(default_factory=list)
    """Exchanges and bindings."""
    producers: dict[str, set[int]] = field(default_factory=dict)
    """The publish tags of each that were accepted."""

    @property
    def standing(self) -> tuple[str, ...]:
        """Everything that is not a message."""
        return (*(f"queue {name}" for name in self.queues), *self.others)


def recover(data_dir: Path) -> Recovered:
    """Start a broker on a data directory, consume and ack everything in it, and end without a clean stop.

    Raises EngineError when the broker would not start.
    """
    found = Recovered()
    asyncio.run(_recover(data_dir, found))  # whose result, were there one, asyncio would format, for nobody
    return found


async def _recover(data_dir: Path, found: Recovered) -> None:
    engine = LmdbEngine(data_dir)
    await engine.open()
    try:
        whole = WholeBroker(engine, checkpoint_every_bytes=CHECKPOINT_EVERY_BYTES)
        await whole.start(read_back=False)
        vhost = whole.broker.vhosts[DEFAULT_VHOST]
        found.queues.update({name: [] for name in vhost.queues})
        found.others += [f"exchange {name}" for name in vhost.exchanges]
        found.others += [
            f"binding {binding.source.name} {binding.destination.name}" for binding in vhost.bindings
        ]
        for image in whole.broker.producers.images():
            tags = TagSet(*image.stored)
            found.producers[image.key.id.decode()] = {tag for tag in range(1, tags.last + 1) if tag in tags}
        await _drain(whole, found)
    finally:
        await engine.close()


async def _drain(whole: WholeBroker, found: Recovered) -> None:
    vhost = whole.broker.vhosts[DEFAULT_VHOST]
    connection = whole.broker.open_connection(vhost, USER, "drain")
    channel = connection.open_channel(1, _Collector(found.queues))
    for name in vhost.queues:
        channel.consume(name, name, no_ack=False, exclusive=False, arguments={})
    async with asyncio.timeout(DRAIN_MAX_S):
        await whole.commit()
        while any(queue.message_count for queue in vhost.queues.values()):
            await whole.commit()  # each time, more of what is only on the disk was read
    channel.ack(0, True)
    await whole.commit()


class _Collector(NotingWire):
    """Keeps what is delivered, by queue: consumer tags are the names of queues."""

    def __init__(self, queues: dict[str, list[Copy]]) -> None:
        super().__init__()
        self._queues = queues

    def note(self, delivered: Delivered, properties: bytes) -> None:
        message_id = decode_properties(properties).message_id
        self._queues[delivered.consumer_tag].append(Copy(message_id, delivered.body, delivered.redelivered))
