"""Ten million messages in one queue: memory, speed, starts, and everything comes out again."""

from dataclasses import dataclass, replace

from . import plain_file
from .broker import MB, STARTING, Broker
from .consuming import Consumed, drain, first_delivery
from .publishing import Load, Published, declare, message_count, publish
from .stage import Scenario, Stage, option, processes
from .watch import Watch

QUEUE = "backlog"


@dataclass(frozen=True)
class Backlog(Scenario):
    """A backlog costs disk, not memory, speed or time to start."""

    messages: int = option(10_000_000, "how many messages wait")
    size: int = option(1024, "bytes of a body")
    window: int = option(1000, "how many publishes may wait for their confirm")
    memory_mb: float = option(200, "how far RssAnon may be above that of the empty broker")
    last_percent: float = option(70, "the rate of the last tenth, in percent of that of the first")
    ready_s: float = option(2, "from the start of the process to its ready line")
    first_s: float = option(1, "from the ready line to the first delivery")

    @property
    def disk_mb(self) -> float:
        return self.messages * (self.size + 150) * 1.1 / MB

    def run(self, stage: Stage) -> None:
        report = stage.report
        with Broker(stage.directory) as broker:
            declare(broker.port, [QUEUE])
            load = Load(broker.port, (QUEUE,), self.messages, self.size, stage.progress().path)
            empty = broker.memory()
            report.note("empty broker", f"RssAnon {empty.anonymous:.1f} MB, VmRSS {empty.resident:.1f} MB")
            self._publish(stage, broker, load)
            with Watch(broker) as watch:
                broker.kill("publish")
                self._start(stage, broker, "kill -9")
                seconds = broker.stop("first delivery after kill -9")
                report.note("stop after SIGTERM", f"{seconds:.2f} s")
                self._start(stage, broker, "SIGTERM")
            self._memory(stage, watch, empty.anonymous, "over the restarts")
            broker.end_phase("first delivery after SIGTERM")
            self._drain(stage, broker, replace(load, port=broker.port), empty.anonymous)
            broker.end_phase("drain")
            broker.lag.report(report, self.lag_ms, STARTING, stage.machine.stops())
        self._write_plain_file(stage)

    def _write_plain_file(self, stage: Stage) -> None:
        """Last: a machine that takes back the memory of so much can be slow for seconds."""
        size = self.messages * self.size
        stage.report.phase(f"write a plain file of {size / MB:,.0f} MB")
        percent = plain_file.last_percent(stage.directory, size)
        stage.report.note("a plain file of that size, last tenth", f"{percent:.0f} % of the first")

    def _publish(self, stage: Stage, broker: Broker, load: Load) -> None:
        report = stage.report
        report.phase(f"publish {self.messages:,} messages of {self.size} bytes")
        empty_mb = broker.memory().anonymous
        with Watch(broker) as watch, processes(1) as pool:
            published: Published = pool.submit(publish, load, self.window).result()
        self._memory(stage, watch, empty_mb, "while publishing")
        first, last = published.part_seconds[0], published.part_seconds[-1]
        per_part = self.messages / len(published.part_seconds)
        report.note("publish", f"{self.messages / published.seconds:,.0f} /s")
        waits = published.confirm_ms
        report.note(
            f"confirm of up to {self.window} publishes",
            f"p50 {waits[len(waits) // 2]:.1f} ms, max {waits[-1]:.1f} ms",
        )
        report.holds("no publish is refused", f"{published.refused} were" if published.refused else "")
        report.at_least(
            "publish rate of the last tenth",
            100 * first / last,
            self.last_percent,
            "% of the first",
            about_time=True,
            why=f"{per_part / first:,.0f} and {per_part / last:,.0f} /s",
        )
        report.note("data directory", f"{broker.disk_bytes() / MB:,.0f} MB")

    def _start(self, stage: Stage, broker: Broker, after: str) -> None:
        report = stage.report
        report.phase(f"start after {after}")
        report.at_most(f"ready after {after}", broker.start(), self.ready_s, "s", about_time=True)
        first = first_delivery(broker.port, QUEUE)
        report.at_most(f"first delivery after {after}", first, self.first_s, "s", about_time=True)

    def _drain(self, stage: Stage, broker: Broker, load: Load, empty_mb: float) -> None:
        report = stage.report
        report.phase("drain")
        with Watch(broker) as watch, processes(1) as pool:
            consumed: Consumed = pool.submit(drain, load, load.numbers()).result()
        self._memory(stage, watch, empty_mb, "while draining")
        report.holds(f"all {self.messages:,} messages come out, whole and in order", consumed.problem)
        left = message_count(broker.port, QUEUE)
        report.holds("then the queue is empty", f"{left} messages are left" if left else "")
        report.note("drain", f"{consumed.messages / consumed.seconds:,.0f} /s")
        report.note("data directory after that", f"{broker.disk_bytes() / MB:,.0f} MB")

    def _memory(self, stage: Stage, watch: Watch, empty_mb: float, when: str) -> None:
        stage.report.at_most(
            f"RssAnon {when}, above the empty broker's",
            watch.peak.anonymous - empty_mb,
            self.memory_mb,
            "MB",
            why=f"VmRSS {watch.peak.resident:,.0f}",
        )
