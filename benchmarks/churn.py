"""Connection churn, measured: how many clients can come, leave a message and go in a second."""

import time
from contextlib import ExitStack

from .flow import MB, surplus_of, usage_at
from .histogram import Histogram
from .load.churner import ChurnerTask
from .load.link import Route
from .load.worker import Plan
from .runs import Run
from .scenarios import Churn, Flow
from .subject import Subject, problems
from .topology import Topology


def run(churn: Churn, subject: Subject) -> Run:
    """The rate is that of connections."""
    address, wire = subject.broker.address, subject.wire
    topology = Topology(Flow(churn.name, churn.about, churn.size), address, wire)
    topology.declare()
    (queue,) = topology.queues
    with ExitStack() as stack:
        tasks = [
            ChurnerTask(address, wire, Route(lane, "", queue), churn.size) for lane in range(churn.clients)
        ]
        hands = [stack.enter_context(subject.hand([task])) for task in tasks]
        begin = time.monotonic() + subject.timing.warm_up_s
        plan = Plan(begin, begin + subject.timing.seconds)
        for hand in hands:
            hand.go(plan)
        before, after = usage_at(plan.begin, subject), usage_at(plan.end, subject)
        reports = [hand.report() for hand in hands]
    visits = sum(sum(report.published.values()) for report in reports)
    surplus = surplus_of(topology, visits)
    if subject.broker.outlives_its_run:
        topology.delete()
    measured = sum(report.messages for report in reports)
    cpu_seconds = sum(report.cpu_seconds for report in reports)
    rate = sum(report.rate for report in reports)
    return Run(
        scenario=churn.name,
        contestant=subject.contestant,
        rate=rate,
        published=rate,
        confirm_ms=Histogram.merged(report.histogram for report in reports).percentiles_ms(),
        broker_cpu_s=after.cpu_seconds - before.cpu_seconds,
        broker_messages=measured,
        rss_mb=after.rss_bytes / MB,
        rss_peak_mb=after.rss_peak_bytes / MB,
        publisher_us=cpu_seconds / measured * 1e6 if measured else 0.0,
        load_cores=cpu_seconds / subject.timing.seconds,
        messages=visits,
        problem=problems(reports, surplus),
    )
