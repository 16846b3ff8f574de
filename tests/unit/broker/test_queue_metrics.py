"""The metrics of single queues: a series each, whatever the queue is called and whenever it goes."""

import pytest
from fake_broker import FakeQueue, FakeVhost
from samples import samples

from leveret.broker.daemon import queue_metrics
from leveret.broker.daemon.queue_metrics import per_queue_text, walk
from leveret.broker.queues.dead_letter import DeathReason


@pytest.fixture
def vhost() -> FakeVhost:
    return FakeVhost("/")


async def test_each_queue_has_its_series(vhost: FakeVhost) -> None:
    jobs = FakeQueue("jobs", 1, 10, 2, 3, 4, 5, 6, 7, 8, cold_count=9, index_bytes=10)
    jobs.deaths_total[DeathReason.EXPIRED] = 9
    vhost.add(jobs)
    found = samples(b"".join([piece async for piece in per_queue_text({"/": vhost})]))
    labels = (("queue", "jobs"), ("vhost", "/"))
    values = {
        name.removeprefix("leveret_queue_"): value for (name, at), value in found.items() if at == labels
    }
    assert values == {
        "messages_ready": 1,
        "messages_ready_bytes": 10,
        "messages_on_disk_only": 9,
        "index_bytes": 10,
        "messages_unacked": 2,
        "consumers": 3,
        "messages_enqueued_total": 4,
        "messages_delivered_total": 5,
        "messages_redelivered_total": 6,
        "messages_got_total": 7,
        "messages_settled_total": 8,
    }
    deaths = {
        at[1][1]: value for (name, at), value in found.items() if name == "leveret_queue_messages_dead_total"
    }
    assert deaths == {"expired": 9, "rejected": 0, "maxlen": 0, "delivery_limit": 0}


async def test_many_queues_come_in_pieces_and_all_of_them(
    vhost: FakeVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_metrics, "QUEUES_PER_STEP", 2)
    for number in range(5):
        vhost.add(FakeQueue(f"q{number}", number))
    pieces = [piece async for piece in per_queue_text({"/": vhost})]
    assert max(piece.count(b"messages_ready{") for piece in pieces) == 2
    found = samples(b"".join(pieces))
    ready = {dict(at)["queue"]: value for (name, at), value in found.items() if name.endswith("_ready")}
    assert ready == {f"q{number}": number for number in range(5)}


async def test_a_queues_name_cannot_forge_a_series(vhost: FakeVhost) -> None:
    name = 'a"} 1\nforged 1\n\\'
    vhost.add(FakeQueue(name))
    found = samples(b"".join([piece async for piece in per_queue_text({"/": vhost})]))
    assert {dict(labels)["queue"] for _, labels in found} == {name}


async def test_the_walk_survives_queues_that_go_meanwhile(
    vhost: FakeVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_metrics, "QUEUES_PER_STEP", 1)
    for name in "abc":
        vhost.add(FakeQueue(name))
    seen = []
    async for _, queue in walk({"/": vhost}):
        seen.append(queue.name)
        vhost.queues.clear()
    assert seen == ["a", "b", "c"]
