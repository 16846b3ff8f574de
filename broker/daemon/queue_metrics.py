"""What is read of queues for metrics: a table of gauges and one of counters, and a walk that does not hold up
the loop.

`/metrics/per-object` shows both tables with a series per queue. `/metrics` sums the gauges only: a sum of
counters would fall when a queue is deleted, which Prometheus takes for a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from ..queues.dead_letter import DeathReason

QUEUES_PER_STEP = 500  # after which others run: a millisecond or so


class QueueFacts(Protocol):
    """What is read of a queue."""

    @property
    def name(self) -> str: ...
    @property
    def message_count(self) -> int: ...
    @property
    def ready_bytes(self) -> int: ...
    @property
    def cold_count(self) -> int: ...
    @property
    def index_bytes(self) -> int: ...
    @property
    def unacked_count(self) -> int: ...
    @property
    def consumer_count(self) -> int: ...
    @property
    def enqueued_total(self) -> int: ...
    @property
    def delivered_total(self) -> int: ...
    @property
    def redelivered_total(self) -> int: ...
    @property
    def got_total(self) -> int: ...
    @property
    def settled_total(self) -> int: ...
    @property
    def deaths_total(self) -> Mapping[DeathReason, int]: ...


class VhostFacts(Protocol):
    """What is read of a vhost."""

    @property
    def name(self) -> str: ...
    @property
    def queues(self) -> Mapping[str, QueueFacts]: ...
    @property
    def exchanges(self) -> Mapping[str, object]: ...


Read = Callable[[QueueFacts], int]

GAUGES: Mapping[str, tuple[str, Read]] = {
    "messages_ready": ("Messages waiting for a consumer.", lambda queue: queue.message_count),
    "messages_ready_bytes": ("Size of the waiting bodies.", lambda queue: queue.ready_bytes),
    "messages_on_disk_only": ("Of the waiting ones, those not in memory.", lambda queue: queue.cold_count),
    "index_bytes": ("Memory that the index of those takes.", lambda queue: queue.index_bytes),
    "messages_unacked": ("Messages delivered and not yet acknowledged.", lambda queue: queue.unacked_count),
    "consumers": ("Consumers.", lambda queue: queue.consumer_count),
}
"""`leveret_NAME` is the sum over all queues, `leveret_queue_NAME` has a series per queue."""

_COUNTERS: Mapping[str, tuple[str, Read]] = {
    "messages_enqueued_total": ("Messages that were routed here.", lambda queue: queue.enqueued_total),
    "messages_delivered_total": ("Messages pushed to consumers.", lambda queue: queue.delivered_total),
    "messages_redelivered_total": ("Pushed not for the first time.", lambda queue: queue.redelivered_total),
    "messages_got_total": ("Messages fetched with basic.get.", lambda queue: queue.got_total),
    "messages_settled_total": ("Messages acked, or sent without ack.", lambda queue: queue.settled_total),
}


async def walk(vhosts: Mapping[str, VhostFacts]) -> AsyncIterator[tuple[VhostFacts, QueueFacts]]:
    """All queues with their vhosts. Others run in between, so queues may come and go meanwhile."""
    step = 0
    for vhost in list(vhosts.values()):
        for queue in list(vhost.queues.values()):
            yield vhost, queue
            step += 1
            if step % QUEUES_PER_STEP == 0:
                await asyncio.sleep(0)


async def per_queue_text(vhosts: Mapping[str, VhostFacts]) -> AsyncIterator[bytes]:
    """A series per queue, in Prometheus's text format. It may be large, so it comes in pieces, and others run
    between them.
    """
    queues = [
        (f'vhost="{_escape(vhost.name)}",queue="{_escape(queue.name)}"', queue)
        async for vhost, queue in walk(vhosts)
    ]
    steps = [queues[first : first + QUEUES_PER_STEP] for first in range(0, len(queues), QUEUES_PER_STEP)]
    for name, (explanation, read) in {**GAUGES, **_COUNTERS}.items():
        yield _heading(name, explanation)
        for step in steps:
            yield "".join(
                [f"leveret_queue_{name}{{{labels}}} {read(queue)}\n" for labels, queue in step]
            ).encode()
            await asyncio.sleep(0)
    yield _heading("messages_dead_total", "Messages given up, dead-lettered or not.")
    for step in steps:
        yield "".join(
            [
                f'leveret_queue_messages_dead_total{{{labels},reason="{reason}"}} {count}\n'
                for labels, queue in step
                for reason, count in queue.deaths_total.items()
            ]
        ).encode()
        await asyncio.sleep(0)


def _heading(name: str, explanation: str) -> bytes:
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"# HELP leveret_queue_{name} {explanation}\n# TYPE leveret_queue_{name} {kind}\n".encode()


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
