"""The engine interface: a fenced, append-only log of blobs per group, a checkpoint, and a small
compare-and-set store.

Every engine (LMDB, memory, simulated; a replicated one later) keeps the same contract, held by
`tests/contract`:

- `append` is all or nothing per item and ordered per group; it returns only when the blob is as durable as
  `caps` says;
- after `acquire` returned epoch e, no append of an epoch below e ever becomes readable, not even one already
  in flight;
- `idx` is 1 for the first append of an epoch and rises by exactly one; an append whose fate is unknown
  (`Ambiguous`) is readable at most once per idx afterwards; after `Full` the idx is still free;
- positions are dense: the blob with a given idx lies at the fence of its epoch + idx;
- `read` reaches the last durable position or raises; what `drop` removed is never needed again.

An engine sees bytes. It does not interpret a blob (`blob.py` does) and knows no queue or message. All methods
are called from the one event loop that opened the engine.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NewType, Protocol

Position = NewType("Position", int)
"""Where a blob lies in its group's log: opaque but ordered, rising with every append, never used twice."""

Revision = NewType("Revision", int)
"""The version of a metadata value, for compare-and-set."""

BEGINNING = Position(0)
"""Before the first blob of every group."""


class EngineError(Exception):
    """Something the engine could not do; the subclass says what the owner must do about it."""


class Fenced(EngineError):
    """Somebody acquired a later epoch: stop owning the group."""


class Full(EngineError):
    """No room: block publishers. Nothing of the failed append is readable."""


class Ambiguous(EngineError):
    """The append may or may not be durable: retry with the same idx or re-read, never a new idx."""


class Unavailable(EngineError):
    """The engine cannot be reached or was closed; nothing was written. May be retried."""


class Corrupt(EngineError):
    """What is stored is not what was written: stop, loudly. The message says where and what."""


class Durability(Enum):
    """What a returned position survives."""

    MEMORY = "memory"
    FSYNC = "fsync"
    QUORUM_FSYNC = "quorum_fsync"


@dataclass(frozen=True, slots=True)
class Caps:
    """What an engine can do."""

    durability: Durability
    blob_max_bytes: int
    """Blobs of up to this size are stored well; the committer splits batches at record borders to stay below
    it.
    """
    inflight_max: int
    """How many `append` calls may be under way at once."""
    multi_group_atomic: bool
    """Whether all items of one `append` call become durable together."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The ownership of a group, as `acquire` gave it."""

    epoch: int
    fence: Position
    """Everything acknowledged to earlier owners lies at or before this position; nothing of theirs can land
    after it.
    """


@dataclass(frozen=True, slots=True)
class Append:
    """One blob to append. (group, epoch, idx) are repeated inside the blob's own header."""

    group: int
    epoch: int
    idx: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine holds, in bytes and counts."""

    used_bytes: int
    file_bytes: int
    """What is allocated for it on the disk, free pages included."""
    free_bytes: int
    """About what ordinary appends may still take: room on the disk and inside the file, without a reserve."""
    blobs: int
    last_commit_ms: float
    log_bytes: int = 0
    """What the blobs take, with what it takes to find them."""
    checkpoint_bytes: int = 0
    commits: int = 0
    """Since the engine was opened."""


class LogEngine(Protocol):
    """See the module's docstring for the contract."""

    @property
    def caps(self) -> Caps: ...

    async def open(self) -> None:
        """Open or create the store. Raises Corrupt or Unavailable with a sentence for the operator."""

    async def close(self) -> None:
        """Finish what is under way, then release everything. Idempotent."""

    async def acquire(self, group: int, node: str) -> Lease:
        """Become the owner of a group: a new epoch, durable before this returns, that fences all earlier
        ones.
        """

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        """Append blobs; one answer per item, in order, never an exception.

        Any error but Full means that the owner must stop confirming. An `urgent` append may use what engines
        keep in reserve for a full disk: it is for what was under way when the disk became full, and for
        acknowledgements, by which room comes back.
        """

    def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        """The blobs at positions in (after, upto], rising; `upto` None means up to the last one."""

    async def read_one(self, group: int, position: Position) -> bytes | None:
        """The blob at a position, or None when it was dropped."""

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        """What `read_one` answers for each of the positions."""

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        """Position and size in bytes of every blob of the group, rising.

        No blob is read for it, so it is quick however large the log is. What is appended or dropped meanwhile
        may be in it or not.
        """

    async def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        """Forget these blobs (positions already gone are ignored). Raises Fenced for an old epoch.

        Only positions up to the checkpoint's may be dropped: ValueError otherwise.
        """

    async def checkpoint(self, group: int, epoch: int, position: Position, pieces: Sequence[bytes]) -> None:
        """Replace the group's checkpoint: the folded state of everything up to and including `position`.

        It may be large; in pieces, so that the caller need not copy it.
        """

    async def last_checkpoint(self, group: int) -> tuple[Position, bytes] | None:
        """The newest checkpoint of the group, in one piece; None when there never was one."""

    async def meta_get(self, key: bytes) -> tuple[bytes, Revision] | None:
        """A metadata value and its revision."""

    async def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        """Set (or with None delete) a value if its revision is still the given one (None: if it is absent).

        Returns the new revision, or None when somebody else was first.
        """

    async def stats(self) -> EngineStats: ...
