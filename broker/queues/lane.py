"""A lane: the ready messages of one queue, or of one priority of it, in sequence order.

A copy that was given back therefore returns to its original position, whatever was delivered or published
meanwhile.

What is in memory is bounded. A lane keeps a window of copies at its front; when more than that has gathered,
the rest is let go of and only its runs are kept (`RunTable`). They are read back, some blobs ahead of the
consumers, when the front gets short.

    front (in memory)  |  cold runs (on the disk)  |  tail (in memory: published since, not let go of yet)

What the log holds is let go of just so, a run at a time. What it does not hold, the spiller writes to files
first; such copies may lie between those of the log, in memory or cold.

Invariants:
- `count` and `body_bytes` are exact at all times: of the copies whose state is READY, wherever they are.
- Nothing is handed out while a copy with a lower sequence is cold.
- A run is either wholly cold, or all of its live copies are in memory (here, or with a channel). A copy that
  is not cold is in no run of the spill.
- A copy that ends while it lies in here (it expired) is reported with `forget` and skipped lazily; the
  memory of such copies is bounded by that of the live ones.
- Nothing here costs more than O(log n) but letting go and reading back, which cost O(1) per message.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import chain, groupby, islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

from ..message import CopyState, QueuedMessage
from .runs import NEVER, Row, Run, RunTable, SpilledRuns

if TYPE_CHECKING:
    from ..durability.blobs import StoredBlob
    from ..durability.spilled import SpilledBlob
    from .queue import Queue

GONE_TOLERATED = 64  # ended copies that are not worth a clean-up, however few live ones there are

COPY_BYTES = 512  # what a copy takes in memory besides its body, about
WINDOW_BYTES = 2 * 1024 * 1024  # what stays in memory at the front when the rest is let go of
LET_GO_AT_BYTES = 8 * WINDOW_BYTES
"""Beyond that it is worth the work. Before that a consumer that is only late catches up: at twice the window
a transient flow at full speed went over the disk, and took 1.3 to 1.6 times the CPU."""

READ_AHEAD_BYTES = WINDOW_BYTES // 2  # a shorter front is filled up while there is something cold
READ_RUNS_MAX = 16  # at once: blobs of up to 256 KiB, often shared with other lanes

_READY = CopyState.READY
_SEQUENCE = attrgetter("message.sequence")


class Emptied(NamedTuple):
    """What was taken out of a lane."""

    lane: "Lane"
    copies: list[QueuedMessage]
    """Those in memory, in order."""
    cold: RunTable
    """Those that only the log has."""


class Lane:
    """See the module's docstring. The queue owns it; journal, committer, reader and spiller use it."""

    __slots__ = (
        "_cold_first",
        "_front_last",
        "_gone",
        "_in_order",
        "_last_sequence",
        "_out_of_order",
        "_tail",
        "_wanted",
        "body_bytes",
        "cold",
        "count",
        "is_closed",
        "is_waited_for",
        "live_bytes",
        "open_run",
        "priority",
        "queue",
        "resident",
        "settled_bytes",
        "spilled",
        "wants_head",
    )

    def __init__(self, queue: "Queue", priority: int) -> None:
        self.queue = queue
        self.priority = priority
        self.count = 0
        self.body_bytes = 0
        self.is_closed = False  # the queue was deleted: nothing of it needs to be stored any more
        self.live_bytes = 0  # of the bodies of all logged copies, those with channels included; the journal's
        self.settled_bytes = 0  # of those of them whose settle waits for the next commit; the journal's
        self.open_run: Run | None = None  # the newest one; the journal's
        self.resident: dict[int, Run] = {}  # logged runs with copies in memory, by `first`; the journal adds
        self.cold: RunTable | None = None  # logged runs, none of it in memory; made when first needed
        self.spilled: SpilledRuns | None = None  # those of the spill, likewise
        self._cold_first = NEVER  # the lowest cold sequence
        self._in_order: deque[QueuedMessage] = deque()
        self._front_last = 0  # the highest sequence that ever went into `_in_order`
        self._out_of_order: list[tuple[int, QueuedMessage]] = []  # a heap by sequence: given back, or late
        self._tail: deque[QueuedMessage] = deque()
        self._last_sequence = 0  # the highest that ever came
        self._gone = 0  # copies in here that are no longer READY
        self._wanted: dict[int, None] = {}  # cold runs, by `first`, that are needed before it is their turn
        self.wants_head = False
        self.is_waited_for = False  # `pop` had to say None although there is something

    # What the journal writes down

    def store(self, copies: Sequence[QueuedMessage], blob: "StoredBlob") -> None:
        """These copies were packed into a blob."""
        run = self.open_run
        if run is None or run.blob is not blob:
            first = copies[0].message.sequence
            run = self.open_run = self.resident[first] = Run(self, blob, first, first, 0)
        run.last = copies[-1].message.sequence
        run.live += len(copies)
        for copy in copies:
            copy.run = run
            if copy.expires_at is not None and copy.expires_at < run.expires_at:
                run.expires_at = copy.expires_at
            self.live_bytes += len(copy.message.body)

    def settle_run(self, run: Run, sequences: list[int]) -> None:
        """These copies are gone for good."""
        run.settle(sequences)
        if not run.live:
            del self.resident[run.first]
            run.end()
            if run is self.open_run:
                self.open_run = None
        returned = self.queue.returned
        if returned:
            for sequence in sequences:
                returned.pop(sequence, None)

    def tables(self) -> list[RunTable]:
        """What of the log is alive: the runs in memory, and the cold ones."""
        in_memory = RunTable.of(self.resident.values())
        return [in_memory] if self.cold is None else [in_memory, self.cold]

    def is_cold_in(self, sequence: int, blob: "StoredBlob") -> bool:
        """Whether a live copy with this sequence lies in the blob, and not in memory."""
        return self.cold is not None and self.cold.position_of(sequence) == blob.position

    def move_cold(self, sequence: int, blob: "StoredBlob") -> None:
        """The copy, and with it its run, lies in this blob now."""
        assert self.cold is not None
        self.cold.move(sequence, blob.position)

    # Ready messages come and go

    def add(self, copy: QueuedMessage) -> None:
        """Put a READY copy at its place: a new one at the end, one that was given back where it was."""
        message = copy.message
        if message.sequence > self._last_sequence:
            self.extend((copy,))
        else:
            heappush(self._out_of_order, (message.sequence, copy))
            copy.lane = self
            self.count += 1
            self.body_bytes += len(message.body)

    def extend(self, copies: Sequence[QueuedMessage]) -> None:
        """Put new READY copies at the end."""
        self._last_sequence = copies[-1].message.sequence
        if self._cold_first == NEVER and not self._tail:
            self._front_last = self._last_sequence
            self._in_order.extend(copies)
        else:
            self._tail.extend(copies)
        self.count += len(copies)
        for copy in copies:
            copy.lane = self
            self.body_bytes += len(copy.message.body)

    def take(self, count_max: int, bytes_max: int) -> list[QueuedMessage]:
        """Take some out at the head, one at least, until it is so many or so much (of octets to be sent).

        Fewer when what follows must be read first; none when there is nothing or the head must be read.
        """
        if count_max >= self.count and bytes_max >= self.body_bytes + COPY_BYTES * self.count:
            everything = self._take_everything(bytes_max)
            if everything is not None:
                return everything
        return self._take_some(count_max, bytes_max)

    def _take_some(self, count_max: int, bytes_max: int) -> list[QueuedMessage]:
        taken: list[QueuedMessage] = []
        out_of_order, cold_first, in_order = self._out_of_order, self._cold_first, self._in_order
        body_bytes = 0
        while count_max > 0 and bytes_max > 0:
            if not in_order and self._tail and self._tail[0].message.sequence < cold_first:
                in_order = self._in_order = self._tail
                self._tail = deque()
                self._front_last = self._last_sequence
            if out_of_order and (not in_order or out_of_order[0][0] < in_order[0].message.sequence):
                copy = out_of_order[0][1]
                is_late = True
            elif in_order:
                copy = in_order[0]
                is_late = False
            else:
                break
            message = copy.message
            if message.sequence > cold_first:
                break
            if is_late:
                heappop(out_of_order)
            else:
                in_order.popleft()
            if copy.state is _READY:
                taken.append(copy)
                size = len(message.body)
                body_bytes += size
                count_max -= 1
                bytes_max -= COPY_BYTES + size + len(message.properties)
            else:
                self._gone -= 1
        self.count -= len(taken)
        self.body_bytes -= body_bytes
        if self.count and not taken:
            self._wait()
        return taken

    def _take_everything(self, bytes_max: int) -> list[QueuedMessage] | None:
        """What is in order in memory, if that is all there is, and is not too much.

        Where consumers keep up that is the usual case (dispatch and delivery of a message 0.79 -> 0.65 us).
        """
        if self._gone or self._out_of_order or self._tail or self._cold_first != NEVER:
            return None
        copies = list(self._in_order)
        sizes = [len(copy.message.body) + len(copy.message.properties) for copy in copies]
        if sum(sizes) + COPY_BYTES * len(copies) > bytes_max:
            return None
        self._in_order.clear()
        self.count = self.body_bytes = 0
        return copies

    def pop(self) -> QueuedMessage | None:
        """Take the head out; None when there is nothing, or when it must be read first (`count` tells)."""
        taken = self.take(1, 1)
        return taken[0] if taken else None

    def forget(self, copy: QueuedMessage) -> None:
        """A copy in here is no longer READY; it will not come out again."""
        self.count -= 1
        self.body_bytes -= len(copy.message.body)
        self._gone += 1
        self._tidy()

    def empty(self) -> "Emptied":
        """Take everything out."""
        emptied = Emptied(self, list(self), RunTable() if self.cold is None else self.cold)
        self._in_order.clear()
        self._out_of_order.clear()
        self._tail.clear()
        self._wanted.clear()
        self.cold = None
        if self.spilled is not None:
            self.spilled.release_all()
            self.spilled = None
        self._cold_first = NEVER
        self.count = self.body_bytes = self._gone = 0
        return emptied

    def __iter__(self) -> Iterator[QueuedMessage]:
        """What is ready in memory, in order."""
        returned = [copy for _, copy in sorted(self._out_of_order, key=itemgetter(0))]
        everything = merge(returned, self._in_order, self._tail, key=_SEQUENCE)
        return (copy for copy in everything if copy.state is _READY)

    @property
    def count_in_memory(self) -> int:
        return self.count - sum(table.copies for table in self.cold_tables)

    @property
    def bytes_in_memory(self) -> int:
        """About what the ready copies in memory take."""
        weight = self.body_bytes + COPY_BYTES * self.count
        for table in self.cold_tables:
            weight -= table.body_bytes + COPY_BYTES * table.copies
        return weight

    @property
    def cold_tables(self) -> list[RunTable]:
        """The runs that are not in memory."""
        return [table for table in (self.cold, self.spilled) if table is not None]

    def _tidy(self) -> None:
        """Throw out what is no longer READY, if it is much."""
        if self._gone <= self.count_in_memory + GONE_TOLERATED:
            return
        self._in_order = deque(copy for copy in self._in_order if copy.state is _READY)
        self._tail = deque(copy for copy in self._tail if copy.state is _READY)
        self._out_of_order = [entry for entry in self._out_of_order if entry[1].state is _READY]
        heapify(self._out_of_order)
        self._gone = 0

    # Letting go

    def let_go(self, keep_bytes: int, step_bytes: float = math.inf) -> None:
        """Keep about so much of the front in memory; what comes after it becomes cold, run by run, until that
        is a step's worth.

        What the log does not hold stays (`spillable`), and so do runs of which a copy is with a channel or is
        just being settled.
        """
        if not self.resident:
            return
        self._straighten()
        self._cut_front(keep_bytes)
        tail = self._tail
        staying: list[QueuedMessage] = []
        enough_bytes = self.bytes_in_memory - step_bytes
        while tail and self.bytes_in_memory > enough_bytes:
            if tail[0].state is not _READY:
                tail.popleft()
                self._gone -= 1
                continue
            run = tail[0].run
            if run is None and tail[0].is_durable:
                break  # the log will have it soon, and what follows
            copies = []
            while tail and (not _is_stored(tail[0]) or (run is not None and tail[0].run is run)):
                copy = tail.popleft()
                if copy.state is _READY:
                    copies.append(copy)
                else:
                    self._gone -= 1
            staying += copies if run is None else self._cool(run, copies)
        tail.extendleft(reversed(staying))

    def _straighten(self) -> None:
        """Put what came late in order, and what came behind nothing to the front."""
        if self._out_of_order:
            late = (copy for _, copy in self._out_of_order)
            everything = chain(late, self._in_order, self._tail)
            self._in_order = deque(sorted(everything, key=_SEQUENCE))
            self._out_of_order = []
        elif self._cold_first == NEVER:
            self._in_order += self._tail
        else:
            return
        self._tail.clear()
        self._front_last = self._last_sequence

    def _cut_front(self, keep_bytes: int) -> None:
        """Move what is beyond so many bytes from the front to the tail, at the border of a run."""
        in_order = self._in_order
        front_bytes = sum(COPY_BYTES + len(copy.message.body) for copy in in_order)
        tail = self._tail
        run = None
        while in_order and (front_bytes > keep_bytes or (run is not None and in_order[-1].run is run)):
            copy = in_order.pop()
            front_bytes -= COPY_BYTES + len(copy.message.body)
            tail.appendleft(copy)
            run = copy.run
        self._front_last = in_order[-1].message.sequence if in_order else 0

    def _cool(self, run: Run, ready: list[QueuedMessage]) -> list[QueuedMessage]:
        """Let go of the copies of a run if all of them are among these; returns those that must stay."""
        copies = [copy for copy in ready if copy.run is run]
        if not copies or len(copies) < run.live:
            return ready
        del self.resident[run.first]
        run.end()
        if run is self.open_run:
            self.open_run = None
        if self.cold is None:
            self.cold = RunTable()
        self._add_cold(self.cold, run.row(), copies, self.queue.returned)
        return [copy for copy in ready if copy.run is not run]

    def _add_cold(
        self, table: RunTable, row: Row, copies: list[QueuedMessage], returned: dict[int, int]
    ) -> None:
        """The copies of this run are READY and counted, but not in memory any more."""
        expires_at = NEVER
        for copy in copies:
            copy.state = CopyState.GONE  # this object is; the copy is alive in the table
            if copy.expires_at is not None and copy.expires_at < expires_at:
                expires_at = copy.expires_at
            if copy.redelivered:
                returned[copy.message.sequence] = copy.delivery_count
            table.body_bytes += len(copy.message.body)
        self._add_row(table, row._replace(expires_at=expires_at))

    def _add_row(self, table: RunTable, row: Row) -> None:
        table.add(row)
        self._find_cold_first()
        if row.expires_at != NEVER:
            self.queue.note_cold_expiry(row.expires_at, self, row.first)

    def _find_cold_first(self) -> None:
        self._cold_first = min(table.first for table in self.cold_tables)

    # Spilling

    def spillable(self, keep_bytes: int, bytes_max: int) -> tuple[list[QueuedMessage], int]:
        """The first copies behind the front that only the memory has, and what they take; they stay in."""
        self._straighten()
        self._cut_front(keep_bytes)
        copies = []
        size = 0
        for copy in self._tail:
            if size >= bytes_max:
                break
            if not copy.is_durable and copy.state is _READY:
                copies.append(copy)
                size += COPY_BYTES + len(copy.message.body)
        return copies, size

    def spill(self, copies: list[QueuedMessage], blob: "SpilledBlob") -> None:
        """These copies were written into the blob, in this order: those still READY need not be in memory."""
        if self.spilled is None:
            self.spilled = SpilledRuns(blob.blobs)
        if self._out_of_order:
            self._straighten()  # no copy may be in there twice, and these will come back
        for is_ready, some in groupby(copies, key=lambda copy: copy.state is _READY):
            if not is_ready:
                continue
            run = list(some)
            first, last = run[0].message.sequence, run[-1].message.sequence
            blob.add(len(run))
            row = Row(first, last, blob.position, len(run), 0, NEVER)
            self._add_cold(self.spilled, row, run, self.spilled.returned)
            self._gone += len(run)
        tail = self._tail
        while tail and tail[0].state is not _READY:
            tail.popleft()
            self._gone -= 1
        self._tidy()

    def begin_cold(self, table: RunTable, body_bytes: int) -> None:
        """Recovery: this is what the lane holds, all of it cold."""
        self.cold = table
        table.body_bytes = self.live_bytes = self.body_bytes = body_bytes
        self.count = table.copies
        self._cold_first = table.first
        self._last_sequence = table.last
        for first, expires_at in table.expires.items():
            self.queue.note_cold_expiry(expires_at, self, first)

    # Reading back

    def read_ahead(self) -> None:
        """Ask for more when there is something cold and little is left in front of it."""
        if self._cold_first != NEVER and self.bytes_in_memory < READ_AHEAD_BYTES:
            self.want_more()

    def want_run(self, first: int) -> None:
        """A copy of this cold run expires: it is needed before it is its turn."""
        if self.cold_row(first) is not None:
            self._wanted[first] = None
            self.queue.read(self)

    def _wait(self) -> None:
        self.is_waited_for = True
        self.want_more()

    def want_more(self) -> None:
        """The head must be read, or will have to be soon."""
        self.wants_head = True
        self.queue.read(self)

    def wanted_rows(self, bytes_max: int) -> list[Row]:
        """What the reader should read now: what expires, and the head. It is not taken out yet."""
        tables = [table for table in self.cold_tables if len(table)]
        if not tables:
            return []
        rows: dict[int, Row] = {}  # by `first`: the head may be what expires
        body_bytes = sum(table.body_bytes for table in tables)
        average = COPY_BYTES + body_bytes // sum(table.copies for table in tables)
        if not self.queue.is_burying:
            left = READ_AHEAD_BYTES
            for first in list(islice(self._wanted, READ_RUNS_MAX)):
                row = self.cold_row(first)
                if row is None:
                    del self._wanted[first]
                elif left > 0:
                    rows[first] = row
                    left -= row.live * average
        if self.wants_head:
            heads = chain.from_iterable(table.head(READ_RUNS_MAX) for table in tables)
            for row in sorted(heads)[:READ_RUNS_MAX]:
                rows[row.first] = row
                bytes_max -= row.live * average
                if bytes_max <= 0:
                    break
        return list(rows.values())

    def cold_row(self, first: int) -> Row | None:
        """The cold run that begins with this sequence."""
        return next((row for table in self.cold_tables if (row := table.get(first)) is not None), None)

    def admit(self, row: Row, blob: "StoredBlob | None", copies: list[QueuedMessage], last: int) -> None:
        """The reader brings the live copies of a cold run up to the sequence `last`; the rest stays cold.

        `blob` is the log's; None for a run of the spill.
        """
        table = self.spilled if blob is None else self.cold
        assert table is not None
        taken = table.take(row.first)
        assert taken == row, "the reader has looked"
        self._wanted.pop(row.first, None)
        self.wants_head = self.is_waited_for = False
        table.body_bytes -= sum(len(copy.message.body) for copy in copies)
        gone = row.gone
        if last < row.last:
            cut = last + 1 - row.first
            live = row.live - len(copies)
            self._add_row(table, Row(last + 1, row.last, row.position, live, gone >> cut, row.expires_at))
            gone &= (1 << cut) - 1
        self._find_cold_first()
        if blob is not None:
            run = Run(self, blob, row.first, last, len(copies), gone, row.expires_at)
            self.resident[row.first] = run
            for copy in copies:
                copy.run = run
        elif self.spilled is not None:
            self.spilled.release(row.position, copies)
        self._put_back(copies)
        if self._wanted:
            self.queue.read(self)  # more expires than is read at once

    def _put_back(self, copies: list[QueuedMessage]) -> None:
        tail_first = self._tail[0].message.sequence if self._tail else NEVER
        for copy in copies:
            copy.lane = self
            sequence = copy.message.sequence
            if self._front_last < sequence < tail_first:
                self._front_last = sequence
                self._in_order.append(copy)
            else:
                heappush(self._out_of_order, (sequence, copy))


def _is_stored(copy: QueuedMessage) -> bool:
    """Whether the log must hold it; not what ended before it was written down."""
    return copy.is_durable and copy.state is _READY
