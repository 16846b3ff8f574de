"""The owner whose disk writes are recorded: `python power_cut_victim.py DATA_DIR sync|no-sync`.

It says on standard output what it makes, and what was answered, so that the recording holds both in their
order.
"""

import asyncio
import os
import random
import sys

import lmdb
from log_owner import LogOwner

from leveret.storage import lmdb_room
from leveret.storage.blob import chain_hash
from leveret.storage.engine import Position
from leveret.storage.lmdb import LmdbEngine

ROUNDS = 60
KEPT = 8  # blobs

# Small images, and the file is enlarged within the recording.
lmdb_room.AHEAD_BYTES = 256 * 1024
lmdb_room.RESERVE_BYTES = 128 * 1024


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(path: str) -> None:
    sizes = random.Random(7)
    engine = LmdbEngine(path, map_bytes=2**30)
    await engine.open()
    owner = await LogOwner.acquire(engine)
    last = owner.lease.fence
    say("begin")
    for n in range(ROUNDS):
        items = [owner.make(sizes.randbytes(sizes.choice((30, 900, 5_000, 70_000)))) for _ in range(2)]
        for item in items:
            say("make", owner.lease.fence + item.idx, chain_hash(item.blob).hex())
        calls = [asyncio.ensure_future(engine.append([item])) for item in items]
        for call in calls:
            (answer,) = await call
            assert isinstance(answer, int), answer
            say("appended", answer)
            last = max(last, Position(answer))
        if n % 7 == 6:
            await engine.checkpoint(
                0, owner.lease.epoch, last, sizes.randbytes(sizes.choice((10, 3_000, 300_000)))
            )
            say("checkpointed", last)
            gone = [Position(position) for position in range(max(1, last - 40), last - KEPT)]
            say("dropping", *gone)
            await engine.drop(0, owner.lease.epoch, gone)
    await engine.close()


if sys.argv[2] == "no-sync":
    open_environment = lmdb.open
    lmdb.open = lambda *args, **options: open_environment(*args, **options | {"sync": False})  # type: ignore[assignment]
asyncio.run(main(sys.argv[1]))
