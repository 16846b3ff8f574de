"""Prometheus metrics of the whole broker: plain integers of the domain, put into words when somebody scrapes.

Nothing here is called on a hot path, and the domain holds no Prometheus object.
"""

import resource
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from leveret.storage.engine import EngineStats

from ..alarms import Alarms
from ..counters import Counters, Latest
from ..durability.journal import Journal
from ..histogram import Histogram
from ..queues.windows import Windows
from .loop_lag import LoopLag
from .queue_metrics import GAUGES, VhostFacts, walk


class BrokerFacts(Protocol):
    """What is read of the broker."""

    @property
    def alarms(self) -> Alarms: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def latest(self) -> Latest: ...
    @property
    def producers(self) -> Sized: ...
    @property
    def vhosts(self) -> Mapping[str, VhostFacts]: ...
    @property
    def windows(self) -> Windows: ...


COUNTED: Mapping[str, tuple[str, str]] = {
    "connections_opened": ("connections_opened", "Connections that logged in."),
    "connections_closed": ("connections_closed", "Connections that ended after they had logged in."),
    "channels_opened": ("channels_opened", "Channels that were opened."),
    "channels_closed": ("channels_closed", "Channels that were closed."),
    "published": ("messages_published", "Messages that publishers sent."),
    "confirmed": ("messages_confirmed", "Publishes that were answered with ack or nack."),
    "sent_again": ("publishes_sent_again", "Publishes that had been accepted before, and were not enqueued."),
    "returned": ("messages_returned", "Mandatory messages that no queue took and that went back."),
    "unroutable": ("messages_unroutable", "Messages that no queue took."),
    "delivered": ("messages_delivered", "Messages pushed to consumers."),
    "redelivered": ("messages_redelivered", "Messages pushed to consumers not for the first time."),
    "got": ("messages_got", "Messages fetched with basic.get."),
    "acked": ("messages_acked", "Deliveries that were acknowledged."),
    "commits": ("commits", "Group commits: each is one sync of the disk."),
    "committed_messages": ("committed_messages", "Messages made durable by group commits."),
    "committed_bytes": ("committed_bytes", "Bytes appended to the log."),
    "commit_seconds": ("commit_seconds", "Time from handing a batch to the log until it is durable."),
    "commit_messages": ("commit_messages", "Messages made durable by one group commit."),
    "blobs_read": ("blobs_read_back", "Blobs read because somebody needs what is in them."),
    "copies_read": ("messages_read_back", "Messages brought back into memory by that."),
    "window_misses": ("window_misses", "Times that a queue's head had to be read before it could go out."),
    "checkpoints": ("checkpoints", "Checkpoints written."),
    "checkpointed_bytes": ("checkpointed_bytes", "Bytes of all checkpoints written."),
    "checkpoint_seconds": ("checkpoint_seconds", "Time from a checkpoint's first step until it is durable."),
    "blobs_dropped": ("blobs_dropped", "Blobs dropped because nothing in them was needed any more."),
    "blobs_cleaned": ("blobs_cleaned", "Blobs of which little was needed, and that was moved."),
    "copies_moved": ("messages_moved", "Messages in queues that were moved to another blob by that."),
}
"""For every field of `Counters`: the metric's name without `leveret_` and `_total`, and what it counts."""

LATEST: Mapping[str, tuple[str, str]] = {
    "checkpoint_bytes": ("checkpoint_bytes", "Size of the newest checkpoint."),
    "checkpoint_at_s": ("checkpoint_timestamp_seconds", "When it was written; 0: before the start."),
    "recovery_s": ("recovery_seconds", "How long the recovery at the start took."),
    "recovery_blobs": ("recovery_blobs", "Blobs after the checkpoint that it replayed."),
    "recovery_bytes": ("recovery_bytes", "Bytes of these blobs."),
    "recovery_records": ("recovery_records", "Records in these blobs."),
    "recovery_messages": ("recovery_messages", "Messages in queues that it found."),
}
"""For every field of `Latest`: the metric's name without `leveret_`, and what it says."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a scrape found before it is put into words."""

    queues: int
    exchanges: int
    sums: Mapping[str, int]  # over all queues, of GAUGES
    log: EngineStats | None
    is_ready: bool


class Metrics(Collector):
    """One per broker; the HTTP server owns it."""

    def __init__(self, broker: BrokerFacts, lag: LoopLag) -> None:
        self._broker = broker
        self._lag = lag
        self._snapshot: Snapshot | None = None  # of the scrape that is under way
        self._window_hits = 0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    async def aggregated(self, log: EngineStats | None, is_ready: bool) -> bytes:
        """The whole broker's metrics, in Prometheus's text format."""
        sums = dict.fromkeys(GAUGES, 0)
        queues = 0
        async for _, queue in walk(self._broker.vhosts):
            queues += 1
            for name, (_, read) in GAUGES.items():
                sums[name] += read(queue)
        exchanges = sum(len(vhost.exchanges) for vhost in self._broker.vhosts.values())
        self._snapshot = Snapshot(queues, exchanges, sums, log, is_ready)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """`generate_latest` calls this."""
        yield from self._counted()
        yield from self._alarms()
        yield from self._backlog()
        yield from self._loop()
        if self._snapshot is not None:
            yield from self._gauges(self._snapshot)

    def _counted(self) -> Iterator[Metric]:
        counters = self._broker.counters
        for counted in fields(counters):
            name, explanation = COUNTED[counted.name]
            value = getattr(counters, counted.name)
            if isinstance(value, Histogram):
                yield _histogram(name, explanation, value)
            else:
                yield CounterMetricFamily(f"leveret_{name}", explanation, value)

    def _alarms(self) -> Iterator[Metric]:
        alarms = self._broker.alarms
        active = GaugeMetricFamily(
            "leveret_alarm_active", "1 while this is short and publishers are blocked.", labels=["resource"]
        )
        active.add_metric(["memory"], int(alarms.memory_is_low))
        active.add_metric(["disk"], int(alarms.disk_is_low))
        yield active
        limits = alarms.limits
        for name, explanation, value in (
            ("memory_used_bytes", "Memory that counts for the memory alarm.", alarms.memory_bytes),
            ("memory_limit_bytes", "The memory alarm goes off above it.", limits.memory_bytes),
            ("disk_free_bytes", "Room for the log: on the disk and inside its file.", alarms.disk_free_bytes),
            ("disk_free_limit_bytes", "The disk alarm goes off below it.", limits.disk_free_bytes),
            ("connections_blocked", "Connections that are not read, for an alarm.", alarms.waiting_count),
        ):
            yield GaugeMetricFamily(f"leveret_{name}", explanation, value)

    def _backlog(self) -> Iterator[Metric]:
        """What lies on the disk, and what of it is in memory."""
        broker = self._broker
        counters, blobs, windows = broker.counters, broker.journal.blobs, broker.windows
        # Between a miss and its delivery the difference would fall for a moment.
        hits = counters.delivered + counters.got - counters.window_misses
        self._window_hits = max(hits, self._window_hits)
        yield CounterMetricFamily(
            "leveret_window_hits", "Messages handed out whose queue had them in memory.", self._window_hits
        )
        gauges: list[tuple[str, str, float]] = [
            ("window_bytes", "Memory that ready messages take.", windows.total),
            (
                "window_is_tight",
                "1 while that is too much and queues keep very little each.",
                windows.is_tight,
            ),
            ("log_live_bytes", "Bytes of the log that are needed, about.", blobs.live_size),
            ("log_dead_bytes", "Bytes of blobs that the next checkpoint drops.", blobs.dead_size),
        ]
        for name, (metric, explanation) in LATEST.items():
            gauges.append((metric, explanation, getattr(broker.latest, name)))
        for name, explanation, value in gauges:
            yield GaugeMetricFamily(f"leveret_{name}", explanation, value)

    def _loop(self) -> Iterator[Metric]:
        lag = self._lag
        yield _histogram("loop_lag_seconds", "How late the loop ran its timers.", lag.lags)
        yield _histogram(
            "loop_own_lag_seconds", "The same, less the time in which the machine ran others.", lag.own_lags
        )
        worst = GaugeMetricFamily(
            "leveret_loop_worst_lag_seconds",
            "The largest own lag since the start, and its parts.",
            labels=["part"],
        )
        worst.add_metric(["own"], lag.worst.own_s)
        worst.add_metric(["cpu"], lag.worst.cpu_s)
        worst.add_metric(["starved"], lag.worst.starved_s)
        yield worst
        yield CounterMetricFamily(
            "leveret_loop_major_faults",
            "Pages that the loop itself waited for the disk for.",
            _major_faults(),
        )

    def _gauges(self, now: Snapshot) -> Iterator[Metric]:
        counters = self._broker.counters
        gauges: list[tuple[str, str, float]] = [
            ("ready", "1 while the broker accepts connections.", int(now.is_ready)),
            ("connections", "Open connections.", counters.connections_opened - counters.connections_closed),
            ("channels", "Open channels.", counters.channels_opened - counters.channels_closed),
            (
                "producers",
                "Producers of the native protocol whose tags are known.",
                len(self._broker.producers),
            ),
            ("queues", "Queues.", now.queues),
            ("exchanges", "Exchanges.", now.exchanges),
            *((name, GAUGES[name][0], value) for name, value in now.sums.items()),
            (
                "loop_lag_seconds_max",
                "Most that a timer was late, last 1-2 minutes.",
                self._lag.max_s,
            ),
            ("anonymous_memory_bytes", "Memory without the log's mapped pages.", _anonymous_memory_bytes()),
        ]
        if now.log is not None:
            gauges += [
                ("log_bytes", "Bytes that the log takes in its file.", now.log.log_bytes),
                ("log_file_bytes", "Size of that file.", now.log.file_bytes),
                (
                    "log_file_free_bytes",
                    "Bytes of it that are free to use again.",
                    max(0, now.log.file_bytes - now.log.used_bytes),
                ),
                (
                    "log_free_bytes",
                    "Room for the log: on the disk and inside its file, without the reserve.",
                    now.log.free_bytes,
                ),
                ("log_blobs", "Blobs in the log.", now.log.blobs),
            ]
            yield CounterMetricFamily(
                "leveret_log_syncs", "Syncs of the disk: commits, checkpoints, drops.", now.log.commits
            )
        for name, explanation, value in gauges:
            yield GaugeMetricFamily(f"leveret_{name}", explanation, value)


def _histogram(name: str, explanation: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        f"leveret_{name}", explanation, buckets=list(histogram.buckets()), sum_value=histogram.total
    )


def _major_faults() -> int:
    """Of the calling thread, which is the loop's."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


def _anonymous_memory_bytes() -> int:
    """The resident size of an LMDB process counts pages of the file that the kernel may drop at any time."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
