"""Python clients as contestants: Leveret's SDK on Leveret beside aio-pika on RabbitMQ (sdk.py)."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import sdk
from .runs import Run
from .scenarios import Scenario
from .subject import Timing

IN_FLIGHT = PREFETCH = 500


@dataclass(frozen=True)
class Program(Scenario):
    """One program publishes from many tasks, one consumes; both wait for what the broker says."""


@dataclass(frozen=True)
class Library:
    """A client library on a broker."""

    client: sdk.Contestant
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.client.name

    def run(self, scenario: Scenario, timing: Timing, directory: Path, watch: Callable[[], None]) -> Run:
        options = Namespace(
            seconds=timing.seconds, size=scenario.size, in_flight=IN_FLIGHT, prefetch=PREFETCH
        )
        found = sdk.measure(self.client, directory, options, self.env)
        return Run(
            scenario.name,
            self.name,
            found.rate,
            broker_cpu_s=found.broker_us * found.messages / 1e6,
            broker_messages=found.messages,
            publisher_us=found.publisher_us,
            consumer_us=found.consumer_us,
            messages=found.messages,
        )
