"""What the disk and the machine do to whoever writes so much: the yardstick for a rate that falls.

A virtual machine may have to ask its host for every page of memory that it did not use lately. To write
256 KiB into the page cache took 34 us on one at first, and 520 us after some gigabytes.
"""

import os
import time
from pathlib import Path

PIECE_BYTES = 256 * 1024  # as much as a blob of the log
TENTHS = 10


def last_percent(directory: Path, size: int) -> float:
    """Write and sync a file of this size; returns the rate of its last tenth in percent of the first."""
    path = directory / "plain"
    piece = os.urandom(PIECE_BYTES)
    per_tenth = max(1, size // TENTHS // PIECE_BYTES)
    seconds = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for _ in range(TENTHS):
            began = time.monotonic()
            for _ in range(per_tenth):
                os.write(file, piece)
                os.fdatasync(file)
            seconds.append(time.monotonic() - began)
    finally:
        os.close(file)
        path.unlink()
    return 100 * seconds[0] / seconds[-1]
