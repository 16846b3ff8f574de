"""What the HTTP side reads of a broker and a server, as plain data that a test fills in."""

from dataclasses import dataclass, field

from leveret.broker.alarms import NO_LIMITS, Alarms
from leveret.broker.counters import Counters, Latest
from leveret.broker.durability.journal import Journal
from leveret.broker.queues.dead_letter import DeathReason
from leveret.broker.queues.windows import Windows
from leveret.storage.engine import EngineError, EngineStats


@dataclass
class FakeQueue:
    name: str
    message_count: int = 0
    ready_bytes: int = 0
    unacked_count: int = 0
    consumer_count: int = 0
    enqueued_total: int = 0
    delivered_total: int = 0
    redelivered_total: int = 0
    got_total: int = 0
    settled_total: int = 0
    deaths_total: dict[DeathReason, int] = field(default_factory=lambda: dict.fromkeys(DeathReason, 0))
    cold_count: int = 0
    index_bytes: int = 0


@dataclass
class FakeVhost:
    name: str = "/"
    queues: dict[str, FakeQueue] = field(default_factory=dict)
    exchanges: dict[str, object] = field(default_factory=dict)

    def add(self, queue: FakeQueue) -> None:
        self.queues[queue.name] = queue


@dataclass
class FakeBroker:
    alarms: Alarms = field(default_factory=lambda: Alarms(NO_LIMITS))
    counters: Counters = field(default_factory=Counters)
    journal: Journal = field(default_factory=lambda: Journal(1024 * 1024))
    latest: Latest = field(default_factory=Latest)
    producers: list[object] = field(default_factory=list)
    vhosts: dict[str, FakeVhost] = field(default_factory=lambda: {"/": FakeVhost()})
    windows: Windows = field(default_factory=Windows)


@dataclass
class FakeServer:
    is_ready: bool = True
    stats: EngineStats | EngineError = field(
        default_factory=lambda: EngineStats(
            used_bytes=4096,
            file_bytes=5000,
            free_bytes=100,
            blobs=3,
            last_commit_ms=0.5,
            log_bytes=4000,
            commits=9,
        )
    )

    async def log_stats(self) -> EngineStats:
        if isinstance(self.stats, EngineError):
            raise self.stats
        return self.stats
