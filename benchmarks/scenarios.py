"""What is measured: one row per load. Every row can be put on AMQP 0-9-1 and on the native framing."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Scenario:
    """A load with a name."""

    name: str
    about: str
    size: int = KIB  # bytes of a body, 16 at least


@dataclass(frozen=True)
class Flow(Scenario):
    """Messages pass from publishers through queues to consumers, for a while.

    Without an exchange a publisher takes turns between its share of the queues. A fanout exchange gives a
    copy to each queue; a topic exchange has `bindings` keys for each, and the publishers use one of them.
    """

    publishers: int = 1
    queues: int = 1
    consumers: int = 1  # each with its share of the queues; a queue has one consumer
    exchange: str = ""  # fanout, topic
    bindings: int = 1
    persistent: bool = True  # durable queues and persistent messages; else transient ones
    confirms: bool = True
    window: int = 500  # how many publishes of a publisher may wait for their confirm
    batch: int = 16  # publishes in a frame, where the wire has batches
    rate: float = 0  # messages per second of all publishers; 0: as many as they can
    ack_every: int = 50  # one ack (multiple) for so many deliveries; 1: each by itself; 0: no acks
    prefetch: int = 500
    waiting: int = 0  # how many messages are in the queues before it begins


@dataclass(frozen=True)
class Backlog(Scenario):
    """Confirmed messages fill a durable queue; then a consumer drains it."""

    messages: int = 1_000_000
    window: int = 500
    batch: int = 16
    ack_every: int = 50
    prefetch: int = 500


@dataclass(frozen=True)
class Churn(Scenario):
    """Clients that connect, open a channel, publish one confirmed message, and leave."""

    clients: int = 4


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Flow("pair", "one publisher, one consumer, durable, 500 confirms in flight, an ack for 50"),
        Flow("pairs-4", "four such pairs on four queues", publishers=4, queues=4, consumers=4),
        Flow("small", "a pair; 16 B, durable, confirmed, each acked by itself", size=16, ack_every=1),
        Flow("transient", "a pair; transient, no confirms", persistent=False, confirms=False),
        Flow("batches", "a pair; 2,000 in flight: 125 batches of 16", window=2000, prefetch=2000),
        Flow("one-by-one", "a pair; each publish waits for its confirm", window=1),
        Flow("latency", "a pair; 5,000 messages a second, due at fixed times", rate=5000),
        Flow("fan-out", "one publisher to 50 queues", queues=50, consumers=50, exchange="fanout"),
        Flow("fan-in", "50 publishers to one queue", publishers=50, window=50),
        Flow("queues-1000", "one pair, 1,000 queues in turn", queues=1000),
        Flow("topic", "100 queues with 20 topic bindings each", queues=100, exchange="topic", bindings=20),
        Flow("large", "a pair; 1 MiB", size=MIB, window=8, ack_every=1, prefetch=8),
        Backlog("backlog", "1,000,000 durable messages are published, then consumed"),
        Churn("churn", "clients that connect, publish one confirmed message, and leave", size=16),
    )
}
