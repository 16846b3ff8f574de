"""Runs: which copies of a lane lie in which blob, without the copies themselves.

A lane (a queue, or one priority of it) is stored as runs: the copies that it has in one blob, in order. A
`Run` stands for one while a copy of it is in memory; while none is, it is a row of the lane's `RunTable`,
about 30 bytes for a whole blob of messages. That is what a backlog costs in memory.

What a lane has in blobs of the spill (`durability/spiller.py`) stands in a table of its own, `SpilledRuns`.

Invariants:
- The sequences of two logged runs of a lane never interleave: [first, last] of the one lies before that of
  the other.
- `live` counts the copies that no settle has ended; bit s - first of `gone` is set where copy s has ended.
  (Sequences of one blob lie close together, so the mask is short.)
- What a run's blob is called may change (its survivors are moved), its sequences never.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter, gt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..durability.blobs import StoredBlob
    from ..durability.spilled import SpilledBlobs
    from ..message import QueuedMessage
    from .lane import Lane

NEVER = 2**64 - 1  # above every sequence, after every instant
SPILLED_FROM = 2**63  # positions from here on are of the spill: no log gets that far
_HEAD_TOLERATED = 256  # rows taken from the front that are not worth moving the others
_ROW_BYTES = 28  # in the columns
_ENTRY_BYTES = 140  # in a dict: two numbers and their share of its table, about


class Run:
    """The copies of one lane in one blob, at least one of them in memory."""

    __slots__ = ("blob", "expires_at", "first", "gone", "lane", "last", "live")

    def __init__(
        self,
        lane: "Lane",
        blob: "StoredBlob",
        first: int,
        last: int,
        live: int,
        gone: int = 0,
        expires_at: int = NEVER,
    ) -> None:
        self.lane = lane
        self.blob = blob
        self.first = first
        self.last = last
        self.live = live
        self.gone = gone
        self.expires_at = expires_at  # as in a row; it may be too early
        blob.hold(self)

    def move(self, blob: "StoredBlob") -> None:
        """Its survivors lie in this blob from now on."""
        self.blob.let_go(self)
        self.blob = blob
        blob.hold(self)

    def end(self) -> None:
        """Nothing of it is in memory any more, or alive."""
        self.blob.let_go(self)

    def settle(self, sequences: Sequence[int]) -> None:
        """These copies are gone for good."""
        self.live -= len(sequences)
        self.blob.release(len(sequences))
        if self.live:
            self.gone |= mask_of(sequences, self.first)

    def holds(self, sequence: int) -> bool:
        """Whether the copy is one of its live ones."""
        return self.first <= sequence <= self.last and not self.gone >> (sequence - self.first) & 1

    def row(self) -> "Row":
        return Row(self.first, self.last, self.blob.position, self.live, self.gone, self.expires_at)


class Row(NamedTuple):
    """A run of which nothing is in memory."""

    first: int
    last: int
    position: int
    """Of its blob."""
    live: int
    gone: int
    expires_at: int
    """When the first of its copies expires, ms since the epoch; NEVER if none does."""

    @property
    def is_spilled(self) -> bool:
        """Whether the blob is of the spill, not of the log."""
        return self.position >= SPILLED_FROM


def mask_of(sequences: Sequence[int], first: int) -> int:
    """A mask with the bits of these sequences."""
    count = len(sequences)
    lowest = sequences[0]
    if sequences[-1] - lowest == count - 1 and (count < 3 or _are_consecutive(sequences)):
        return ((1 << count) - 1) << (lowest - first)
    mask = 0
    for sequence in sequences:
        mask |= 1 << (sequence - first)
    return mask


def _are_consecutive(sequences: Sequence[int]) -> bool:
    return list(sequences) == list(range(sequences[0], sequences[-1] + 1))


class RunTable:
    """Rows in rising order of `first`, packed into columns."""

    __slots__ = (
        "_firsts",
        "_head",
        "_lasts",
        "_lives",
        "_mask_bits",
        "_positions",
        "body_bytes",
        "copies",
        "expires",
        "gone",
    )

    def __init__(self) -> None:
        self.copies = 0  # live ones of all rows
        self.body_bytes = 0  # of their bodies; kept by the lane, which knows the sizes
        self._firsts = array("Q")
        self._lasts = array("Q")
        self._positions = array("Q")
        self._lives = array("I")
        self._head = 0  # rows before it were taken
        self._mask_bits = 0  # of all masks together
        self.gone: dict[int, int] = {}  # by `first`, where a mask is not 0
        self.expires: dict[int, int] = {}  # by `first`, where a copy expires

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "RunTable":
        """Rows as these runs would have them."""
        table = cls()
        in_order = sorted(runs, key=attrgetter("first"))
        table._firsts.extend([run.first for run in in_order])
        table._lasts.extend([run.last for run in in_order])
        table._positions.extend([run.blob.position for run in in_order])
        table._lives.extend([run.live for run in in_order])
        table.copies = sum(table._lives)
        table.gone = {run.first: run.gone for run in in_order if run.gone}
        table.expires = {run.first: run.expires_at for run in in_order if run.expires_at != NEVER}
        table._mask_bits = sum(map(int.bit_length, table.gone.values()))
        return table

    def __len__(self) -> int:
        return len(self._firsts) - self._head

    def __iter__(self) -> Iterator[Row]:
        for index in range(self._head, len(self._firsts)):
            yield self._row(index)

    @property
    def first(self) -> int:
        """The lowest sequence in here; NEVER when there is none."""
        return self._firsts[self._head] if len(self._firsts) > self._head else NEVER

    @property
    def last(self) -> int:
        """The highest sequence in here; 0 when there is none."""
        return self._lasts[-1] if len(self) else 0

    @property
    def memory_bytes(self) -> int:
        """About what it takes."""
        entries = len(self.gone) + len(self.expires)
        return _ROW_BYTES * len(self._firsts) + _ENTRY_BYTES * entries + self._mask_bits // 8

    def add(self, row: Row) -> None:
        """Put a row in its place, nearly always the last one."""
        if not self._firsts or row.first > self._firsts[-1]:
            self._firsts.append(row.first)
            self._lasts.append(row.last)
            self._positions.append(row.position)
            self._lives.append(row.live)
        else:
            index = bisect_right(self._firsts, row.first, self._head)
            self._firsts.insert(index, row.first)
            self._lasts.insert(index, row.last)
            self._positions.insert(index, row.position)
            self._lives.insert(index, row.live)
        self.copies += row.live
        if row.gone:
            self._set_gone(row.first, row.gone)
        if row.expires_at != NEVER:
            self.expires[row.first] = row.expires_at

    def take(self, first: int) -> Row | None:
        """Take out the row that begins with this sequence; None when there is none any more."""
        index = bisect_right(self._firsts, first, self._head) - 1
        if index < self._head or self._firsts[index] != first:
            return None
        row = self._row(index)
        self._remove(index)
        return row

    def head(self, count_max: int) -> list[Row]:
        """The first rows."""
        return [self._row(i) for i in range(self._head, min(self._head + count_max, len(self._firsts)))]

    def get(self, first: int) -> Row | None:
        """The row that begins with this sequence."""
        index = bisect_right(self._firsts, first, self._head) - 1
        return self._row(index) if index >= self._head and self._firsts[index] == first else None

    def clear(self) -> None:
        """Forget everything."""
        self.copies = self.body_bytes = self._head = self._mask_bits = 0
        for column in (self._firsts, self._lasts, self._positions, self._lives):
            del column[:]
        self.gone.clear()
        self.expires.clear()

    # Recovery: rows as records change them

    def publish(self, sequence: int, position: int, expires_at: int) -> None:
        """One more copy at the end, in this blob."""
        self.copies += 1
        firsts = self._firsts
        if len(self) and self._positions[-1] == position:
            first = firsts[-1]
            self._lasts[-1] = sequence
            self._lives[-1] += 1
        else:
            first = sequence
            firsts.append(sequence)
            self._lasts.append(sequence)
            self._positions.append(position)
            self._lives.append(1)
        if expires_at < self.expires.get(first, NEVER):
            self.expires[first] = expires_at

    def settle(self, sequence: int) -> None:
        """A copy is gone for good; one that is not here is ignored."""
        index = self._find(sequence)
        if index is None:
            return
        self.copies -= 1
        self._lives[index] -= 1
        first = self._firsts[index]
        if self._lives[index]:
            self._set_gone(first, self.gone.get(first, 0) | (1 << (sequence - first)))
        else:
            self._remove(index)

    def purge(self, first: int, last: int, live: int) -> None:
        """The copies with sequences in [first, last] are gone: `live` ones, of one run.

        The row may be longer: a run is sometimes cut in two when a part of it is read back.
        """
        index = self._covering(first)  # the copy with just this sequence may have ended long ago
        if index is None:
            return
        if self._lives[index] <= live:
            self._remove(index)
            return
        start = self._firsts[index]
        self.copies -= live
        self._lives[index] -= live
        self._set_gone(start, self.gone.get(start, 0) | mask_of(range(first, last + 1), start))

    def position_of(self, sequence: int) -> int | None:
        """Of the blob that holds this live copy; None when there is no such copy."""
        index = self._find(sequence)
        return None if index is None else self._positions[index]

    def move(self, sequence: int, position: int) -> None:
        """The copy, and with it all others of its run, lies in another blob now."""
        index = self._find(sequence)
        if index is not None:
            self._positions[index] = position

    def stretches(self) -> list[tuple[int, int, int]]:
        """(first, last, live copies) of every row."""
        head = self._head
        return list(zip(self._firsts[head:], self._lasts[head:], self._lives[head:], strict=True))

    def live_by_position(self) -> Iterator[tuple[int, int]]:
        """(position, live copies) of every row."""
        return zip(self._positions[self._head :], self._lives[self._head :], strict=True)

    def _find(self, sequence: int) -> int | None:
        """The row that a live copy with this sequence would be in."""
        index = self._covering(sequence)
        if index is None:
            return None
        first = self._firsts[index]
        return None if self.gone.get(first, 0) >> (sequence - first) & 1 else index

    def _covering(self, sequence: int) -> int | None:
        """The row that a copy with this sequence was ever in."""
        index = bisect_right(self._firsts, sequence, self._head) - 1
        return None if index < self._head or self._lasts[index] < sequence else index

    def _row(self, index: int) -> Row:
        first = self._firsts[index]
        return Row(
            first,
            self._lasts[index],
            self._positions[index],
            self._lives[index],
            self.gone.get(first, 0),
            self.expires.get(first, NEVER),
        )

    def _set_gone(self, first: int, mask: int) -> None:
        self._mask_bits += mask.bit_length() - self.gone.get(first, 0).bit_length()
        self.gone[first] = mask

    def _remove(self, index: int) -> None:
        first = self._firsts[index]
        self.copies -= self._lives[index]
        self._mask_bits -= self.gone.pop(first, 0).bit_length()
        self.expires.pop(first, None)
        if index == self._head:
            self._head += 1
            if self._head > _HEAD_TOLERATED and self._head * 2 > len(self._firsts):
                for column in (self._firsts, self._lasts, self._positions, self._lives):
                    del column[: self._head]
                self._head = 0
        else:
            for column in (self._firsts, self._lasts, self._positions, self._lives):
                del column[index]

    # Checkpoints

    def _sort(self) -> None:
        firsts = self._firsts
        if any(map(gt, firsts, firsts[1:])):
            order = sorted(range(len(firsts)), key=firsts.__getitem__)
            for name in ("_firsts", "_lasts", "_positions", "_lives"):
                column = getattr(self, name)
                setattr(self, name, array(column.typecode, [column[index] for index in order]))

    def columns(self) -> tuple[bytes, bytes, bytes, bytes]:
        """First, last, position (u64 each) and live (u32), little-endian."""
        columns = (self._firsts, self._lasts, self._positions, self._lives)
        first, last, position, live = (little_endian(column[self._head :]) for column in columns)
        return first, last, position, live

    @classmethod
    def from_columns(
        cls, columns: Sequence[bytes], gone: dict[int, int], expires: dict[int, int]
    ) -> "RunTable":
        """Raises ValueError when the columns do not fit together."""
        table = cls()
        for column, data in zip(
            (table._firsts, table._lasts, table._positions, table._lives), columns, strict=True
        ):
            column.frombytes(data)
            if sys.byteorder == "big":
                column.byteswap()
        if len({len(c) for c in (table._firsts, table._lasts, table._positions, table._lives)}) != 1:
            raise ValueError("the columns of a run table have different lengths")
        table._sort()
        table.gone = gone
        table._mask_bits = sum(map(int.bit_length, gone.values()))
        table.expires = expires
        table.copies = sum(table._lives)
        return table


class SpilledRuns(RunTable):
    """Of a lane: what neither the log nor the memory has.

    The spill lets go of a copy when it is read back, so these runs have no masks; and unlike those of the log
    they may interleave, with each other and with those.
    """

    __slots__ = ("_blobs", "returned")

    def __init__(self, blobs: "SpilledBlobs") -> None:
        super().__init__()
        self._blobs = blobs
        self.returned: dict[int, int] = {}  # those in here that were with a consumer: delivery count

    def release(self, position: int, copies: "Sequence[QueuedMessage]") -> None:
        """These, of the blob at this position, are in memory again."""
        self._blobs[position].release(len(copies))
        for copy in copies:
            self.returned.pop(copy.message.sequence, None)

    def release_all(self) -> None:
        """All of it has ended."""
        self._blobs.release_all(self.live_by_position())


def keep_live(returned: dict[int, int], tables: Sequence[RunTable]) -> None:
    """Forget what is known of copies that are in none of these tables."""
    for sequence in list(returned):
        if all(table.position_of(sequence) is None for table in tables):
            del returned[sequence]


def little_endian(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()
