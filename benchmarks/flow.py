"""A flow, measured: warm-up, the measured time, and then everything that is still under way."""

import time

from .load.worker import Plan
from .runs import Run
from .scenarios import Flow
from .subject import Subject, problems
from .topology import Topology
from .usage import Usage

MB = 1e6
SETTLE_MAX_S = 10
WATCH_S = 0.1


def run(flow: Flow, subject: Subject) -> Run:
    """Every message that was published must come out, or be left in the queues if some were waiting there
    before: to drain those could take far longer than the measurement."""
    topology = Topology(flow, subject.broker.address, subject.wire)
    topology.declare()
    if flow.waiting:
        with subject.hand([topology.filler()]) as filler:
            filler.go(Plan(time.monotonic()))
            filler.report()
    with subject.hand(topology.publishers()) as publishers, subject.hand(topology.consumers()) as consumers:
        begin = time.monotonic() + subject.timing.warm_up_s
        plan = Plan(begin, begin + subject.timing.seconds)
        consumers.go(plan)
        publishers.go(plan)
        before = usage_at(plan.begin, subject)
        after = usage_at(plan.end, subject)
        sent = publishers.report()
        consumers.expect(None if flow.waiting else sent.published)
        received = consumers.report()
    published = sum(sent.published.values())
    wanted = flow.waiting + published - received.received if flow.waiting else 0
    surplus = surplus_of(topology, wanted)
    if subject.broker.outlives_its_run:
        topology.delete()
    return Run(
        scenario=flow.name,
        contestant=subject.contestant,
        rate=received.rate,
        published=sent.rate,
        confirm_ms=sent.histogram.percentiles_ms(),
        deliver_ms=received.histogram.percentiles_ms(),
        deliver_counts=received.histogram.counts,
        broker_cpu_s=after.cpu_seconds - before.cpu_seconds,
        broker_messages=received.messages,
        rss_mb=after.rss_bytes / MB,
        rss_peak_mb=after.rss_peak_bytes / MB,
        publisher_us=sent.cpu_us,
        consumer_us=received.cpu_us,
        load_cores=(sent.cpu_seconds + received.cpu_seconds) / subject.timing.seconds,
        messages=published,
        problem=problems([sent, received], surplus),
    )


def usage_at(moment: float, subject: Subject) -> Usage:
    """Of the broker, at that moment."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, WATCH_S))
        subject.watch()
    return subject.broker.usage()


def surplus_of(topology: Topology, wanted: int) -> int:
    """How many more or fewer messages are in the queues than should be. A broker may take a moment to put
    back what consumers have left."""
    deadline = time.monotonic() + SETTLE_MAX_S
    while (surplus := topology.messages_left() - wanted) and time.monotonic() < deadline:
        time.sleep(WATCH_S)
    return surplus
