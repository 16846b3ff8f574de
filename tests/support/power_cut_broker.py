"""`leveret` as the power-cut experiment runs it: what takes gigabytes elsewhere happens all the time.

Little of a queue stays in memory, and few dead bytes are enough for cleaning. With `--unsynced` as the first
argument LMDB syncs nothing, with `--unsynced-tail` the tail does not: what the experiment must not let pass.
"""

import sys
from types import ModuleType
from typing import Any

import lmdb

from leveret.broker.cli import main
from leveret.broker.durability import cleaner
from leveret.broker.queues import lane, windows
from leveret.storage import tail

UNSYNCED, UNSYNCED_TAIL = "--unsynced", "--unsynced-tail"
BOUNDS: tuple[tuple[ModuleType, str, int], ...] = (
    (cleaner, "SLACK_BYTES", 100_000),
    (windows, "WINDOW_BYTES", 10_000),
    (windows, "LET_GO_AT_BYTES", 20_000),
    (windows, "READ_AHEAD_BYTES", 5_000),
    (lane, "READ_AHEAD_BYTES", 5_000),
)

for module, name, value in BOUNDS:
    assert getattr(module, name) > value
    setattr(module, name, value)
if sys.argv[1] == UNSYNCED:
    del sys.argv[1]
    open_environment: Any = lmdb.open
    lmdb.open = lambda *arguments, **options: open_environment(*arguments, **options | {"sync": False})  # type: ignore[assignment]
elif sys.argv[1] == UNSYNCED_TAIL:
    del sys.argv[1]
    tail.SYNCED = 0
main()
