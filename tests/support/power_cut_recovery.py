"""Recovers a data directory each time a line comes in, and prints what it found: `python ... DATA_DIR`."""

import asyncio
import json
import sys
from pathlib import Path

from log_owner import read_all

from leveret.storage.blob import chain_hash, decode_blob
from leveret.storage.check import check_directory
from leveret.storage.engine import EngineError
from leveret.storage.lmdb import LmdbEngine


async def recover(path: Path) -> dict[str, object]:
    engine = LmdbEngine(path, map_bytes=2**30)
    blobs: dict[int, str] = {}
    position = 0
    try:
        await engine.open()
        checkpoint = await engine.last_checkpoint(0)
        position = checkpoint[0] if checkpoint else 0
        for at, blob in (await read_all(engine)).items():
            decode_blob(blob)
            blobs[at] = chain_hash(blob).hex()
    except EngineError as error:
        return {"error": str(error), "blobs": {}, "checkpoint": 0, "findings": []}
    finally:
        await engine.close()
    return {"error": None, "blobs": blobs, "checkpoint": position, "findings": check_directory(path).findings}


for _ in sys.stdin:
    print(json.dumps(asyncio.run(recover(Path(sys.argv[1])))), flush=True)
