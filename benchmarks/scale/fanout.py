"""One large message to a thousand queues is stored once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pamqp import commands

from .amqp_link import Link
from .bodies import SEED
from .broker import MB, STARTING, Broker
from .consuming import get
from .publishing import declare_at_once, publish_one
from .stage import Scenario, Stage, option
from .watch import Watch

EXCHANGE = "fanout"
LOG_BYTES = "leveret_log_bytes"


@dataclass(frozen=True)
class Fanout(Scenario):
    """A message that goes to many queues is stored once."""

    queues: int = option(1000, "to how many durable queues")
    size: int = option(1 << 20, "bytes of the body")
    log_bytes: int = option(2 << 20, "by how much the log may grow")

    @property
    def disk_mb(self) -> float:
        return 10 * self.size / MB + 100

    def run(self, stage: Stage) -> None:
        report = stage.report
        queues = [f"queue-{number}" for number in range(self.queues)]
        body = random.Random(SEED).randbytes(self.size)
        with Broker(stage.directory) as broker:
            report.phase(f"declare and bind {self.queues:,} queues")
            declare_at_once(broker.port, queues)
            _bind(broker.port, queues)
            broker.stop("declare")  # a checkpoint: the topology is not to be mistaken for the message
            broker.start()
            before, disk_before = broker.metrics()[LOG_BYTES], broker.disk_bytes()
            with Watch(broker) as watch:
                report.phase(f"publish {self.size:,} bytes")
                publish_one(broker.port, EXCHANGE, body)
                grown = broker.metrics()[LOG_BYTES] - before
                report.at_most("the log grows by", grown / MB, self.log_bytes / MB, "MB")
                report.note("the data directory by", f"{(broker.disk_bytes() - disk_before) / MB:.2f} MB")
                broker.kill("publish")
                broker.start()
                report.phase("read all copies")
                report.holds(
                    f"all {self.queues:,} copies are readable after kill -9", _read(broker.port, queues, body)
                )
            broker.end_phase("read")
            report.note(
                "memory at most", f"RssAnon {watch.peak.anonymous:.0f} MB, VmRSS {watch.peak.resident:.0f} MB"
            )
            broker.lag.report(report, self.lag_ms, STARTING, stage.machine.stops())


def _bind(port: int, queues: Sequence[str]) -> None:
    link = Link(port)
    link.call(commands.Exchange.Declare(exchange=EXCHANGE, exchange_type="fanout", durable=True))
    for queue in queues:
        link.call(commands.Queue.Bind(queue=queue, exchange=EXCHANGE))
    link.close()


def _read(port: int, queues: Sequence[str], body: bytes) -> str:
    """Fetch the one message of each queue; returns what is wrong."""
    link = Link(port)
    for queue in queues:
        if (found := get(link, queue)) != body:
            return f"{queue}: " + ("empty" if found is None else f"{len(found)} other bytes")
        if get(link, queue) is not None:
            return f"{queue}: more than one message"
    link.close()
    return ""
