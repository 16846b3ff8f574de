"""An owner of a group, as the committer is one: appends proper blobs, each chained to the one before."""

from leveret.storage.blob import CHAIN_START, chain_hash, encode_blob, pack_record
from leveret.storage.engine import Append, EngineError, Lease, LogEngine, Position


class LogOwner:
    """Holds a lease and counts idx."""

    def __init__(self, engine: LogEngine, group: int, lease: Lease, chain: bytes = CHAIN_START) -> None:
        self.engine = engine
        self.group = group
        self.lease = lease
        self.idx = 0
        self.chain = chain  # of the last blob made, so items must be appended in the order they are made

    @classmethod
    async def acquire(cls, engine: LogEngine, group: int = 0, node: str = "test") -> "LogOwner":
        lease = await engine.acquire(group, node)
        last = await engine.read_one(group, lease.fence)
        return cls(engine, group, lease, CHAIN_START if last is None else chain_hash(last))

    def make(self, payload: bytes = b"x") -> Append:
        """The next item, not appended yet."""
        self.idx += 1
        blob = encode_blob(self.group, self.lease.epoch, self.idx, self.chain, pack_record(1, payload))
        self.chain = chain_hash(blob)
        return Append(self.group, self.lease.epoch, self.idx, blob)

    async def append(self, *payloads: bytes) -> list[Position]:
        """Append one blob per payload, one call each; all must succeed."""
        return [await self.append_item(self.make(payload)) for payload in payloads]

    async def append_item(self, item: Append) -> Position:
        (answer,) = await self.engine.append([item])
        if isinstance(answer, EngineError):
            raise answer
        return answer


async def read_all(
    engine: LogEngine, group: int = 0, after: int = 0, upto: int | None = None
) -> dict[int, bytes]:
    """What `read` yields, checked to rise, by position."""
    end = None if upto is None else Position(upto)
    found = [(position, blob) async for position, blob in engine.read(group, Position(after), end)]
    assert [position for position, _ in found] == sorted({position for position, _ in found})
    return {int(position): blob for position, blob in found}
