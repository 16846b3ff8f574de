"""Where the log ends: what the next blob continues.

`recovery.recover` makes it, the committer moves it on.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class LogTail:
    """See the module's docstring."""

    group: int
    epoch: int
    fence: int
    """Position of the last blob of earlier epochs."""
    idx: int
    """Of the next blob of this epoch."""
    chain_hash: bytes
    """Of the last blob."""

    @property
    def position(self) -> int:
        """Of the last blob; positions are dense (`storage/engine.py`)."""
        return self.fence + self.idx - 1
