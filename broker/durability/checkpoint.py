"""A checkpoint: the durable state of the broker, folded, at one position of the log.

Recovery is a checkpoint plus the blobs after it. A checkpoint says which copies of messages are alive and
where they lie, not what is in them: the messages stay in the blobs they were published in.

It is fuzzy. The topology and the producers are those of the checkpoint's own position; queues are added one
after the other while the log goes on, each with the position at which its image is exact. Recovery passes
over what an image has seen already.
"""

import io
import sys
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, Self

import msgpack
from msgpack.exceptions import UnpackException

from leveret.storage.engine import Corrupt

from ..channels.producers import ProducerImage, ProducerKey
from ..queues.runs import RunTable, little_endian
from . import records

if TYPE_CHECKING:
    from ..queues.lane import Lane
    from ..queues.queue import Queue
    from .blobs import StoredBlob

CHECKPOINT_FORMAT = 3  # docs/storage-format.md has the recipe for the next one
READABLE_FORMATS = (2, 3)

STEP_QUEUES = 500  # read at once: 10,000 with a million messages held up the loop for 200 ms


@dataclass(slots=True)
class LaneImage:
    """The live copies of one lane."""

    priority: int
    body_bytes: int
    table: RunTable


@dataclass(slots=True)
class QueueImage:
    """The live copies of one durable queue, after all records up to `position`."""

    queue_id: int
    position: int
    delivering: bool
    redelivered_up_to: int
    returned: dict[int, int]
    lanes: list[LaneImage]


@dataclass(slots=True)
class Checkpoint:
    """See the module's docstring. It is filled step by step, then packed."""

    position: int
    last_sequence: int
    last_queue_id: int
    chain_hash: bytes
    """Of the last blob up to `position`: what the next blob names as its previous one."""
    topology: list[bytes]
    """Packed topology records."""
    producers: list[ProducerImage] = field(default_factory=list)
    queues: list[bytes] = field(default_factory=list)
    """Packed images."""
    blobs: "array[int]" = field(default_factory=lambda: array("Q"))
    """Position and number of published copies of each blob that has any, in turn."""
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of a blob with a large message: position of the first PART and how many there are, by its position."""

    def add_blob(self, blob: "StoredBlob") -> None:
        if blob.copies:
            self.blobs.append(blob.position)
            self.blobs.append(blob.copies)
        if blob.parts:
            self.parts[blob.position] = (blob.parts.start, len(blob.parts))

    def add_queue(self, queue: "Queue", position: int) -> None:
        """The queue as the log has it up to this position."""
        self.queues.append(
            records.pack_map(
                [
                    queue.id,
                    position,
                    queue.delivering,
                    queue.redelivered_up_to,
                    queue.returned,
                    [_pack_lane(lane) for lane in queue.lanes],
                ]
            )
        )

    def pack(self) -> list[bytes]:
        """In pieces."""
        header = records.pack_map(
            {
                "format": CHECKPOINT_FORMAT,
                "position": self.position,
                "last_sequence": self.last_sequence,
                "last_queue_id": self.last_queue_id,
                "chain_hash": self.chain_hash,
                "topology": self.topology,
                "producers": [_pack_producer(producer) for producer in self.producers],
                "blobs": little_endian(self.blobs),
                "parts": self.parts,
                "queues": len(self.queues),
            }
        )
        return [header, *self.queues]


@dataclass(slots=True)
class LoadedCheckpoint:
    """What was read of a checkpoint."""

    checkpoint: Checkpoint
    queues: list[QueueImage]

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises Corrupt for anything but a checkpoint this version can read."""
        steps = cls.unpack_by_steps(data)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                loaded: Self = end.value
                return loaded

    @classmethod
    def unpack_by_steps(cls, data: bytes) -> Generator[None, None, Self]:
        """`unpack`, with pauses between."""
        try:
            unpacker = msgpack.Unpacker(
                io.BytesIO(data), raw=False, strict_map_key=False, timestamp=3, max_buffer_size=len(data)
            )
            fields = unpacker.unpack()
            if fields["format"] not in READABLE_FORMATS:
                raise Corrupt(
                    f"the checkpoint has format {fields['format']}, "
                    f"this version of Leveret reads format {CHECKPOINT_FORMAT}"
                )
            checkpoint = Checkpoint(
                position=index(fields["position"]),
                last_sequence=index(fields["last_sequence"]),
                last_queue_id=index(fields["last_queue_id"]),
                chain_hash=fields["chain_hash"],
                topology=fields["topology"],
                # Format 2 is of a time without producers.
                producers=[_unpack_producer(producer) for producer in fields.get("producers", ())],
                blobs=_numbers(fields["blobs"]),
                parts={position: tuple(parts) for position, parts in fields["parts"].items()},
            )
            yield
            images = []
            for number in range(1, fields["queues"] + 1):
                images.append(_unpack_queue(unpacker.unpack()))
                if number % STEP_QUEUES == 0:
                    yield
            return cls(checkpoint, images)
        except (ValueError, LookupError, TypeError, AttributeError, UnpackException) as error:
            raise Corrupt(f"the checkpoint cannot be read: {error!r}") from error

    def blob_copies(self) -> Iterator[tuple[int, int]]:
        """(position, published copies)."""
        numbers = self.checkpoint.blobs
        return zip(numbers[::2], numbers[1::2], strict=True)


def _pack_lane(lane: "Lane") -> list[object]:
    """Runs in memory and cold ones are all the same to the log."""
    gone: dict[int, int] = {}
    expires: dict[int, int] = {}
    columns = [b""] * 4
    for table in lane.tables():
        gone |= table.gone
        expires |= table.expires
        columns = [mine + its for mine, its in zip(columns, table.columns(), strict=True)]
    masks = {first: _mask(bits) for first, bits in gone.items()}
    return [lane.priority, lane.live_bytes, *columns, masks, expires]


def _unpack_queue(fields: list[Any]) -> QueueImage:
    queue_id, position, delivering, redelivered_up_to, returned, lanes = fields
    return QueueImage(
        index(queue_id),
        index(position),
        bool(delivering),
        index(redelivered_up_to),
        {index(sequence): index(count) for sequence, count in returned.items()},
        [_unpack_lane(lane) for lane in lanes],
    )


def _unpack_lane(fields: list[Any]) -> LaneImage:
    priority, body_bytes, *columns, masks, expires = fields
    if not 0 <= priority <= 255:
        raise ValueError(f"a lane has priority {priority}")
    gone = {index(first): int.from_bytes(mask, "little") for first, mask in masks.items()}
    expires = {index(first): index(expires_at) for first, expires_at in expires.items()}
    return LaneImage(priority, index(body_bytes), RunTable.from_columns(columns, gone, expires))


def _pack_producer(image: ProducerImage) -> list[object]:
    (stored, not_stored), (refused, not_refused) = image.stored, image.refused_in_part
    return [*image.key, stored, _mask(not_stored), refused, _mask(not_refused)]


def _unpack_producer(fields: list[Any]) -> ProducerImage:
    vhost, id_, stored, not_stored, refused, not_refused = fields
    return ProducerImage(
        ProducerKey(str(vhost), bytes(id_)),
        (index(stored), int.from_bytes(not_stored, "little")),
        (index(refused), int.from_bytes(not_refused, "little")),
    )


def _mask(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _numbers(data: bytes) -> "array[int]":
    numbers = array("Q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
