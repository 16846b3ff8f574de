"""The idempotent consumer: what was processed once is not processed again, however often it comes.

A broker delivers at least once: a worker that dies between its work and its ack, a connection that breaks, an
outbox relay that was killed, all of them bring a message a second time. An inbox remembers the ids of the
messages that were processed, for `ttl_s`, and lets a repeat pass by:

    inbox = Inbox(MemoryInboxStore())

    async for message in queue:
        async with message.process(requeue=True):
            async with inbox.once(message) as is_new:
                if is_new:
                    await charge(message)

The same as a decorator, for `queue.consume`: `@inbox.idempotent`.

Where the ids are kept is the store's business. Choose by what must not forget:

- `inbox_memory.MemoryInboxStore`: one process, until it ends;
- `inbox_sqlite.SqliteInboxStore`: the processes of one machine, over restarts;
- `inbox_sql.SqlInboxStore`: all workers that share a database.

With all three the effect and the record of it are two things, so a worker that dies between them, after the
effect, has it twice. When the effect is in a database too, `inbox_sql.InboxTable.record` writes the id in the
caller's own transaction: then both are there or neither is, and the effect happens exactly once.

Two workers with the same id at once: the first has a claim, the second waits for what becomes of it. If the
first succeeds, the second passes by; if it fails, the second takes over. A claim is a lease that is renewed
while its block runs: it lapses `lease_s` after the death of its worker, so a crash loses nothing.

An inbox belongs to one handler. Two handlers that each get a copy of a message need a
store, or a table, each.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from functools import wraps
from typing import Protocol

from leveret.client import IncomingMessage, LeveretError

log = logging.getLogger(__name__)

DEFAULT_TTL_S = 24 * 3600.0
DEFAULT_LEASE_S = 30.0
KEY_CHARS_MAX = 255  # as long as a message_id can be
FIRST_POLL_S = 0.02
LONGEST_POLL_S = 1.0
PURGE_EVERY_S = 60.0

Handler = Callable[[IncomingMessage], Awaitable[object]]
Key = Callable[[IncomingMessage], str | None]
"""What tells a repeat from another message; None: this message is always processed."""


class MessageIdMissing(LeveretError, ValueError):
    """A message without the id by which an inbox knows repeats. Trying again does not help."""


def by_message_id(message: IncomingMessage) -> str:
    """The default key. Raises MessageIdMissing when the publisher has set none."""
    if not message.message_id:
        raise MessageIdMissing(
            f"{message!r} has no message_id, so an inbox cannot tell whether it was there before; "
            "let its publisher set one, or choose another key, as in Inbox(store, key=by_body)"
        )
    return message.message_id


def by_body(message: IncomingMessage) -> str:
    """A key for publishers that set no message_id: equal bodies count as the same message."""
    return hashlib.sha256(message.body).hexdigest()


def check_key(key: str) -> None:
    """Raise ValueError for a key that not every store could keep."""
    if not 1 <= len(key) <= KEY_CHARS_MAX:
        raise ValueError(f"the key of a message has 1 to {KEY_CHARS_MAX} characters, not {len(key)}")


class Standing(Enum):
    """What a store answers to who wants to process a key."""

    CLAIMED = "it is yours"
    BUSY = "another worker has it"
    DONE = "it was processed"


class InboxStore(Protocol):
    """Keeps for each key its claim or that it is done; both end at a moment, and are then as if never there.

    Each method is atomic against all other users of the same store.
    """

    async def claim(self, key: str, owner: str, now: float, until: float) -> Standing:
        """Take the key for this owner, if nobody has it and it is not done."""

    async def renew(self, key: str, owner: str, until: float) -> bool:
        """Prolong a claim; False: the owner has it no more."""

    async def finish(self, key: str, until: float) -> None:
        """The key is done, whoever has a claim: what has happened has happened."""

    async def release(self, key: str, owner: str) -> None:
        """Give a claim up, if the owner still has it."""

    async def purge(self, now: float) -> None:
        """Forget what has ended."""


class Inbox:
    """See the module's docstring.

    Args:
        store: where the keys are kept.
        ttl_s: how long a key is remembered; longer than any repeat can take to come.
        lease_s: how long after a worker's death another one may have its message. Workers on several machines
            must have clocks that differ by less.
        key: what tells a repeat; see `by_message_id` and `by_body`, or write your own.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: InboxStore,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        lease_s: float = DEFAULT_LEASE_S,
        key: Key = by_message_id,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl_s <= 0 or lease_s <= 0:
            raise ValueError(f"ttl_s and lease_s must be above 0, not {ttl_s} and {lease_s}")
        self._store = store
        self._ttl_s = ttl_s
        self._lease_s = lease_s
        self._key = key
        self._clock = clock
        self._purge_at = clock() + PURGE_EVERY_S

    @asynccontextmanager
    async def once(self, message: IncomingMessage) -> AsyncIterator[bool]:
        """`async with inbox.once(message) as is_new:` process it if `is_new`; else it was processed before.

        When the block raises, the message counts as not processed and the next try may begin at once. Settle
        the message outside of the block: only after it is the id on record.
        """
        key = self._key(message)
        if key is None:
            yield True
            return
        check_key(key)
        owner = secrets.token_hex(16)
        if not await self._claim(key, owner):
            yield False
            return
        renewing = asyncio.create_task(self._renew(key, owner))
        try:
            yield True
        except BaseException:
            await self._store.release(key, owner)
            raise
        finally:
            renewing.cancel()  # one that is on its way finds no claim of this owner any more
        # Whoever cancels this now must not undo that it is done.
        await asyncio.shield(self._store.finish(key, self._clock() + self._ttl_s))

    def idempotent(self, handler: Handler) -> Callable[[IncomingMessage], Awaitable[None]]:
        """A decorator: the handler is called for the first of equal messages only."""

        @wraps(handler)
        async def only_once(message: IncomingMessage) -> None:
            async with self.once(message) as is_new:
                if is_new:
                    await handler(message)

        return only_once

    async def _claim(self, key: str, owner: str) -> bool:
        """Wait until the key can be had, or was done by somebody else (False)."""
        await self._purge()
        poll_s = FIRST_POLL_S
        while True:
            now = self._clock()
            standing = await self._store.claim(key, owner, now, now + self._lease_s)
            if standing is not Standing.BUSY:
                return standing is Standing.CLAIMED
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LONGEST_POLL_S)

    async def _purge(self) -> None:
        now = self._clock()
        if now >= self._purge_at:
            self._purge_at = now + PURGE_EVERY_S
            await self._store.purge(now)

    async def _renew(self, key: str, owner: str) -> None:
        """Keep a claim while its block runs. A store that fails is asked again while the lease lasts."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                kept = await self._store.renew(key, owner, self._clock() + self._lease_s)
            except Exception:  # of whatever database is below
                log.exception("the claim of message %s could not be renewed", key)
                continue
            if not kept:
                log.warning("message %s may be processed twice: its claim had lapsed", key)
                return
