"""A backlog, measured: fill a durable queue, look at the broker, drain the queue."""

import time
from dataclasses import replace

from .load.worker import Plan
from .runs import Run
from .scenarios import Backlog, Flow
from .subject import Subject, problems
from .topology import Topology

MB = 1e6


def run(backlog: Backlog, subject: Subject) -> Run:
    """The rate is that of filling, from the first publish to the last confirm."""
    messages = backlog.messages - backlog.messages % backlog.batch
    flow = Flow(
        backlog.name,
        backlog.about,
        backlog.size,
        window=backlog.window,
        batch=backlog.batch,
        ack_every=backlog.ack_every,
        prefetch=backlog.prefetch,
        waiting=messages,
    )
    topology = Topology(flow, subject.broker.address, subject.wire)
    topology.declare()
    before = subject.broker.usage()
    (publisher,) = topology.publishers()
    with subject.hand([replace(publisher, limit=messages)]) as filler:
        filler.go(Plan(time.monotonic()))
        sent = filler.report()
    full = subject.broker.usage()
    surplus = topology.messages_left() - messages
    with subject.hand(topology.consumers()) as drainer:
        drainer.go(Plan(time.monotonic()))
        drainer.expect(sent.published)
        received = drainer.report()
    surplus += topology.messages_left()
    if subject.broker.outlives_its_run:
        topology.delete()
    return Run(
        scenario=backlog.name,
        contestant=subject.contestant,
        rate=sent.rate,
        published=sent.rate,
        drained=received.rate,
        confirm_ms=sent.histogram.percentiles_ms(),
        broker_cpu_s=full.cpu_seconds - before.cpu_seconds,
        broker_messages=messages,
        rss_mb=full.rss_bytes / MB,
        rss_peak_mb=subject.broker.usage().rss_peak_bytes / MB,
        publisher_us=sent.cpu_us,
        consumer_us=received.cpu_us,
        load_cores=sent.cpu_seconds / sent.seconds,
        messages=messages,
        problem=problems([sent, received], surplus),
    )
