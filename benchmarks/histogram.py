"""Times in buckets whose width is a fixed share of the value: HDR histograms (High Dynamic Range).

From 1 us to hours with an error below 1 %, in a few thousand buckets at most; those of several processes or
runs are added up, which percentiles cannot be. (The package `hdrhistogram` does the same with a C extension;
these fifty lines keep `leveret bench` free of further requirements.)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

EXACT_BITS = 7
"""Up to 2**7 us every value has its bucket; above, each power of two is divided into 2**7 of them."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


class Histogram:
    """Counts of values in microseconds."""

    def __init__(self, counts: Mapping[int, int] = {}) -> None:
        self._counts = Counter(counts)
        """By the lowest value of the bucket."""

    @classmethod
    def merged(cls, some: Iterable["Histogram"]) -> "Histogram":
        merged = cls()
        for one in some:
            merged._counts.update(one._counts)
        return merged

    @property
    def total(self) -> int:
        return self._counts.total()

    @property
    def counts(self) -> dict[int, int]:
        """By the lowest value of each bucket, in microseconds, rising."""
        return dict(sorted(self._counts.items()))

    def record(self, us: int) -> None:
        shift = us.bit_length() - EXACT_BITS - 1
        self._counts[us >> shift << shift if shift > 0 else us] += 1

    def clear(self) -> None:
        self._counts.clear()

    def percentile_ms(self, percent: float) -> float:
        """The value that so many percent are not above, at the bucket's lower end; 0 if there are none."""
        counts = self.counts
        wanted = self.total * percent / 100
        for us, below in zip(counts, accumulate(counts.values()), strict=True):
            if below >= wanted:
                return us / 1e3
        return 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """Those that are reported: {"p50": ..., "p100": ...}; p100 is the maximum."""
        return {f"p{percent:g}": self.percentile_ms(percent) for percent in PERCENTILES} if self.total else {}
