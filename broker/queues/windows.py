"""How much memory the lanes' windows take together, and when a lane must let go of what lies behind its own.

One per broker. The committer and the spiller call `fit` for the lanes that got something, the reader for
those in which it looked for what has expired, and `weigh` for those it filled; the server calls `weigh_some`
every now and then: what consumers took in between shows then, and what was stuck or is left to do gets
another try.
"""

from itertools import chain, islice

from .lane import LET_GO_AT_BYTES, READ_AHEAD_BYTES, WINDOW_BYTES, Lane

STEP_BYTES = WINDOW_BYTES
"""Let go of at once: some 1.5 ms. All 14 MB of a window took 10 ms, and others waited for it.

What must stay is looked at anew with every step: 100,000 copies, which is more than the spiller lets gather,
take some 10 ms.
"""
LOOK_MAX = 1000  # lanes at a time
TRY_MAX = 50  # of them, those that are to let go: some 50 us each
WINDOWS_BYTES = 32 * 1024 * 1024  # of all lanes together, before each must be content with very little
TIGHT_READ_COPIES = 16  # what a lane gets back at a time then


class Windows:
    """See the module's docstring."""

    def __init__(self, total_max_bytes: int = WINDOWS_BYTES) -> None:
        self.total = 0  # bytes
        self._total_max = total_max_bytes
        self._weights: dict[Lane, int] = {}  # of the lanes that have anything in memory
        self._stuck: dict[Lane, int] = {}  # what lanes could not let go of when they should have
        self._fitting: dict[Lane, None] = {}  # lanes that have begun to let go, and have more to let go of

    @property
    def is_tight(self) -> bool:
        return self.total > self._total_max

    @property
    def read_bytes(self) -> int:
        """How much a lane may have read at a time."""
        return 1 if self.is_tight else READ_AHEAD_BYTES

    @property
    def copies_max(self) -> int | None:
        """How many copies of a run may be brought at a time; None: all."""
        return TIGHT_READ_COPIES if self.is_tight else None

    @property
    def keep_bytes(self) -> int:
        """How much of its front a lane keeps that has too much."""
        return 0 if self.is_tight else WINDOW_BYTES

    @property
    def _most_bytes(self) -> int:
        """More than this is too much."""
        return 0 if self.is_tight else LET_GO_AT_BYTES

    def has_too_much(self, lane: Lane) -> bool:
        """Look at a lane that has grown."""
        return self.weigh(lane) > self._most_bytes

    def fit(self, lane: Lane) -> bool:
        """The lane has grown: what it has too much of, and the log holds, need not be in memory.

        Lets go of a step's worth. Returns whether there is more: call again, after others had their turn.
        """
        weight = self.weigh(lane)
        keep_bytes = self.keep_bytes
        most_bytes = keep_bytes if lane in self._fitting else self._most_bytes
        self._fitting.pop(lane, None)
        # What is stuck is looked at in vain: not again before there is as much that is new.
        if weight <= max(most_bytes, keep_bytes + 2 * self._stuck.get(lane, 0)):
            return False
        lane.let_go(keep_bytes, STEP_BYTES)
        left = self.weigh(lane)
        self._stuck.pop(lane, None)
        if left <= keep_bytes:
            return False
        if weight - left >= STEP_BYTES:
            self._fitting[lane] = None
            return True
        self._stuck[lane] = left - keep_bytes
        return False

    def weigh(self, lane: Lane) -> int:
        """Look at a lane anew; returns what it takes."""
        weight = 0 if lane.is_closed else lane.bytes_in_memory
        self.total += weight - self._weights.get(lane, 0)
        if weight:
            self._weights[lane] = weight
        else:
            self._weights.pop(lane, None)
        if lane in self._stuck:
            self._stuck[lane] = min(weight, self._stuck[lane])
        if not weight:
            self._stuck.pop(lane, None)
            self._fitting.pop(lane, None)
        return weight

    def weigh_some(self) -> None:
        """Look anew at those lanes for which it is the longest ago."""
        for lane in list(islice(self._weights, LOOK_MAX)):
            weight = self._weights.pop(lane)
            self._weights[lane] = weight  # it is the last one now
            self.weigh(lane)
        enough = self.total - STEP_BYTES
        for lane in list(islice(chain(self._fitting, self._stuck), TRY_MAX)):
            if lane in self._stuck:
                self._stuck[lane] = self._stuck.pop(lane) * 3 // 4  # it is the last one now
            self.fit(lane)
            if self.total <= enough:
                break  # the others have their turn next time
