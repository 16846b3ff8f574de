"""What a message carries: a mark to find it by, which one it is, and when it should have been sent.

A lane is a sequence of numbered messages from one publisher to one place: 0, 1, 2, ... Whoever consumes from
there must get exactly these, in this order.
"""

import random
import string
import struct

MARK = b"\xf1\x07\xe2\x9c"
"""No frame header, name, tag or filler contains it: a search for it finds bodies and nothing else."""

HEAD = struct.Struct(">4sIII")  # mark, lane, number in the lane, time (below)
IDENTITY = struct.Struct(">III")  # what follows the mark
SIZE_MIN = HEAD.size

_CLOCK_MASK = (1 << 32) - 1  # microseconds, modulo 71 minutes
_SEED = 20261122


def blank_body(size: int) -> bytes:
    """A body that is still to be stamped. The filler is text: neither zeros nor a mark."""
    if size < SIZE_MIN:
        raise ValueError(f"a body has {SIZE_MIN} bytes or more, not {size}")
    letters = random.Random(_SEED).choices(string.ascii_letters.encode(), k=min(size, 1 << 16))
    filler = bytes(letters) * (size // len(letters) + 1)
    return HEAD.pack(MARK, 0, 0, 0) + filler[: size - HEAD.size]


def as_stamp(seconds: float) -> int:
    """A time of the monotonic clock, which all processes of a machine share, as it is put into a body."""
    return int(seconds * 1e6) & _CLOCK_MASK


def age_us(stamp: int, now_stamp: int) -> int:
    """The time from one stamp to another, in microseconds."""
    return (now_stamp - stamp) & _CLOCK_MASK
