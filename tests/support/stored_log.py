"""What a broker has stored, as plain records: for tests that check it, or damage it and check it then."""

from collections.abc import Callable
from dataclasses import replace

import msgpack

from leveret.broker.durability.check import inspect
from leveret.broker.durability.checkpoint import Checkpoint, LoadedCheckpoint
from leveret.broker.durability.records import RecordType
from leveret.storage.blob import Blob, decode_blob, iter_records, pack_record
from leveret.storage.check import CheckedLog, Report
from leveret.storage.engine import LogEngine

GROUP = 0


async def must_be_sound(engine: LogEngine) -> None:
    """Every queue finds just its messages in what the engine holds."""
    assert (await StoredLog.of(engine)).findings() == []


class StoredLog:
    """What an engine holds, to be damaged and then checked."""

    def __init__(self, checkpoint_position: int, checkpoint: bytes | None, blobs: dict[int, Blob]) -> None:
        self.checkpoint_position = checkpoint_position
        self.checkpoint = checkpoint
        self.blobs: dict[int, Blob | None] = dict(blobs)
        self.end = max(blobs, default=checkpoint_position)

    @classmethod
    async def of(cls, engine: LogEngine) -> "StoredLog":
        found = await engine.last_checkpoint(GROUP)
        blobs = {}
        for position, _ in await engine.blobs(GROUP):
            data = await engine.read_one(GROUP, position)
            assert data is not None
            blobs[int(position)] = decode_blob(data)
        return cls(0, None, blobs) if found is None else cls(int(found[0]), found[1], blobs)

    def findings(self) -> list[str]:
        """As `leveret check` has them, without what is said of bytes."""
        report = Report()
        tail = []
        for position in range(self.checkpoint_position + 1, self.end + 1):
            blob = self.blobs.get(position)
            if blob is None:
                break
            tail.append((position, blob))
        inspect(
            CheckedLog(
                GROUP,
                report,
                self.checkpoint_position,
                self.checkpoint,
                self.end,
                iter(tail),
                iter(self.blobs.items()),
            )
        )
        return report.findings

    def records(self, position: int) -> list[tuple[int, bytes]]:
        blob = self.blobs[position]
        assert blob is not None
        return [(kind, blob.payload[start:end]) for kind, start, end in iter_records(blob.payload)]

    def put(self, position: int, some: list[tuple[int, bytes]]) -> None:
        """Other records."""
        blob = self.blobs[position]
        assert blob is not None
        payload = b"".join(pack_record(kind, record) for kind, record in some)
        self.blobs[position] = replace(blob, payload=payload)

    def first(self, kind: RecordType) -> int:
        """The position of the first blob with such a record."""
        return next(at for at in sorted(self.blobs) if any(found == kind for found, _ in self.records(at)))

    def last(self, kind: RecordType) -> int:
        """Of the last one."""
        return next(
            at
            for at in sorted(self.blobs, reverse=True)
            if any(found == kind for found, _ in self.records(at))
        )

    def change_checkpoint(self, change: Callable[[Checkpoint], object]) -> None:
        """Another header, the same queues."""
        assert self.checkpoint is not None
        loaded = LoadedCheckpoint.unpack(self.checkpoint)
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.checkpoint)
        unpacker.skip()
        queues = self.checkpoint[unpacker.tell() :]
        loaded.checkpoint.queues = [queues, *[b""] * (len(loaded.queues) - 1)]
        assert b"".join(loaded.checkpoint.pack()) == self.checkpoint
        change(loaded.checkpoint)
        self.checkpoint = b"".join(loaded.checkpoint.pack())
