"""A histogram of plain integers: an observation costs a bisection and two additions; metrics reads it at
scrape time."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence


class Histogram:
    """Counts observations by upper bound, as Prometheus does."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise; what lies above the last one counts, too."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0  # the sum of all observations

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """(upper bound, how many observations are not above it), rising; the last bound is `+Inf`."""
        below = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            yield bound, below
