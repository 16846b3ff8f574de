"""An inbox's ids in the memory of one process: the fastest store, and gone with the process."""

import logging

from .inbox import Standing

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 100_000


class MemoryInboxStore:
    """Remembers at most `limit` processed ids (about 200 bytes each); beyond that the oldest are forgotten
    before their time, which is logged once.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._limit = limit
        self._claims: dict[str, tuple[str, float]] = {}  # key -> owner, until; as many as workers are busy
        self._done: dict[str, float] = {}  # key -> until, the oldest first
        self._has_warned = False

    def __len__(self) -> int:
        """How many ids are remembered."""
        return len(self._claims) + len(self._done)

    async def claim(self, key: str, owner: str, now: float, until: float) -> Standing:
        if self._done.get(key, now) > now:
            return Standing.DONE
        _, lapses_at = self._claims.get(key, ("", now))
        if lapses_at > now:
            return Standing.BUSY
        self._claims[key] = (owner, until)
        return Standing.CLAIMED

    async def renew(self, key: str, owner: str, until: float) -> bool:
        if not self._is_of(key, owner):
            return False
        self._claims[key] = (owner, until)
        return True

    async def finish(self, key: str, until: float) -> None:
        self._claims.pop(key, None)
        self._done.pop(key, None)
        self._done[key] = until
        if len(self._done) > self._limit:
            del self._done[next(iter(self._done))]
            if not self._has_warned:
                self._has_warned = True
                log.warning("the inbox is full: of %d ids the oldest are forgotten early", self._limit)

    async def release(self, key: str, owner: str) -> None:
        if self._is_of(key, owner):
            del self._claims[key]

    async def purge(self, now: float) -> None:
        self._claims = {key: claim for key, claim in self._claims.items() if claim[1] > now}
        self._done = {key: until for key, until in self._done.items() if until > now}

    def _is_of(self, key: str, owner: str) -> bool:
        return key in self._claims and self._claims[key][0] == owner
