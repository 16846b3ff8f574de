"""What happened since the start, as plain integers: cheap to count, read by the metrics at scrape time.

Every field of `Counters` has its line in `metrics.COUNTED`, every one of `Latest` in `metrics.LATEST`.
"""

from dataclasses import dataclass, field

from .histogram import Histogram

COMMIT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
COMMIT_MESSAGES = (0, 1, 4, 16, 64, 256, 1024, 4096, 16384)
CHECKPOINT_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


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
    sent_again: int = 0
    """Publishes that had been accepted before; they are not in `published`."""
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
    blobs_read: int = 0
    """Read back from the log because somebody needs what is in them."""
    copies_read: int = 0
    window_misses: int = 0
    """How often a queue had to wait for the reader before it could hand out its head."""
    checkpoints: int = 0
    checkpointed_bytes: int = 0
    checkpoint_seconds: Histogram = field(default_factory=lambda: Histogram(CHECKPOINT_SECONDS))
    """How long checkpoints took, from their first step until they were on the disk."""
    blobs_dropped: int = 0
    """With nothing in them that is needed; parts of large messages are counted with them."""
    blobs_cleaned: int = 0
    """What was left of them was moved to another blob."""
    copies_moved: int = 0


@dataclass(slots=True)
class Latest:
    """What was seen last, or only once: figures that are replaced, not added to. One per broker."""

    checkpoint_bytes: int = 0
    """Size of the newest checkpoint, also of one that was found at the start."""
    checkpoint_at_s: float = 0.0
    """When it was written, seconds since the epoch; 0 when that was before the start."""
    recovery_s: float = 0.0
    recovery_blobs: int = 0
    """Blobs after the checkpoint, all of whose records were applied."""
    recovery_bytes: int = 0
    recovery_records: int = 0
    recovery_messages: int = 0
    """Copies in queues that came back."""
