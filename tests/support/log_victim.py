"""A small owner in a process of its own, made to be killed at a failpoint: `python log_victim.py DATA_DIR`.

It prints a line after each thing that was answered.
"""

import asyncio
import sys

from log_owner import LogOwner

from leveret.storage import lmdb
from leveret.storage.engine import Position

lmdb.DROP_BLOBS_PER_COMMIT = 1


async def main(path: str) -> None:
    engine = lmdb.LmdbEngine(path, map_bytes=2**30)
    await engine.open()
    owner = await LogOwner.acquire(engine)
    for n in range(3):
        (position,) = await owner.append(b"%d" % n)
        print("append", position, flush=True)
    for position in (Position(1), Position(2)):
        await engine.checkpoint(0, owner.lease.epoch, position, [b"%d" % position * 9_000_000])
        print("checkpoint", position, flush=True)
    await engine.drop(0, owner.lease.epoch, [Position(1), Position(2)])
    print("drop", flush=True)
    await engine.close()


asyncio.run(main(sys.argv[1]))
