"""Named places where a test can make storage die, fail or wait.

`LEVERET_FAILPOINTS="name=kill|error|delay:ms[@n][,name=...]"` is read once, when this module is imported.
With `@n` only the n-th time that the place is passed counts (the first is 1), without it every time. Unarmed,
a place costs one comparison: `if failpoints.armed: failpoints.hit(...)`.
"""

import os
import signal
import time
from dataclasses import dataclass

NAMES = frozenset(
    {
        "before_commit",  # everything is put, nothing committed
        "commit",  # in the place of the commit: `error` is a commit that failed
        "after_commit_before_confirm",  # durable, but nobody knows yet: `error` is an ambiguous answer
        "during_checkpoint",  # between the transactions of a checkpoint
        "during_drop",  # between the transactions of a drop
        "during_create",  # the store is made but not yet in its place
        "during_compact",  # the compacted store is made but not yet in its place
    }
)


class InjectedError(Exception):
    """What a place armed with `error` raises."""


@dataclass(slots=True)
class Failpoint:
    """What to do at a place."""

    action: str  # kill, error or delay
    delay_ms: float
    only_hit: int | None  # None: every one
    hits: int = 0


def parse(text: str) -> dict[str, Failpoint]:
    """Read the environment variable's syntax. Raises ValueError with a sentence."""
    points: dict[str, Failpoint] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, rule = part.partition("=")
        rule, _, nth = rule.partition("@")
        action, _, delay_ms = rule.partition(":")
        if name not in NAMES:
            raise ValueError(
                f"LEVERET_FAILPOINTS: no place is named {name!r}; there are {', '.join(sorted(NAMES))}"
            )
        if action not in {"kill", "error", "delay"}:
            raise ValueError(f"LEVERET_FAILPOINTS: {name}={action!r} is none of kill, error, delay:ms")
        points[name] = Failpoint(action, float(delay_ms or 0), int(nth) if nth else None)
    return points


armed: dict[str, Failpoint] | None = parse(os.environ.get("LEVERET_FAILPOINTS", "")) or None
"""The armed places by name, or None; tests may set it."""


def hit(name: str) -> None:
    """Do what the place is armed with, if it is."""
    point = armed.get(name) if armed else None
    if point is None:
        return
    point.hits += 1
    if point.only_hit is not None and point.hits != point.only_hit:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "error":
        raise InjectedError(name)
    else:
        time.sleep(point.delay_ms / 1000)
