"""Who publishes what where: every message has a consumer, and nobody waits for one that does not come."""

from collections import Counter
from dataclasses import replace

import pytest

from leveret.benchmarks.load.link import Address
from leveret.benchmarks.load.wires import AMQP, NATIVE
from leveret.benchmarks.scenarios import SCENARIOS, Flow
from leveret.benchmarks.topology import FANOUT, Topology

FLOWS = [one for one in SCENARIOS.values() if isinstance(one, Flow)]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_lane_comes_out_once_per_copy(flow: Flow) -> None:
    topology = Topology(flow, Address(0), AMQP)
    published = [route.lane for task in topology.publishers() for route in task.routes]
    consumed = Counter(lane for task in topology.consumers() for lane in task.lanes)
    copies = flow.queues if flow.exchange == FANOUT else 1
    assert consumed == dict.fromkeys(published, copies)
    assert len(set(published)) == len(published)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_queue_has_one_consumer(flow: Flow) -> None:
    topology = Topology(flow, Address(0), AMQP)
    consumed = Counter(queue for task in topology.consumers() for queue in task.queues)
    assert consumed == dict.fromkeys(topology.queues, 1)
    assert len({len(queue) for queue in topology.queues}) == 1


def test_what_waits_comes_out_before_and_in_lanes_of_its_own() -> None:
    topology = Topology(Flow("some", "", queues=3, publishers=2, waiting=9), Address(0), AMQP)
    waiting = {route.lane for route in topology.filler().routes}
    assert waiting.isdisjoint(route.lane for task in topology.publishers() for route in task.routes)
    (consumer,) = topology.consumers()
    assert waiting <= set(consumer.lanes)
    assert not consumer.is_early


def test_a_batch_fits_into_the_window_and_a_rate_has_none() -> None:
    flow = Flow("some", "", window=4, batch=16)
    groups = {
        name: Topology(one, Address(0), wire).publishers()[0].group
        for name, one, wire in (
            ("native", flow, NATIVE),
            ("amqp", flow, AMQP),
            ("rate", replace(flow, rate=10), NATIVE),
            ("no confirms", replace(flow, confirms=False), NATIVE),
        )
    }
    assert groups == {"native": 4, "amqp": 1, "rate": 1, "no confirms": 16}
