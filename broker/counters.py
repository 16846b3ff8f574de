"""What happened since the start, as plain integers: cheap to count, read by the metrics at scrape time.

Every field has its line in `metrics.COUNTED`.
"""

from dataclasses import dataclass, field

from .histogram import Histogram

COMMIT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
COMMIT_MESSAGES = (0, 1, 4, 16, 64, 256, 1024, 4096, 16384)


@dataclass(slots=True)
class Counters:
    """One per broker."""

    connections_opened: int = 0
    connections_closed: int = 0
    channels_opened: int = 0
    channels_closed: int = 0
    published: int = 0
    confirmed: int = 0
    """Publishes answered, refusals included."""
    returned: int = 0
    unroutable: int = 0
    delivered: int = 0
    redelivered: int = 0
    got: int = 0
    acked: int = 0
    commits: int = 0
    committed_messages: int = 0
    committed_bytes: int = 0
    commit_seconds: Histogram = field(default_factory=lambda: Histogram(COMMIT_SECONDS))
    """How long appends took, from the call to the disk's answer."""
    commit_messages: Histogram = field(default_factory=lambda: Histogram(COMMIT_MESSAGES))
    """How many messages a commit made durable: 0 is one of acks or topology only."""
