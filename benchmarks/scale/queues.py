"""Ten thousand queues with something in each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .broker import MB, STARTING, Broker
from .consuming import Consumed, drain
from .publishing import Load, Published, declare, declare_at_once, publish
from .stage import Scenario, Stage, option, processes
from .watch import Watch


@dataclass(frozen=True)
class Queues(Scenario):
    """Many queues: to declare them, to keep them in memory, to start with them."""

    queues: int = option(10_000, "how many durable queues")
    each: int = option(100, "how many messages in each, published round robin")
    size: int = option(1024, "bytes of a body")
    window: int = option(1000, "how many publishes may wait for their confirm")
    sample: int = option(200, "how many of the queues are drained")
    declares: float = option(1000, "declares per second of one client")
    memory_mb: float = option(300, "RssAnon")
    ready_s: float = option(5, "from the start of the process to its ready line, after kill -9")

    @property
    def disk_mb(self) -> float:
        return self.queues * self.each * (self.size + 150) * 1.1 / MB

    def run(self, stage: Stage) -> None:
        report = stage.report
        queues = tuple(f"queue-{number}" for number in range(self.queues))
        with Broker(stage.directory) as broker:
            with Watch(broker) as watch:
                report.phase(f"declare {self.queues:,} queues")
                self._declare(stage, broker, queues)
                broker.end_phase("declare")
                load = Load(broker.port, queues, self.queues * self.each, self.size, stage.progress().path)
                report.phase(f"publish {load.messages:,} messages")
                self._publish(stage, load)
            self._memory(stage, watch, "while publishing")
            broker.kill("publish")
            report.phase("start after kill -9")
            with Watch(broker) as watch:
                report.at_most("ready after kill -9", broker.start(), self.ready_s, "s", about_time=True)
                self._drain(stage, replace(load, port=broker.port))
            self._memory(stage, watch, "after kill -9")
            broker.end_phase("drain")
            broker.lag.report(report, self.lag_ms, STARTING, stage.machine.stops())

    def _declare(self, stage: Stage, broker: Broker, queues: Sequence[str]) -> None:
        """A tenth one by one, the others without waiting."""
        report = stage.report
        one_by_one = max(1, len(queues) // 10)
        began = time.monotonic()
        declare(broker.port, queues[:one_by_one])
        between = time.monotonic()
        declare_at_once(broker.port, queues[one_by_one:] or queues[-1:])
        ended = time.monotonic()
        report.note("declares, each waiting for its answer", f"{one_by_one / (between - began):,.0f} /s")
        report.at_least(
            "declares of one client, nowait",
            max(1, len(queues) - one_by_one) / (ended - between),
            self.declares,
            "/s",
            about_time=True,
        )

    def _publish(self, stage: Stage, load: Load) -> None:
        report = stage.report
        with processes(1) as pool:
            published: Published = pool.submit(publish, load, self.window).result()
        report.holds("no publish is refused", f"{published.refused} were" if published.refused else "")
        report.note("publish", f"{load.messages / published.seconds:,.0f} /s")

    def _drain(self, stage: Stage, load: Load) -> None:
        count = min(self.sample, self.queues)
        sample = sorted({round(number * (self.queues - 1) / max(1, count - 1)) for number in range(count)})
        stage.report.phase(f"drain {len(sample)} queues")
        with processes(1) as pool:
            numbers = dict.fromkeys(sample, range(self.each))
            consumed: Consumed = pool.submit(drain, load, numbers).result()
        stage.report.holds(f"{len(sample)} of the queues have all they got, in order", consumed.problem)

    def _memory(self, stage: Stage, watch: Watch, when: str) -> None:
        stage.report.at_most(
            f"RssAnon {when}",
            watch.peak.anonymous,
            self.memory_mb,
            "MB",
            why=f"VmRSS {watch.peak.resident:,.0f}",
        )
