"""What an engine stores, as plain dictionaries: the memory engine's whole state, and the simulated engine's
disk.

Every method takes effect at once and is deterministic. No rule of the contract lives anywhere else for these
engines.
"""

from collections import defaultdict
from collections.abc import Sequence

from .engine import Append, Corrupt, EngineError, EngineStats, Lease, Position, Revision
from .group import GroupState, fenced

RESERVE_BYTES = 16 * 1024 * 1024
"""What urgent appends may take beyond the capacity, as a disk engine has it in reserve."""


class Tables:
    """Logs, checkpoints and metadata of all groups."""

    def __init__(self) -> None:
        self.used_bytes = 0
        self._groups: defaultdict[int, GroupState] = defaultdict(GroupState)
        self._blobs: defaultdict[int, dict[Position, bytes]] = defaultdict(dict)  # by group; positions rise
        self._checkpoints: dict[int, tuple[Position, bytes]] = {}
        self._meta: dict[bytes, tuple[bytes, Revision]] = {}
        self._revision = 0

    def copy(self) -> "Tables":
        """An independent copy (of the dictionaries; blobs are immutable)."""
        copied = Tables()
        copied.used_bytes = self.used_bytes
        copied._groups.update(self._groups)
        copied._blobs.update({group: dict(blobs) for group, blobs in self._blobs.items()})
        copied._checkpoints.update(self._checkpoints)
        copied._meta.update(self._meta)
        copied._revision = self._revision
        return copied

    def acquire(self, group: int) -> Lease:
        self._groups[group] = self._groups[group].acquire()
        return self._groups[group].lease()

    def append(self, item: Append) -> Position | EngineError:
        """Where the blob lies now, or why it was refused."""
        state, blobs = self._groups[item.group], self._blobs[item.group]
        refusal = state.refusal(item)
        if refusal is not None:
            return refusal
        position = state.place(item)
        if state.is_repeat(item):
            if blobs.get(position, item.blob) != item.blob:
                return Corrupt(
                    f"group {item.group}: position {position} holds another blob of idx {item.idx}"
                )
            return position
        self._groups[item.group] = state.append(item.blob)
        blobs[position] = item.blob
        self.used_bytes += len(item.blob)
        return position

    def last_position(self, group: int) -> Position:
        return Position(self._groups[group].position)

    def between(self, group: int, after: Position, upto: Position) -> list[tuple[Position, bytes]]:
        """The blobs at positions in (after, upto], rising."""
        return [(position, blob) for position, blob in self._blobs[group].items() if after < position <= upto]

    def read_one(self, group: int, position: Position) -> bytes | None:
        return self._blobs[group].get(position)

    def sizes(self, group: int) -> list[tuple[Position, int]]:
        """Position and size of every blob, rising."""
        return [(position, len(blob)) for position, blob in self._blobs[group].items()]

    def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        self._require_owner(group, epoch)
        checkpoint = self._checkpoints.get(group, (Position(0), b""))[0]
        if any(position > checkpoint for position in positions):
            raise ValueError(
                f"group {group}: only blobs up to its checkpoint, position {checkpoint}, can be dropped"
            )
        for position in positions:
            self.used_bytes -= len(self._blobs[group].pop(position, b""))

    def checkpoint(self, group: int, epoch: int, position: Position, blob: bytes) -> None:
        self._require_owner(group, epoch)
        older, old_blob = self._checkpoints.get(group, (Position(0), b""))
        if not older <= position <= self._groups[group].position:
            raise ValueError(
                f"group {group}: a checkpoint at {position} lies before the last one or beyond the log"
            )
        self._checkpoints[group] = (position, blob)
        self.used_bytes += len(blob) - len(old_blob)

    def last_checkpoint(self, group: int) -> tuple[Position, bytes] | None:
        return self._checkpoints.get(group)

    def meta_get(self, key: bytes) -> tuple[bytes, Revision] | None:
        return self._meta.get(key)

    def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        current = self._meta.get(key)
        if (current[1] if current else None) != revision:
            return None
        self._revision += 1
        if value is None:
            self._meta.pop(key, None)
        else:
            self._meta[key] = (value, Revision(self._revision))
        return Revision(self._revision)

    def stats(self, capacity_bytes: int) -> EngineStats:
        blobs = sum(len(blobs) for blobs in self._blobs.values())
        checkpoints = sum(len(blob) for _, blob in self._checkpoints.values())
        return EngineStats(
            used_bytes=self.used_bytes,
            file_bytes=self.used_bytes,
            free_bytes=capacity_bytes - self.used_bytes,
            blobs=blobs,
            last_commit_ms=0.0,
            log_bytes=self.used_bytes - checkpoints,
            checkpoint_bytes=checkpoints,
        )

    def _require_owner(self, group: int, epoch: int) -> None:
        current = self._groups[group].epoch
        if epoch != current:
            raise fenced(group, epoch, current)
