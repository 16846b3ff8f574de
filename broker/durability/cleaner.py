"""Cleaning: what is left of mostly dead blobs is written anew, so that one old message never pins the disk.

After a checkpoint, while the log is much larger than what is alive in it, blobs of which little is left are
read and handed to the journal, which packs the survivors into the next batch. The blob is dead then, and goes
with the checkpoint after. Publishers who leave more behind than it can keep up with have to wait for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from leveret.storage import failpoints
from leveret.storage.blob import decode_blob
from leveret.storage.engine import Corrupt, LogEngine, Position

from .blobs import StoredBlob
from .journal import Journal

SLACK_BYTES = 32 * 1024 * 1024  # of dead bytes that nobody minds
LOG_PER_LIVE_BYTE = 1.5  # more than that is too much
AT_ONCE = 8  # victims in one batch: to look for survivors takes 1 ms in each of 250 messages
BEHIND_BYTES = 32 * 1024 * 1024  # by so much too large: above it publishers wait


class Cleaner:
    """One per broker; the committer's upkeep calls it."""

    def __init__(
        self, engine: LogEngine, group: int, journal: Journal, commit: Callable[[], Awaitable[None]]
    ) -> None:
        """`commit` makes what is pending durable."""
        self._engine = engine
        self._group = group
        self._journal = journal
        self._commit = commit
        self._is_stopping = False

    def stop(self) -> None:
        """Leave it to the next start: nobody should have to wait for the end of this."""
        self._is_stopping = True

    @property
    def is_needed(self) -> bool:
        return self._excess_bytes > 0

    @property
    def _is_done(self) -> bool:
        return self._is_stopping or not self.is_needed

    @property
    def _excess_bytes(self) -> float:
        """By how much the log is too large, the dead blobs apart."""
        blobs = self._journal.blobs
        return blobs.size - blobs.dead_size - LOG_PER_LIVE_BYTE * blobs.live_size - SLACK_BYTES

    async def clean(self, enough_bytes: int) -> None:
        """Move survivors until the log is small enough, or so much is dead, and half of what is too much.

        The next checkpoint gives the room back. That it is due sooner is no reason to end: the log of a
        broker that writes fast would grow from round to round.
        """
        blobs = self._journal.blobs
        if self._is_done:
            return
        on_disk = [blob for blob in blobs.sparse if blob.position < blobs.under_way_from]
        victims = sorted(on_disk, key=lambda blob: blob.live_size)
        found = await self._read(victims[:AT_ONCE])
        dead_size = blobs.dead_size
        try:
            for at in range(0, len(victims), AT_ONCE):
                is_of_use = blobs.dead_size > dead_size  # the last step
                blobs.hold_publishers(is_of_use and self._excess_bytes > BEHIND_BYTES)
                dead_size = blobs.dead_size
                self._move(victims[at : at + AT_ONCE], found)
                following = victims[at + AT_ONCE : at + 2 * AT_ONCE]
                _, found = await asyncio.gather(self._commit(), self._read(following))
                if failpoints.armed:
                    failpoints.hit("during_cleaning")
                if self._is_done or blobs.dead_size >= max(enough_bytes, self._excess_bytes):
                    return
        finally:
            blobs.hold_publishers(False)

    async def _read(self, victims: Sequence[StoredBlob]) -> list[bytes | None]:
        positions = [Position(victim.position) for victim in victims]
        return await self._engine.read_many(self._group, positions) if positions else []

    def _move(self, victims: Sequence[StoredBlob], found: Sequence[bytes | None]) -> None:
        for victim, data in zip(victims, found, strict=True):
            if not victim.live_copies:
                continue  # died meanwhile, and may be dropped
            if data is None:
                raise Corrupt(
                    f"the blob at position {victim.position}, which holds live messages, is missing"
                )
            self._journal.move(victim, decode_blob(data).payload)
