"""When garbage is collected: what is in cycles, which counting references does not free.

Messages are in none, and Python's collector walks every one in memory (100 ms for 100,000), its young
generation included: where as much goes as comes it is not looked at for long, and then takes up to 70 ms. So
a broker that has a process of its own switches the collector off (`process.py`), and this is what is left.
"""

import gc

AFTER_CLOSED = 200
AFTER_S = 600.0


class Garbage:
    """One per server, which says what was closed and when it is time to look."""

    def __init__(self, now_s: float) -> None:
        self.closed = 0
        """Sockets since the last collection: transports and sessions are in cycles."""
        self._collected_at_s = now_s  # what is there at a start was collected before it

    def look(self, now_s: float) -> None:
        """Collect it after many closed sockets, and every now and then: others make some as well (HTTP)."""
        if self.closed >= AFTER_CLOSED or now_s - self._collected_at_s >= AFTER_S:
            self.closed = 0
            self._collected_at_s = now_s
            gc.collect()
