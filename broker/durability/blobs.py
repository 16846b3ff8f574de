"""The blobs of the log, and how much of each is still needed.

The committer enters a blob when its batch is packed; runs release what ends; the checkpointer drops what is
dead, the cleaner moves what is left of sparse ones. Nothing here reads a blob.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..queues.runs import NEVER

if TYPE_CHECKING:
    from ..queues.runs import Run

RELEASES_MAX = 5000  # at once, about 2 ms
SPARSE_SHARE = 0.5  # of its copies alive: below that a blob is worth cleaning


class StoredBlob:
    """One blob of the log, shared by the runs that lie in it."""

    __slots__ = ("_blobs", "clean_below", "copies", "live_copies", "parts", "position", "runs", "size")

    def __init__(self, blobs: "Blobs", position: int) -> None:
        self._blobs = blobs
        self.position = position
        self.size = 0  # in bytes, with its parts
        self.parts = range(0)  # positions of the blobs with the body of its one, large message
        self.copies = 0  # published in it; fewer, if each that is left needs more of it than its share
        self.live_copies = 0  # of them, those that no settle has ended
        self.runs: set[Run] | None = None  # that lie in it, and of which copies are in memory
        self.clean_below = (
            0.0  # live copies; set anew when a look inside found more alive than the share says
        )

    def add(self, count: int) -> None:
        """So many copies were packed into it."""
        self.copies += count
        self.live_copies += count

    def hold(self, run: "Run") -> None:
        """Copies of this run, which lies in it, are in memory."""
        if self.runs is None:  # most blobs of a long backlog never have one: an empty set takes 216 bytes
            self.runs = set()
        self.runs.add(run)

    def let_go(self, run: "Run") -> None:
        """None of them is any more, or the run lies in another blob now."""
        assert self.runs is not None
        self.runs.remove(run)
        if not self.runs:
            self.runs = None

    def release(self, count: int) -> None:
        """So many of its copies have ended, or lie in another blob now."""
        self.live_copies -= count
        self._blobs.released(self, count)

    @property
    def live_size(self) -> float:
        """About how much of it is needed, in bytes."""
        return self.size * self.live_copies / self.copies if self.copies else 0.0

    @property
    def positions(self) -> list[int]:
        """Its own, and those of its parts."""
        return [*self.parts, self.position]


class Releasable(Protocol):
    """A blob."""

    def release(self, count: int) -> None:
        """So many of its copies have ended, or lie elsewhere now."""


AnyBlob = TypeVar("AnyBlob", bound=Releasable)


class BlobIndex(Generic[AnyBlob]):
    """Blobs by their position."""

    def __init__(self) -> None:
        self._by_position: dict[int, AnyBlob] = {}
        self._releasing: deque[Iterator[tuple[int, int]]] = deque()

    def __len__(self) -> int:
        return len(self._by_position)

    def __iter__(self) -> Iterator[AnyBlob]:
        return iter(self._by_position.values())

    def __getitem__(self, position: int) -> AnyBlob:
        return self._by_position[position]

    def get(self, position: int) -> AnyBlob | None:
        return self._by_position.get(position)

    def release_all(self, live_by_position: Iterator[tuple[int, int]]) -> None:
        """So many copies of these blobs have ended. Of very many, the later ones are released bit by bit."""
        self._releasing.append(live_by_position)
        self.release_more()

    @property
    def is_releasing(self) -> bool:
        """Whether `release_more` has something left to do."""
        return bool(self._releasing)

    def release_more(self) -> None:
        """Go on with what is to be released, for a few milliseconds at most."""
        room = RELEASES_MAX
        while self._releasing and room:
            for position, count in islice(self._releasing[0], room):
                self._by_position[position].release(count)
                room -= 1
            if room:
                self._releasing.popleft()


class Blobs(BlobIndex[StoredBlob]):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way_from = NEVER  # blobs from this position on are only just being written
        self.dead: dict[StoredBlob, None] = {}  # nothing in them is needed
        self.sparse: dict[StoredBlob, None] = {}  # little is
        self.size = 0  # of all blobs, in bytes
        self.dead_size = 0  # of the dead ones
        self.publishers_wait = False  # for the cleaner
        self._waiting: list[Callable[[], None]] = []
        self.live_size = (
            0.0  # about what is needed of it, if a blob's share of live copies is that of its bytes
        )

    def enter(self, blob: StoredBlob) -> None:
        """A blob whose `size`, `copies` and `live_copies` are known."""
        self._by_position[blob.position] = blob
        self.size += blob.size
        if not blob.live_copies:
            self._die(blob)
            return
        self.live_size += blob.live_size
        blob.clean_below = blob.copies * SPARSE_SHARE
        if blob.live_copies < blob.clean_below:
            self.sparse[blob] = None

    def released(self, blob: StoredBlob, count: int) -> None:
        """`StoredBlob.release` says so."""
        if not blob.size:
            return  # not entered yet: the batch that it belongs to is being packed
        self.live_size -= blob.size * count / blob.copies
        if not blob.live_copies:
            self.sparse.pop(blob, None)
            self._die(blob)
        elif blob.live_copies < blob.clean_below:
            self.sparse[blob] = None

    def _die(self, blob: StoredBlob) -> None:
        self.dead[blob] = None
        self.dead_size += blob.size

    def leave_alone(self, blob: StoredBlob, needed_bytes: int) -> None:
        """More of it is alive than it looked like (one body in many queues): look again at half of that."""
        self.sparse.pop(blob, None)
        self.live_size -= blob.live_size
        blob.copies = max(blob.live_copies, blob.live_copies * blob.size // needed_bytes)
        self.live_size += blob.live_size
        blob.clean_below = blob.live_copies * SPARSE_SHARE

    def remove(self, blob: StoredBlob) -> None:
        """A dead blob was dropped."""
        del self._by_position[blob.position]
        del self.dead[blob]
        self.size -= blob.size
        self.dead_size -= blob.size

    def hold_publishers(self, hold: bool) -> None:
        """The cleaner says whether they have to wait for it."""
        self.publishers_wait = hold
        if not hold:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def when_released(self, callback: Callable[[], None]) -> None:
        """Call back once, when publishers need not wait any more."""
        self._waiting.append(callback)
