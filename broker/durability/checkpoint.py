"""A checkpoint: the durable state of the broker, folded, at one position of the log.

Recovery is a checkpoint plus the blobs after it. A checkpoint says which copies of messages are alive, not
what is in them: the messages stay in the blobs they were published in, and it names the blobs that must still
be there.
"""

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from leveret.storage.engine import Corrupt

from ..message import QueuedMessage
from . import records

if TYPE_CHECKING:
    from ..broker import Broker
    from ..queues.queue import Queue

CHECKPOINT_FORMAT = 1  # docs/storage-format.md has the recipe for the next one


@dataclass(slots=True)
class QueueImage:
    """The live copies of one durable queue."""

    queue_id: int
    delivering: bool
    sequences: "array[int]"
    """Of the live copies' messages, rising."""
    redelivered: "array[int]"
    """Those of them that were delivered before."""
    delivery_counts: dict[int, int]
    """Sequence -> failed deliveries, where there were any."""


@dataclass(slots=True)
class Checkpoint:
    """See the module's docstring."""

    last_sequence: int
    last_queue_id: int
    chain_hash: bytes
    """Of the last blob that is folded in: what the next blob names as its previous one."""
    topology: list[bytes]
    """Packed changes, as in the TOPOLOGY records."""
    queues: list[QueueImage]
    blobs: list[int]
    """Positions of the blobs that hold live copies, rising."""

    def pack(self) -> bytes:
        return records.pack_map(
            {
                "format": CHECKPOINT_FORMAT,
                "last_sequence": self.last_sequence,
                "last_queue_id": self.last_queue_id,
                "chain_hash": self.chain_hash,
                "topology": self.topology,
                "queues": [
                    [
                        q.queue_id,
                        q.delivering,
                        _to_bytes(q.sequences),
                        _to_bytes(q.redelivered),
                        q.delivery_counts,
                    ]
                    for q in self.queues
                ],
                "blobs": _to_bytes(array("Q", self.blobs)),
            }
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises Corrupt for anything but a checkpoint this version can read."""
        try:
            fields = records.unpack_map(data)
            if fields["format"] != CHECKPOINT_FORMAT:
                raise Corrupt(
                    f"the checkpoint has format {fields['format']}, "
                    f"this version of Leveret reads format {CHECKPOINT_FORMAT}"
                )
            return cls(
                last_sequence=fields["last_sequence"],
                last_queue_id=fields["last_queue_id"],
                chain_hash=fields["chain_hash"],
                topology=fields["topology"],
                queues=[
                    QueueImage(queue_id, delivering, _from_bytes(sequences), _from_bytes(redelivered), counts)
                    for queue_id, delivering, sequences, redelivered, counts in fields["queues"]
                ],
                blobs=list(_from_bytes(fields["blobs"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"the checkpoint cannot be read: {error}") from error


def take_image(broker: "Broker") -> tuple[list[bytes], list[QueueImage]]:
    """The durable topology and the live copies, as they are at this instant."""
    unacked: dict[Queue, list[QueuedMessage]] = {}
    for connection in broker.connections:
        for channel in connection.channels.values():
            for copy in channel.unacked_copies():
                unacked.setdefault(copy.queue, []).append(copy)
    topology: list[bytes] = []
    images: list[QueueImage] = []
    for vhost in broker.vhosts.values():
        topology += vhost.snapshot()
        for queue in vhost.queues.values():
            if queue.durable:
                copies = [*queue.ready_copies(), *unacked.get(queue, ())]
                images.append(_image(queue, copies))
    return topology, images


def _image(queue: "Queue", copies: Iterable[QueuedMessage]) -> QueueImage:
    durable = [copy for copy in copies if copy.is_durable]
    durable.sort(key=lambda copy: copy.message.sequence)
    return QueueImage(
        queue.id,
        queue.delivering,
        array("Q", [copy.message.sequence for copy in durable]),
        array("Q", [copy.message.sequence for copy in durable if copy.redelivered]),
        {copy.message.sequence: copy.delivery_count for copy in durable if copy.delivery_count},
    )


def _to_bytes(numbers: "array[int]") -> bytes:
    """Little-endian u64 each."""
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(data: bytes) -> "array[int]":
    numbers = array("Q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
