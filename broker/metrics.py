"""Prometheus metrics: plain integers of the domain, put into words when somebody scrapes.

Nothing here is called on a hot path, and the domain holds no Prometheus object. A scrape runs on the loop
that serves clients, so every walk over all queues lets others run after `QUEUES_PER_STEP`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from leveret.storage.engine import EngineStats

from .counters import Counters
from .histogram import Histogram
from .loop_lag import LoopLag

QUEUES_PER_STEP = 500  # a millisecond or so


class QueueFacts(Protocol):
    """What is read of a queue."""

    @property
    def name(self) -> str: ...
    @property
    def message_count(self) -> int: ...
    @property
    def ready_bytes(self) -> int: ...
    @property
    def unacked_count(self) -> int: ...
    @property
    def consumer_count(self) -> int: ...


class VhostFacts(Protocol):
    """What is read of a vhost."""

    @property
    def name(self) -> str: ...
    @property
    def queues(self) -> Mapping[str, QueueFacts]: ...
    @property
    def exchanges(self) -> Mapping[str, object]: ...


class BrokerFacts(Protocol):
    """What is read of the broker."""

    @property
    def counters(self) -> Counters: ...
    @property
    def vhosts(self) -> Mapping[str, VhostFacts]: ...


COUNTED: Mapping[str, tuple[str, str]] = {
    "connections_opened": ("connections_opened", "Connections that logged in."),
    "connections_closed": ("connections_closed", "Connections that ended after they had logged in."),
    "channels_opened": ("channels_opened", "Channels that were opened."),
    "channels_closed": ("channels_closed", "Channels that were closed."),
    "published": ("messages_published", "Messages that publishers sent."),
    "confirmed": ("messages_confirmed", "Publishes that were answered with ack or nack."),
    "returned": ("messages_returned", "Mandatory messages that no queue took and that went back."),
    "unroutable": ("messages_unroutable", "Messages that no queue took."),
    "delivered": ("messages_delivered", "Messages pushed to consumers."),
    "got": ("messages_got", "Messages fetched with basic.get."),
    "acked": ("messages_acked", "Deliveries that were acknowledged."),
    "commits": ("commits", "Group commits: each is one sync of the disk."),
    "committed_messages": ("committed_messages", "Messages made durable by group commits."),
    "committed_bytes": ("committed_bytes", "Bytes appended to the log."),
}
"""For every field of `Counters`: the metric's name without `leveret_` and `_total`, and what it counts."""

PER_QUEUE: Mapping[str, tuple[str, Callable[[QueueFacts], int]]] = {
    "messages_ready": ("Messages waiting for a consumer.", lambda queue: queue.message_count),
    "messages_ready_bytes": ("Size of the waiting bodies.", lambda queue: queue.ready_bytes),
    "messages_unacked": ("Messages delivered and not yet acknowledged.", lambda queue: queue.unacked_count),
    "consumers": ("Consumers.", lambda queue: queue.consumer_count),
}
"""Gauges of a queue: `leveret_NAME` is the sum over all queues, `leveret_queue_NAME` has a series per
queue."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a scrape found before it is put into words."""

    queues: int
    exchanges: int
    sums: Mapping[str, int]  # of PER_QUEUE
    log: EngineStats | None
    is_ready: bool


class Metrics(Collector):
    """One per broker; the HTTP server owns it."""

    def __init__(self, broker: BrokerFacts, lag: LoopLag) -> None:
        self._broker = broker
        self._lag = lag
        self._snapshot: Snapshot | None = None  # of the scrape that is under way
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    async def aggregated(self, log: EngineStats | None, is_ready: bool) -> bytes:
        """The whole broker's metrics, in Prometheus's text format."""
        sums = dict.fromkeys(PER_QUEUE, 0)
        queues = 0
        async for _, queue in self._walk():
            queues += 1
            for name, (_, read) in PER_QUEUE.items():
                sums[name] += read(queue)
        exchanges = sum(len(vhost.exchanges) for vhost in self._broker.vhosts.values())
        self._snapshot = Snapshot(queues, exchanges, sums, log, is_ready)
        return generate_latest(self._registry)

    async def per_queue(self) -> bytes:
        """A series per queue, in Prometheus's text format."""
        series: dict[str, list[str]] = {name: [] for name in PER_QUEUE}
        async for vhost, queue in self._walk():
            labels = f'{{vhost="{_escape(vhost)}",queue="{_escape(queue.name)}"}}'
            for name, (_, read) in PER_QUEUE.items():
                series[name].append(f"leveret_queue_{name}{labels} {read(queue)}\n")
        text = []
        for name, (explanation, _) in PER_QUEUE.items():
            text += [f"# HELP leveret_queue_{name} {explanation}\n# TYPE leveret_queue_{name} gauge\n"]
            text += series[name]
        return "".join(text).encode()

    def collect(self) -> Iterator[Metric]:
        """`generate_latest` calls this."""
        yield from self._counted()
        if self._snapshot is not None:
            yield from self._gauges(self._snapshot)

    async def _walk(self) -> AsyncIterator[tuple[str, QueueFacts]]:
        """All queues with their vhosts' names; others run in between, so queues may come and go meanwhile."""
        step = 0
        for vhost in list(self._broker.vhosts.values()):
            for queue in list(vhost.queues.values()):
                yield vhost.name, queue
                step += 1
                if step % QUEUES_PER_STEP == 0:
                    await asyncio.sleep(0)

    def _counted(self) -> Iterator[Metric]:
        counters = self._broker.counters
        for counted in fields(counters):
            name, explanation = COUNTED[counted.name]
            value = getattr(counters, counted.name)
            if isinstance(value, Histogram):
                yield HistogramMetricFamily(
                    f"leveret_{name}", explanation, buckets=list(value.buckets()), sum_value=value.total
                )
            else:
                yield CounterMetricFamily(f"leveret_{name}", explanation, value)

    def _gauges(self, now: Snapshot) -> Iterator[Metric]:
        counters = self._broker.counters
        gauges: list[tuple[str, str, float]] = [
            ("ready", "1 while the broker accepts connections.", int(now.is_ready)),
            ("connections", "Open connections.", counters.connections_opened - counters.connections_closed),
            ("channels", "Open channels.", counters.channels_opened - counters.channels_closed),
            ("queues", "Queues.", now.queues),
            ("exchanges", "Exchanges.", now.exchanges),
            *((name, PER_QUEUE[name][0], value) for name, value in now.sums.items()),
            (
                "loop_lag_seconds_max",
                "Most that a timer was late, last 1-2 minutes.",
                self._lag.max_s,
            ),
            ("anonymous_memory_bytes", "Memory without the log's mapped pages.", _anonymous_memory_bytes()),
        ]
        if now.log is not None:
            gauges += [
                ("log_bytes", "Bytes that the log takes in its file.", now.log.used_bytes),
                ("log_free_bytes", "Bytes of the log's file that are free to use again.", now.log.free_bytes),
                ("log_blobs", "Blobs in the log.", now.log.blobs),
            ]
        for name, explanation, value in gauges:
            yield GaugeMetricFamily(f"leveret_{name}", explanation, value)


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _anonymous_memory_bytes() -> int:
    """The resident size of an LMDB process counts pages of the file that the kernel may drop at any time."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
