"""Heartbeats (0-9-1 section 4.2.7) by passed-in time: when to send one, when the peer counts as gone."""


class Heartbeat:
    """One per connection. The owner notes traffic in two flags, which costs nothing; ticks bring the time."""

    __slots__ = ("_heard_at_s", "_sent_at_s", "_ticked_at_s", "has_heard", "has_sent", "interval_s")

    def __init__(self) -> None:
        self.interval_s = 0  # negotiated; 0 until then and for none
        self.has_heard = False  # octets came since the last tick
        self.has_sent = False  # octets went since the last tick
        self._heard_at_s: float | None = None
        self._sent_at_s: float | None = None
        self._ticked_at_s: float | None = None

    def is_due(self, now_s: float) -> bool:
        """Whether to send a heartbeat: nothing was sent for half an interval."""
        if self.has_sent:
            self.has_sent = False
            self._sent_at_s = self._ticked_at_s  # at the earliest
        self._ticked_at_s = now_s
        if self._sent_at_s is None:  # the first tick: what was sent before it counts from now
            self._sent_at_s = now_s
        if not self.interval_s or now_s - self._sent_at_s < self.interval_s / 2:
            return False
        self._sent_at_s = now_s
        return True

    def is_missed(self, now_s: float) -> bool:
        """Whether the peer was silent for more than two intervals; any octet counts as a sign of life."""
        if self.has_heard or self._heard_at_s is None:
            self.has_heard = False
            self._heard_at_s = now_s
        return bool(self.interval_s) and now_s - self._heard_at_s > 2 * self.interval_s
