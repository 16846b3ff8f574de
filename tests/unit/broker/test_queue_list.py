"""The list of queues that `/queues` gives: JSON, in pieces, and others run between them."""

import asyncio
import json

import pytest
from fake_broker import FakeQueue, FakeVhost

from leveret.broker.daemon import queue_list as module
from leveret.broker.daemon.queue_list import queue_list


async def pieces_of(*vhosts: FakeVhost) -> list[bytes]:
    return [piece async for piece in queue_list({vhost.name: vhost for vhost in vhosts})]


async def test_each_queue_is_a_line_of_json() -> None:
    here, there = FakeVhost("/"), FakeVhost("there")
    here.add(FakeQueue("jobs", message_count=1, unacked_count=2, consumer_count=3))
    there.add(FakeQueue('a "name"\n'))
    (piece,) = await pieces_of(here, there)
    assert json.loads(piece) == [
        {"vhost": "/", "name": "jobs", "ready": 1, "unacked": 2, "consumers": 3},
        {"vhost": "there", "name": 'a "name"\n', "ready": 0, "unacked": 0, "consumers": 0},
    ]
    assert len(piece.splitlines()) == 4


async def test_no_queue_is_an_empty_array() -> None:
    assert json.loads(b"".join(await pieces_of(FakeVhost()))) == []


async def test_many_queues_come_in_pieces_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 100)
    vhost = FakeVhost()
    for number in range(10):
        vhost.add(FakeQueue(f"q{number}", number))
    pieces = await pieces_of(vhost)
    assert len(pieces) >= 5
    assert [row["ready"] for row in json.loads(b"".join(pieces))] == list(range(10))


async def test_others_run_before_it_is_at_its_end() -> None:
    vhost = FakeVhost()
    for number in range(3000):
        vhost.add(FakeQueue(f"q{number}"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    await pieces_of(vhost)
    running.cancel()
    assert turns >= 5
