"""The state of one group's log, and the rules by which every engine takes or refuses an append.

Engines hold one `GroupState` per group and store it (or derive it) durably together with each append. It is
immutable: an engine replaces it once the new one is durable.

Positions are dense: the blob with a given idx of the owning epoch lies at `fence + idx`. So a position
follows from (epoch, idx), a repeated idx finds its own blob, a gap in the log shows, and a position is never
used twice even if everything was dropped.
"""

from dataclasses import dataclass

from .blob import CHAIN_START, chain_hash
from .engine import Append, EngineError, Fenced, Lease, Position, Unavailable


@dataclass(frozen=True, slots=True)
class GroupState:
    """Who owns a group and how far its log reaches."""

    position: int = 0  # of the last append ever, dropped since or not
    epoch: int = 0  # of the owner; 0: never acquired
    fence: int = 0  # `position` when that epoch began
    chain: bytes = CHAIN_START  # chain hash of the last blob

    @property
    def idx(self) -> int:
        """The last idx appended in this epoch; 0 before the first."""
        return self.position - self.fence

    def acquire(self) -> "GroupState":
        """The state under the next owner."""
        return GroupState(self.position, self.epoch + 1, self.position, self.chain)

    def lease(self) -> Lease:
        return Lease(self.epoch, Position(self.fence))

    def refusal(self, item: Append) -> EngineError | None:
        """Why this append must not be taken, or None. Nothing of a refused item is stored."""
        if item.epoch != self.epoch:
            return fenced(item.group, item.epoch, self.epoch)
        if item.idx < 1:
            return Unavailable(f"group {item.group}: idx {item.idx} is below 1, the first of an epoch")
        if item.idx > self.idx + 1:
            # The append before it failed, or was never made.
            return Unavailable(
                f"group {item.group}: idx {item.idx} does not follow {self.idx}, the last one appended"
            )
        return None

    def is_repeat(self, item: Append) -> bool:
        """Whether an item that was not refused is there already (its owner had an ambiguous answer)."""
        return item.idx <= self.idx

    def place(self, item: Append) -> Position:
        """Where an item that was not refused belongs."""
        return Position(self.fence + item.idx)

    def append(self, blob: bytes) -> "GroupState":
        """The state after the next blob."""
        return GroupState(self.position + 1, self.epoch, self.fence, chain_hash(blob))


def fenced(group: int, epoch: int, current: int) -> Fenced:
    """The refusal of an owner that is not the current one."""
    return Fenced(f"group {group}: epoch {epoch} does not own it, epoch {current} does")
