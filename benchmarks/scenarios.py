"""What is measured, one row per load. All of it is AMQP 0-9-1: every broker gets the same bytes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """A load of `publishers` and `consumers`, spread over `queues` in turn."""

    name: str
    about: str
    publishers: int = 1
    consumers: int = 1
    queues: int = 1
    persistent: bool = True  # durable queues and persistent messages; else transient ones
    window: int = 500  # how many publishes may wait for their confirm; 0: publish without confirms
    ack_every: int = 50  # one ack (multiple) per so many deliveries; 0: consume without acks
    prefetch: int = 500


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("durable", "one publisher, one consumer, persistent, confirmed"),
        Scenario("durable-4", "four such pairs on four queues", publishers=4, consumers=4, queues=4),
        Scenario("one-by-one", "as durable, but each publish waits for its confirm", window=1),
        Scenario("backlog", "persistent, confirmed, and nobody consumes", consumers=0),
        Scenario("transient", "one pair, transient, no confirms", persistent=False, window=0),
    )
}
