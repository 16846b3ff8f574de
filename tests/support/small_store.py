"""A small store with a bit of everything, and what recovery makes of it: for tests that damage it."""

import asyncio
import os
import random
from pathlib import Path

from log_owner import LogOwner, read_all

from leveret.storage.blob import chain_hash, decode_blob, iter_records
from leveret.storage.engine import Corrupt, Position
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.lmdb_store import read_meta_pages

MAP_BYTES = 2**30

Recovered = tuple[tuple[Position, bytes] | None, dict[int, bytes], object]


def make_small_store(path: Path) -> None:
    """Two epochs, blobs of all sizes, a checkpoint with dropped blobs below it, a metadata value."""
    asyncio.run(_make(path))
    pages = read_meta_pages(path / "log")
    os.truncate(
        path / "log" / "data.mdb", (pages.last_page() + 1) * pages.page_bytes
    )  # without the room behind
    pages.close()


async def _make(path: Path) -> None:
    engine = LmdbEngine(path, map_bytes=MAP_BYTES)
    await engine.open()
    sizes = random.Random(1)
    for _ in range(2):
        owner = await LogOwner.acquire(engine)
        await owner.append(*(sizes.randbytes(sizes.choice((50, 300, 5000))) for _ in range(12)))
        if owner.lease.epoch == 1:
            await engine.checkpoint(0, 1, Position(6), [b"state" * 600])
            await engine.drop(0, 1, [Position(1), Position(2), Position(4)])
    await engine.meta_cas(b"key", b"value", None)
    await owner.append(b"last")
    await engine.close()


def recover(path: Path) -> Recovered:
    """Read back what a broker reads when it starts: checkpoint, tail, metadata. Raises EngineError."""
    return asyncio.run(_recover(path))


async def _recover(path: Path) -> Recovered:
    engine = LmdbEngine(path, map_bytes=MAP_BYTES)
    await engine.open()
    try:
        checkpoint = await engine.last_checkpoint(0)
        tail = await read_all(engine, 0, after=checkpoint[0] if checkpoint else 0)
        previous: bytes | None = None
        for position, blob in tail.items():
            decoded = decode_blob(blob)
            if previous is not None and decoded.previous != previous:
                raise Corrupt(f"the chain is broken before position {position}")
            for _ in iter_records(decoded.payload):
                pass
            previous = chain_hash(blob)
        return checkpoint, tail, await engine.meta_get(b"key")
    finally:
        await engine.close()
