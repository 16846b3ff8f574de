"""What happened since the start, as plain integers: cheap to count, read by the metrics at scrape time."""

from dataclasses import dataclass


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
    got: int = 0
    acked: int = 0
    commits: int = 0
    committed_messages: int = 0
    committed_bytes: int = 0
