"""An engine on a disk that forgets what was not synced: for deterministic tests of everything above storage.

A `SimulatedDisk` outlives its engines. Writes reach it at once but are durable only after a sync, some turns
of the event loop later; `crash` keeps of the rest what a real engine may keep. Every choice comes from one
seeded generator, so a failing test is repeated by its seed. Several engines may have the same disk open: that
is how a second owner, or one that does not know yet that it lost its groups, is played.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from random import Random
from typing import Any, TypeVar

from .engine import (
    Ambiguous,
    Append,
    Caps,
    Durability,
    EngineError,
    EngineStats,
    Full,
    Lease,
    Position,
    Revision,
    Unavailable,
)
from .tables import RESERVE_BYTES, Tables

BLOB_MAX_BYTES = 256 * 1024
INFLIGHT_MAX = 8

T = TypeVar("T")


class Keep(Enum):
    """What a crash leaves of the writes that were not synced."""

    NOTHING = "nothing"
    SOME = (
        "some"  # each group's first so many, or everybody's first so many where calls are atomic over groups
    )
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Faults:
    """How often an append goes wrong, as probabilities, and how long a sync may take."""

    full: float = 0.0
    unavailable: float = 0.0
    ambiguous: float = 0.0  # half of them are durable nevertheless
    sync_turns_max: int = 3


@dataclass(slots=True)
class _Unsynced:
    number: int  # rising over the disk's life
    group: int | None  # None: metadata
    operation: Callable[[Tables], Any]


class SimulatedDisk:
    """Durable state, and what was written since the last sync."""

    def __init__(self, seed: int, *, multi_group_atomic: bool = True, capacity_bytes: int = 2**62) -> None:
        self.random = Random(seed)  # the one source of all choices on this disk
        self.multi_group_atomic = multi_group_atomic
        self.capacity_bytes = capacity_bytes
        self.durable = Tables()
        self.crashes = 0  # engines opened before the last crash are dead
        self._written = Tables()  # durable, plus everything unsynced
        self._unsynced: list[_Unsynced] = []
        self._last_number = 0

    def has_room(self, size: int, *, urgent: bool) -> bool:
        return self._written.used_bytes + size <= self.capacity_bytes + (RESERVE_BYTES if urgent else 0)

    def write(self, group: int | None, operation: Callable[[Tables], T]) -> tuple[int, T]:
        """Do a write that is not durable yet; returns the number to `sync` up to, and the answer."""
        answer = operation(self._written)
        self._last_number += 1
        self._unsynced.append(_Unsynced(self._last_number, group, operation))
        return self._last_number, answer

    def sync(self, number: int | None = None) -> None:
        """Make durable what was written up to a number (None: everything)."""
        upto = self._last_number if number is None else number
        while self._unsynced and self._unsynced[0].number <= upto:
            self._unsynced.pop(0).operation(self.durable)

    def crash(self, keep: Keep = Keep.SOME) -> None:
        """Cut the power: engines die, and of the unsynced writes only some remain."""
        kept: defaultdict[int | None, int] = defaultdict(int)
        streams: defaultdict[int | None, int] = defaultdict(int)
        for write in self._unsynced:
            streams[self._stream(write)] += 1
        for stream, count in streams.items():
            kept[stream] = {Keep.NOTHING: 0, Keep.EVERYTHING: count}.get(keep, self.random.randint(0, count))
        for write in self._unsynced:
            if kept[self._stream(write)] > 0:
                kept[self._stream(write)] -= 1
                write.operation(self.durable)
        self._unsynced.clear()
        self._written = self.durable.copy()
        self.crashes += 1

    def _stream(self, write: _Unsynced) -> int | None:
        """Writes of one stream become durable in order."""
        return None if self.multi_group_atomic else write.group


class SimulatedEngine:
    """A `LogEngine` on a simulated disk."""

    def __init__(
        self, disk: SimulatedDisk, faults: Faults = Faults(), *, acknowledge_early: bool = False
    ) -> None:
        """`acknowledge_early` breaks the contract on purpose: appends return before they are durable."""
        self._disk = disk
        self._faults = faults
        self._acknowledge_early = acknowledge_early
        self._crashes_at_open: int | None = None  # None: closed

    @property
    def caps(self) -> Caps:
        return Caps(Durability.FSYNC, BLOB_MAX_BYTES, INFLIGHT_MAX, self._disk.multi_group_atomic)

    async def open(self) -> None:
        self._crashes_at_open = self._disk.crashes

    async def close(self) -> None:
        if self._crashes_at_open == self._disk.crashes:
            self._disk.sync()
        self._crashes_at_open = None

    async def acquire(self, group: int, node: str) -> Lease:
        return await self._write(group, lambda tables: tables.acquire(group))

    async def append(self, items: Sequence[Append], *, urgent: bool = False) -> list[Position | EngineError]:
        try:
            self._require_open()
            fault = self._roll_fault(items, urgent=urgent)
            if fault is not None:
                return [fault] * len(items)
            is_ambiguous = self._disk.random.random() < self._faults.ambiguous
            if is_ambiguous and self._disk.random.random() < 0.5:
                return [Ambiguous("simulated: the answer was lost, and so was the append")] * len(items)
            answers = await self._append_all(items)
        except EngineError as error:
            return [error] * len(items)
        if is_ambiguous:
            return [Ambiguous("simulated: the answer was lost")] * len(items)
        return answers

    async def _append_all(self, items: Sequence[Append]) -> list[Position | EngineError]:
        number, answers = 0, list[Position | EngineError]()
        for item in items:
            number, answer = self._disk.write(item.group, partial(Tables.append, item=item))
            answers.append(answer)
        if not self._acknowledge_early:
            await self._sync(number)
        return answers

    async def read(
        self, group: int, after: Position, upto: Position | None = None
    ) -> AsyncIterator[tuple[Position, bytes]]:
        tables = self._require_open()
        end = tables.last_position(group) if upto is None else upto
        for found in tables.between(group, after, end):
            yield found

    async def read_one(self, group: int, position: Position) -> bytes | None:
        return self._require_open().read_one(group, position)

    async def read_many(self, group: int, positions: Sequence[Position]) -> list[bytes | None]:
        tables = self._require_open()
        return [tables.read_one(group, position) for position in positions]

    async def blobs(self, group: int) -> list[tuple[Position, int]]:
        return self._require_open().sizes(group)

    async def drop(self, group: int, epoch: int, positions: Sequence[Position]) -> None:
        await self._write(group, lambda tables: tables.drop(group, epoch, positions))

    async def checkpoint(self, group: int, epoch: int, position: Position, pieces: Sequence[bytes]) -> None:
        await self._write(group, lambda tables: tables.checkpoint(group, epoch, position, b"".join(pieces)))

    async def last_checkpoint(self, group: int) -> tuple[Position, bytes] | None:
        return self._require_open().last_checkpoint(group)

    async def meta_get(self, key: bytes) -> tuple[bytes, Revision] | None:
        return self._require_open().meta_get(key)

    async def meta_cas(self, key: bytes, value: bytes | None, revision: Revision | None) -> Revision | None:
        return await self._write(None, lambda tables: tables.meta_cas(key, value, revision))

    async def stats(self) -> EngineStats:
        return self._require_open().stats(self._disk.capacity_bytes)

    def _require_open(self) -> Tables:
        """What may be read: only what is durable."""
        if self._crashes_at_open is None:
            raise Unavailable("the simulated engine is not open")
        if self._crashes_at_open != self._disk.crashes:
            raise Unavailable("the simulated engine crashed")
        return self._disk.durable

    def _roll_fault(self, items: Sequence[Append], *, urgent: bool) -> EngineError | None:
        """A fault that leaves nothing behind, or None."""
        if not self._disk.has_room(sum(len(item.blob) for item in items), urgent=urgent):
            return Full("the simulated disk is full")
        roll = self._disk.random.random()
        if roll < self._faults.full:
            return Full("simulated: no room just now")
        if roll < self._faults.full + self._faults.unavailable:
            return Unavailable("simulated: not reachable just now")
        return None

    async def _write(self, group: int | None, operation: Callable[[Tables], T]) -> T:
        self._require_open()
        number, answer = self._disk.write(group, operation)
        await self._sync(number)
        return answer

    async def _sync(self, number: int) -> None:
        crashes = self._disk.crashes
        for _ in range(self._disk.random.randint(0, self._faults.sync_turns_max)):
            await asyncio.sleep(0)
        if self._disk.crashes != crashes:
            raise Ambiguous("the simulated engine crashed before the write was synced")
        self._disk.sync(number)
