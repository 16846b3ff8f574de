"""Named places where a test can make storage die, fail or wait.

`LEVERET_FAILPOINTS="name=kill|error|full|delay:ms[@n|@n+][,name=...]"` is read once, when this module is
imported. `error` is the operating system's EIO at that place, `full` its ENOSPC. With `@n` only the n-th time
that the place is passed counts (the first is 1), with `@n+` that and every later one, without it every time.
Unarmed, a place costs one comparison: `if failpoints.armed: failpoints.hit(...)`.

`tests/crash/test_failpoints.py` hits every one of them.
"""

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

NAMES = frozenset(
    {
        "allocate",  # more of the disk is about to be taken: `full` is a disk that has no more
        "put",  # a blob goes into the transaction
        "before_commit",  # everything is put, nothing committed
        "commit",  # in the place of the commit: `error` is a commit that failed
        "after_commit_before_confirm",  # durable, but nobody knows yet: `error` is an ambiguous answer
        "during_checkpoint",  # in each of the transactions that write a checkpoint
        "after_checkpoint",  # a checkpoint is written and what was dead dropped
        "during_cleaning",  # survivors are written anew, what they come from is still there
        "during_recovery",  # after each blob that a start replays
        "during_drop",  # in each of the transactions of a drop
        "during_create",  # the store is made but not yet in its place
        "during_compact",  # the compacted store is made but not yet in its place
    }
)

ERRORS = {"error": errno.EIO, "full": errno.ENOSPC}


class InjectedError(OSError):
    """What a place armed with `error` or `full` raises."""


@dataclass(slots=True)
class Failpoint:
    """What to do at a place."""

    action: str  # kill, error, full or delay
    delay_ms: float = 0.0
    first_hit: int = 1
    last_hit: int | None = None  # None: every one from the first on
    hits: int = 0


_RULE = re.compile(r"(\w*)=(kill|error|full|delay:([\d.]+))(?:@(\d+)(\+?))?")


def parse(text: str) -> dict[str, Failpoint]:
    """Read the environment variable's syntax. Raises ValueError with a sentence."""
    points: dict[str, Failpoint] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        rule = _RULE.fullmatch(part)
        if rule is None:
            raise ValueError(f"LEVERET_FAILPOINTS: {part!r} is not name=kill|error|full|delay:ms[@n|@n+]")
        name, action, delay_ms, nth, and_on = rule.groups()
        if name not in NAMES:
            raise ValueError(
                f"LEVERET_FAILPOINTS: no place is named {name!r}; there are {', '.join(sorted(NAMES))}"
            )
        point = points[name] = Failpoint(action.partition(":")[0], float(delay_ms or 0))
        if nth:
            point.first_hit, point.last_hit = int(nth), None if and_on else int(nth)
    return points


armed: dict[str, Failpoint] | None = parse(os.environ.get("LEVERET_FAILPOINTS", "")) or None
"""The armed places by name, or None; tests may set it."""


def hit(name: str) -> None:
    """Do what the place is armed with, if it is."""
    point = armed.get(name) if armed else None
    if point is None:
        return
    point.hits += 1
    if point.hits < point.first_hit or (point.last_hit is not None and point.hits > point.last_hit):
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "delay":
        time.sleep(point.delay_ms / 1000)
    else:
        code = ERRORS[point.action]
        raise InjectedError(code, f"{os.strerror(code)} (injected at {name})")
