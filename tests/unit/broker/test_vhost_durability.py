"""What the journal is told of the topology, and that it comes back from there and from a snapshot."""

from collections.abc import Iterable
from typing import Any

import pytest
from small_vhost import OTHER, SmallVhost

from leveret.broker.durability.records import unpack_map
from leveret.protocol.amqp.field_table import FieldTable, Long, encode_table


def operations(house: SmallVhost) -> list[tuple[object, object]]:
    return [(change["op"], change.get("name", change.get("key"))) for change in house.changes]


def restored(changes: Iterable[dict[str, object]]) -> SmallVhost:
    """A new vhost after these changes."""
    house = SmallVhost()
    for change in changes:
        house.vhost.restore(change)
    return house


def snapshot(house: SmallVhost) -> list[dict[str, object]]:
    return [unpack_map(packed) for packed in house.vhost.snapshot()]


def contents(house: SmallVhost) -> tuple[set[Any], set[Any], set[Any]]:
    """Everything that is not there from the start, by value."""
    vhost = house.vhost
    exchanges = {
        (x.name, x.type, x.durable, x.auto_delete, x.internal, encode_table(x.arguments))
        for x in vhost.exchanges.values()
        if x.name and not x.name.startswith("amq.")
    }
    queues = {
        (q.name, q.id, q.durable, q.auto_delete, q.settings, encode_table(q.arguments))
        for q in vhost.queues.values()
    }
    bindings = {
        (b.source.name, type(b.destination), b.destination.name, b.key, encode_table(b.arguments))
        for b in vhost.bindings
    }
    return exchanges, queues, bindings


def test_durable_things_are_told() -> None:
    house = SmallVhost()
    house.exchange("x", "topic", auto_delete=True)
    house.queue("q")
    house.bind("q", "x", "k")
    house.bind_exchange("amq.direct", "x", "e")
    house.unbind("q", "x", "k")
    house.delete_queue("q")
    house.delete_exchange("x")
    assert operations(house) == [
        ("exchange_declare", "x"),
        ("queue_declare", "q"),
        ("bind", "k"),
        ("bind", "e"),
        ("unbind", "k"),
        ("queue_delete", "q"),
        ("exchange_delete", "x"),
    ]
    assert {change["vhost"] for change in house.changes} == {"/"}


def test_transient_things_are_not_told() -> None:
    house = SmallVhost()
    house.exchange("x", durable=False)
    house.queue("transient", durable=False)
    house.queue("exclusive", exclusive=True)
    house.queue("durable")
    del house.changes[:]
    house.bind("transient", "amq.direct", "k")
    house.bind("exclusive", "amq.direct", "k")
    house.bind("durable", "x", "k")
    house.bind_exchange("x", "amq.direct", "k")
    house.bind_exchange("amq.direct", "x", "k")
    house.unbind("durable", "x", "k")
    house.delete_queue("transient")
    house.vhost.delete_exclusive_queues("a connection")
    house.delete_exchange("x")
    assert house.changes == []
    assert [(record["op"], record["name"]) for record in snapshot(house)] == [("queue_declare", "durable")]


def test_nothing_is_told_of_what_changes_nothing() -> None:
    house = SmallVhost()
    house.exchange("x")
    house.queue("q")
    house.bind("q", "x", "k")
    del house.changes[:]
    house.exchange("x")
    house.exchange("amq.direct")
    house.queue("q", owner=OTHER)
    house.queue("q", passive=True)
    house.bind("q", "x", "k")
    house.unbind("q", "x", "other")
    house.delete_queue("nope")
    house.delete_exchange("nope")
    assert house.changes == []


def test_what_goes_along_is_told_by_itself() -> None:
    house = SmallVhost()
    house.exchange("x", auto_delete=True)
    house.exchange("y", "fanout", auto_delete=True)
    house.queue("q", durable=False)
    house.bind("q", "y")
    house.bind_exchange("y", "x", "k")
    del house.changes[:]
    house.delete_queue("q")
    assert operations(house) == [("exchange_delete", "y"), ("exchange_delete", "x")]


def test_a_queue_that_ends_by_itself_is_told() -> None:
    house = SmallVhost()
    house.queue("q", x_expires=1000)
    house.fakes.timers.advance(2000)
    assert operations(house) == [("queue_declare", "q"), ("queue_delete", "q")]


ARGUMENTS: FieldTable = {"x-max-length": Long(5), "x-overflow": "reject-publish", "other": [{"a": None}]}


@pytest.fixture
def house() -> SmallVhost:
    """One of everything durable."""
    house = SmallVhost()
    house.exchange("x", "headers", internal=True, alternate_exchange="amq.direct")
    house.exchange("y", "topic", auto_delete=True)
    house.vhost.declare_queue(
        "q", None, passive=False, durable=True, exclusive=False, auto_delete=True, arguments=ARGUMENTS
    )
    house.queue("quorum", x_queue_type="quorum", x_delivery_limit=3)
    house.bind("q", "x", "k", {"x-match": "any", "n": Long(5)})
    house.bind("quorum", "amq.topic", "a.#")
    house.bind_exchange("x", "y", "b.*")
    house.bind("q", "amq.topic", "unbound")
    house.unbind("q", "amq.topic", "unbound")
    house.queue("gone")
    house.bind("gone", "x", "k")
    house.delete_queue("gone")
    return house


@pytest.mark.parametrize("source", ["changes", "snapshot"])
def test_everything_durable_comes_back(house: SmallVhost, source: str) -> None:
    after = restored(house.changes if source == "changes" else snapshot(house))
    assert contents(after) == contents(house)
    assert after.changes == []
    assert after.vhost.snapshot() == house.vhost.snapshot()
    assert after.publish("amq.topic", "a.b") == ["quorum"]
    assert after.route("x", "", {"n": 5}) == ["q"]


def test_what_came_back_lives_on(house: SmallVhost) -> None:
    after = restored(house.changes)
    after.unbind_exchange("x", "y", "b.*")
    assert "y" not in after.vhost.exchanges
    after.delete_queue("q")
    assert operations(after) == [("unbind", "b.*"), ("exchange_delete", "y"), ("queue_delete", "q")]


def test_changes_may_come_twice_where_that_is_harmless(house: SmallVhost) -> None:
    binding = next(change for change in house.changes if change["op"] == "bind")
    after = restored([*house.changes, binding])
    assert contents(after) == contents(house)


def test_bindings_go_silently_with_their_ends() -> None:
    house = SmallVhost()
    house.queue("q")
    house.exchange("x", "fanout")
    house.bind("q", "x")
    house.bind_exchange("x", "amq.fanout")
    house.delete_exchange("x")
    house.exchange("x", "fanout")
    after = restored(house.changes)
    assert list(after.vhost.bindings) == []


@pytest.mark.parametrize(
    "change",
    [
        {"op": "queue_delete", "name": "nope", "id": 5},
        {"op": "exchange_delete", "name": "nope"},
        {
            "op": "bind",
            "source": "nope",
            "to_queue": True,
            "destination": "q",
            "key": "",
            "arguments": b"\0" * 4,
        },
        {"op": "something else"},
    ],
)
def test_a_change_that_makes_no_sense_is_not_guessed_at(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        SmallVhost().vhost.restore({"vhost": "/", **change})
