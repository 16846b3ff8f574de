"""Old messages that nobody acks, while millions of others come and go: they must not hold the disk."""

import time
from abc import abstractmethod
from dataclasses import dataclass, replace

from .broker import MB, STARTING, Broker
from .consuming import Consumed, Keep, consume_but, drain
from .progress import CONFIRMED, FINISHED
from .publishing import Load, Published, declare, message_count, publish
from .stage import Scenario, Stage, option, processes
from .watch import SAMPLE_S, Watch

WRITTEN = "leveret_committed_bytes_total"


@dataclass(frozen=True)
class Survival(Scenario):
    """Messages pass through queues in which some old ones stay."""

    messages: int = option(5_000_000, "how many messages pass, over all queues")
    queues: int = option(11, "over how many queues they go")
    size: int = option(1024, "bytes of a body")
    window: int = option(1000, "how many publishes may wait for their confirm")
    ahead: int = option(10_000, "how far the publisher may be ahead of the consumer")
    disk_over_mb: float = option(256, "how far the disk use may be above twice the live bytes")

    @property
    @abstractmethod
    def keep(self) -> Keep: ...

    @property
    def disk_mb(self) -> float:
        kept = self.messages // self.keep.every
        return 2 * (kept + self.ahead) * self.size / MB + 2 * self.disk_over_mb

    def run(self, stage: Stage) -> None:
        report = stage.report
        queues = tuple(f"queue-{number}" for number in range(self.queues))
        with Broker(stage.directory) as broker:
            declare(broker.port, queues)
            load = Load(broker.port, queues, self.messages, self.size, stage.progress().path)
            self._pass_through(stage, broker, load)
            report.phase("start after kill -9")
            drained = stage.progress("drained")
            drained[CONFIRMED] = self.keep.total(load.numbers())
            with Watch(broker, lambda: drained.live * self.size) as watch:
                report.note("ready after kill -9", f"{broker.start():.2f} s")
                report.phase("drain what was kept")
                self._drain(stage, replace(load, port=broker.port, progress=drained.path))
            self._disk(stage, watch, "after kill -9")
            broker.end_phase("drain what was kept")
            broker.lag.report(report, self.lag_ms, STARTING, stage.machine.stops())

    def _pass_through(self, stage: Stage, broker: Broker, load: Load) -> None:
        report, keep = stage.report, self.keep
        kept = keep.total(load.numbers())
        report.phase(f"{self.messages:,} messages through {self.queues} queues; {kept:,} stay")
        progress = stage.progress()
        before = broker.metrics()[WRITTEN]
        with processes(2) as pool:
            with Watch(broker, lambda: progress.live * self.size) as watch:
                consumer = pool.submit(consume_but, load, keep)
                publisher = pool.submit(publish, load, self.window, self.ahead)
                while not (progress[FINISHED] or consumer.done()):
                    time.sleep(SAMPLE_S)
            written_mb = (broker.metrics()[WRITTEN] - before) / MB
            broker.kill("pass through")  # while a consumer holds what was kept
            consumed: Consumed = consumer.result()
            report.holds("all messages come, whole and in order", consumed.problem)
            published: Published = publisher.result()
        report.note("publish, consume, ack", f"{self.messages / published.seconds:,.0f} /s")
        report.note("written to the log", f"{written_mb:,.0f} MB")
        report.note(
            "memory at most", f"RssAnon {watch.peak.anonymous:.0f} MB, VmRSS {watch.peak.resident:.0f} MB"
        )
        self._disk(stage, watch, "meanwhile")

    def _disk(self, stage: Stage, watch: Watch, when: str) -> None:
        stage.report.at_most(
            f"disk above twice the live bytes, {when}",
            watch.excess_mb,
            self.disk_over_mb,
            "MB",
            why=f"{watch.disk_peak_mb:,.0f} MB with {watch.live_peak_mb:,.0f} live; {watch.samples} samples",
        )

    def _drain(self, stage: Stage, load: Load) -> None:
        report = stage.report
        with processes(1) as pool:
            consumed: Consumed = pool.submit(drain, load, self.keep.of(load.numbers())).result()
        report.holds("what was kept comes back, and in order", consumed.problem)
        left = sum(message_count(load.port, queue) for queue in load.queues)
        report.holds("and nothing that was acked", f"{left} more messages are left" if left else "")


@dataclass(frozen=True)
class Pinned(Survival):
    """One unacked message never pins the disk, however many others pass."""

    @property
    def keep(self) -> Keep:
        return Keep(every=self.messages, queues=1)


@dataclass(frozen=True)
class Survivors(Survival):
    """Many unacked ones among those that pass: the log takes no more than twice what lives in it."""

    keep_every: int = option(200, "one in so many messages of each queue is never acked")

    @property
    def keep(self) -> Keep:
        return Keep(every=self.keep_every, queues=self.queues)
