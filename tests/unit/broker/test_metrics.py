"""The broker's metrics: every counter is shown, and sums are sums."""

from dataclasses import fields

import pytest
from fake_broker import FakeBroker, FakeQueue, FakeServer, FakeVhost
from samples import Samples, samples

from leveret.broker.alarms import Alarms, Limits
from leveret.broker.counters import Counters, Latest
from leveret.broker.daemon.loop_lag import Lag, LoopLag
from leveret.broker.daemon.metrics import COUNTED, LATEST, Metrics
from leveret.broker.durability.blobs import StoredBlob
from leveret.broker.queues.windows import Windows


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


async def aggregated(broker: FakeBroker, *, is_ready: bool = True, lag: LoopLag | None = None) -> Samples:
    text = await Metrics(broker, lag or LoopLag()).aggregated(FakeServer().stats, is_ready)
    return samples(text)


def test_every_counter_has_a_name_and_an_explanation() -> None:
    assert set(COUNTED) == {counted.name for counted in fields(Counters)}
    assert set(LATEST) == {latest.name for latest in fields(Latest)}


async def test_every_counter_is_shown(broker: FakeBroker) -> None:
    for value, counted in enumerate(fields(Counters), start=1):
        if counted.type is int:
            setattr(broker.counters, counted.name, value)
    found = await aggregated(broker)
    for value, counted in enumerate(fields(Counters), start=1):
        if counted.type is int:
            assert found[f"leveret_{COUNTED[counted.name][0]}_total", ()] == value


async def test_what_was_seen_last_is_shown(broker: FakeBroker) -> None:
    for value, latest in enumerate(fields(Latest), start=1):
        setattr(broker.latest, latest.name, value)
    found = await aggregated(broker)
    for value, latest in enumerate(fields(Latest), start=1):
        assert found[f"leveret_{LATEST[latest.name][0]}", ()] == value


async def test_commits_have_histograms(broker: FakeBroker) -> None:
    broker.counters.commit_seconds.observe(0.0003)
    broker.counters.commit_messages.observe(7)
    found = await aggregated(broker)
    assert found["leveret_commit_seconds_bucket", (("le", "0.0002"),)] == 0
    assert found["leveret_commit_seconds_bucket", (("le", "0.0005"),)] == 1
    assert (found["leveret_commit_messages_sum", ()], found["leveret_commit_messages_count", ()]) == (7, 1)


async def test_open_is_opened_less_closed(broker: FakeBroker) -> None:
    broker.counters.connections_opened, broker.counters.connections_closed = 5, 2
    broker.counters.channels_opened, broker.counters.channels_closed = 7, 3
    found = await aggregated(broker)
    assert (found["leveret_connections", ()], found["leveret_channels", ()]) == (3, 4)


async def test_queues_are_summed_over_all_vhosts(broker: FakeBroker) -> None:
    broker.vhosts["/"].add(
        FakeQueue(
            "a",
            message_count=1,
            ready_bytes=10,
            unacked_count=2,
            consumer_count=3,
            cold_count=7,
            index_bytes=70,
        )
    )
    broker.vhosts["/"].exchanges = {"": None, "amq.direct": None}
    other = broker.vhosts["other"] = FakeVhost("other")
    other.add(
        FakeQueue(
            "a",
            message_count=4,
            ready_bytes=20,
            unacked_count=5,
            consumer_count=6,
            cold_count=8,
            index_bytes=80,
        )
    )
    found = await aggregated(broker)
    names = ("queues", "exchanges", "messages_ready", "messages_ready_bytes", "messages_unacked", "consumers")
    assert [found[f"leveret_{name}", ()] for name in names] == [2, 2, 5, 30, 7, 9]
    assert (found["leveret_messages_on_disk_only", ()], found["leveret_index_bytes", ()]) == (15, 150)


async def test_the_log_and_readiness_are_shown(broker: FakeBroker) -> None:
    found = await aggregated(broker, is_ready=False)
    assert found["leveret_ready", ()] == 0
    names = ("bytes", "file_bytes", "file_free_bytes", "free_bytes", "blobs")
    assert [found[f"leveret_log_{name}", ()] for name in names] == [4000, 5000, 904, 100, 3]
    assert found["leveret_log_syncs_total", ()] == 9


async def test_what_of_the_log_is_needed_is_shown(broker: FakeBroker) -> None:
    blobs = broker.journal.blobs
    for position, live in ((1, 3), (2, 0)):
        blob = StoredBlob(blobs, position)
        blob.size, blob.copies, blob.live_copies = 1000, 4, live
        blobs.enter(blob)
    found = await aggregated(broker)
    assert (found["leveret_log_live_bytes", ()], found["leveret_log_dead_bytes", ()]) == (750, 1000)


@pytest.mark.parametrize(("total", "is_tight"), [(5, 0), (6, 1)])
async def test_windows_are_shown(broker: FakeBroker, total: int, is_tight: int) -> None:
    broker.windows = Windows(5)
    broker.windows.total = total
    found = await aggregated(broker)
    assert (found["leveret_window_bytes", ()], found["leveret_window_is_tight", ()]) == (total, is_tight)


async def test_window_hits_are_the_other_deliveries_and_never_fall(broker: FakeBroker) -> None:
    metrics, counters = Metrics(broker, LoopLag()), broker.counters
    counters.delivered, counters.got = 7, 3
    hits = []
    for counters.window_misses in (2, 3):
        hits.append(samples(await metrics.aggregated(None, True))["leveret_window_hits_total", ()])
    counters.delivered = 20
    hits.append(samples(await metrics.aggregated(None, True))["leveret_window_hits_total", ()])
    assert hits == [8, 8, 20]


async def test_alarms_are_shown_with_their_figures(broker: FakeBroker) -> None:
    broker.alarms = alarms = Alarms(Limits(memory_bytes=1000, disk_free_bytes=500))
    alarms.update(600, 450)
    alarms.when_clear(lambda: None)
    found = await aggregated(broker)
    assert found["leveret_alarm_active", (("resource", "memory"),)] == 0
    assert found["leveret_alarm_active", (("resource", "disk"),)] == 1
    names = ("memory_used_bytes", "memory_limit_bytes", "disk_free_bytes", "disk_free_limit_bytes")
    assert [found[f"leveret_{name}", ()] for name in names] == [600, 1000, 450, 500]
    assert found["leveret_connections_blocked", ()] == 1


async def test_without_its_log_a_broker_still_has_metrics(broker: FakeBroker) -> None:
    found = samples(await Metrics(broker, LoopLag()).aggregated(None, False))
    assert ("leveret_log_bytes", ()) not in found
    assert found["leveret_queues", ()] == 0


async def test_the_loops_lag_is_shown(broker: FakeBroker) -> None:
    lag = LoopLag()
    lag.observe(Lag(0.25, cpu_s=0.05, starved_s=0.125), 1)
    found = await aggregated(broker, lag=lag)
    assert found["leveret_loop_lag_seconds_max", ()] == 0.25
    assert found["leveret_loop_lag_seconds_bucket", (("le", "0.2"),)] == 0
    assert found["leveret_loop_lag_seconds_sum", ()] == 0.25
    assert found["leveret_loop_own_lag_seconds_bucket", (("le", "0.2"),)] == 1
    assert found["leveret_loop_own_lag_seconds_sum", ()] == 0.125
    parts = ("own", "cpu", "starved")
    assert [found["leveret_loop_worst_lag_seconds", (("part", part),)] for part in parts] == [
        0.125,
        0.05,
        0.125,
    ]
    assert found["leveret_loop_major_faults_total", ()] >= 0


async def test_the_process_is_shown(broker: FakeBroker) -> None:
    found = await aggregated(broker)
    resident = found["process_resident_memory_bytes", ()]
    assert 0 < found["leveret_anonymous_memory_bytes", ()] <= resident
