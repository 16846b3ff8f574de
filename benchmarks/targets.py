"""How fast Leveret wants to be beside RabbitMQ 3.10 on the same machine, and how little it wants to take."""

from dataclasses import dataclass

from .load.wires import AMQP, NATIVE

SDK = "sdk"
"""Not a raw wire: Leveret's Python client on Leveret beside aio-pika on RabbitMQ (sdk.py)."""


@dataclass(frozen=True)
class Figure:
    """A number of a run that is compared."""

    name: str  # of the attribute
    unit: str
    is_cost: bool = False
    """Less is better: the ratio is theirs to ours."""


RATE = Figure("rate", "/s")
P50 = Figure("deliver_p50_ms", "ms", is_cost=True)
P99 = Figure("deliver_p99_ms", "ms", is_cost=True)
MEMORY = Figure("rss_mb", "MB", is_cost=True)
CPU = Figure("broker_cpu_s_per_million", "CPU s", is_cost=True)


@dataclass(frozen=True)
class Target:
    """Times as good as RabbitMQ, whose AMQP 0-9-1 is the measure for the native rows, too."""

    workload: str
    scenario: str
    figure: Figure
    least: float
    goal: float
    wire: str = AMQP  # of Leveret


TARGETS = (
    Target("AMQP, 1 pair, 1 KiB durable, confirms 500 in flight, ack every 50", "pair", RATE, 4, 6),
    Target("AMQP, 4 pairs on 4 queues, same", "pairs-4", RATE, 3.5, 5),
    Target("AMQP, 16 B durable, confirms, ack each", "small", RATE, 3.5, 5),
    Target("AMQP, transient, no confirms", "transient", RATE, 2.5, 4),
    Target("AMQP, fill 1 M backlog, confirmed", "backlog", RATE, 5, 8),
    Target("AMQP, one publisher waiting for each confirm", "one-by-one", RATE, 1, 1.3),
    Target("latency at 5,000 msg/s, durable, confirmed: p50", "latency", P50, 3, 5),
    Target("latency at 5,000 msg/s, durable, confirmed: p99", "latency", P99, 3, 5),
    Target("fan-out 1 to 50 queues, 1 KiB durable", "fan-out", RATE, 2, 4),
    Target("native, 1 pair, durable, SDK on both sides (RabbitMQ: aio-pika)", SDK, RATE, 10, 15, SDK),
    Target("native, raw generator, durable, batches of 16", "batches", RATE, 8, 12, NATIVE),
    Target("RSS after 1 M backlog", "backlog", MEMORY, 10, 30),
    Target("CPU seconds of the broker per million messages, 1 pair", "pair", CPU, 3, 5),
)
