"""Where a message goes: graphs of exchanges, alternates, CC and BCC, and the routes that are remembered."""

import pytest
from small_vhost import SmallVhost, names, refused

from leveret.broker.vhosts import vhost as vhost_module
from leveret.protocol.amqp.field_table import FieldTable, FieldValue
from leveret.protocol.amqp.properties import (
    BasicProperties,
    decode_properties,
    encode_properties,
    read_facts,
)
from leveret.protocol.reply_codes import ReplyCode

NO_X = "no exchange 'x' in vhost '/'"


def test_publishing_to_what_is_not_there() -> None:
    house = SmallVhost()
    with refused(ReplyCode.NOT_FOUND, NO_X):
        house.publish("x")
    with refused(ReplyCode.NOT_FOUND, NO_X):
        house.route("x")
    with refused(ReplyCode.NOT_FOUND, "no exchange 'amq.di\nrect' in vhost '/'"):
        house.publish("amq.di\nrect")


def test_an_internal_exchange_takes_only_the_brokers_own_messages() -> None:
    house = SmallVhost()
    house.queues("q")
    house.exchange("x", "fanout", internal=True)
    house.bind("q", "x")
    for _ in range(2):
        assert house.route("x") == ["q"]
        with refused(ReplyCode.ACCESS_REFUSED, "cannot publish to internal exchange 'x' in vhost '/'"):
            house.publish("x")


def test_an_internal_exchange_takes_what_another_hands_on() -> None:
    house = SmallVhost()
    house.queues("q")
    house.exchange("x", "fanout", internal=True)
    house.bind("q", "x")
    house.bind_exchange("x", "amq.fanout")
    assert house.publish("amq.fanout") == ["q"]


# --- exchanges bound to exchanges ---------------------------------------------------------------------


def test_each_exchange_looks_at_the_key_by_itself() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind_exchange("amq.direct", "amq.topic", "a.#")
    house.bind("q", "amq.direct", "a.b")
    assert house.publish("amq.topic", "a.b") == ["q"]
    assert house.publish("amq.topic", "a.c") == []
    house.unbind_exchange("amq.direct", "amq.topic", "a.#")
    assert house.publish("amq.topic", "a.b") == []


def test_a_queue_reached_over_several_paths_gets_one_copy() -> None:
    house = SmallVhost()
    house.queues("q")
    for name in ("x", "y"):
        house.exchange(name, "fanout")
        house.bind("q", name)
        house.bind_exchange(name, "amq.fanout")
    house.bind("q", "amq.fanout")
    assert house.publish("amq.fanout") == ["q"]


def test_cycles_end() -> None:
    house = SmallVhost()
    for name in ("x", "y"):
        house.exchange(name, "fanout")
        house.queue(f"q{name}")
        house.bind(f"q{name}", name)
    house.bind_exchange("y", "x")
    house.bind_exchange("x", "y")
    house.bind_exchange("x", "x")
    assert set(house.publish("x")) == {"qx", "qy"}
    assert set(house.publish("y")) == {"qx", "qy"}


# --- alternate exchanges ------------------------------------------------------------------------------


def test_an_alternate_gets_what_matches_nothing() -> None:
    house = SmallVhost()
    house.queues("q", "rest")
    house.exchange("x", alternate_exchange="amq.fanout")
    house.bind("q", "x", "k")
    house.bind("rest", "amq.fanout")
    assert house.publish("x", "k") == ["q"]
    assert house.publish("x", "other") == ["rest"]


def test_alternates_chain_until_something_matches() -> None:
    house = SmallVhost()
    house.queues("q", "too far")
    house.exchange("x", alternate_exchange="y")
    house.exchange("y", alternate_exchange="z")
    house.exchange("z", "fanout", alternate_exchange="amq.fanout")
    house.bind("q", "z")
    house.bind("too far", "amq.fanout")
    assert house.publish("x", "k") == ["q"]


def test_a_cycle_of_alternates_ends() -> None:
    house = SmallVhost()
    house.exchange("x", alternate_exchange="y")
    house.exchange("y", alternate_exchange="x")
    house.exchange("self", alternate_exchange="self")
    assert house.publish("x", "k") == []
    assert house.publish("self", "k") == []


def test_a_missing_alternate_is_no_error() -> None:
    house = SmallVhost()
    house.exchange("x", alternate_exchange="later")
    assert house.publish("x", "k") == []
    house.exchange("later", "fanout")
    house.queues("q")
    house.bind("q", "later")
    assert house.publish("x", "k") == ["q"]
    house.delete_exchange("later")
    assert house.publish("x", "k") == []


def test_the_default_exchange_can_be_an_alternate() -> None:
    """Beyond RabbitMQ 3.10, which accepts the name and then drops such messages."""
    house = SmallVhost()
    house.queues("q")
    house.exchange("x", alternate_exchange="")
    assert house.publish("x", "q") == ["q"]


def test_a_match_that_leads_nowhere_is_still_a_match() -> None:
    house = SmallVhost()
    house.queues("q")
    house.exchange("x", alternate_exchange="amq.fanout")
    house.exchange("dead end")
    house.bind_exchange("dead end", "x", "k")
    house.bind("q", "amq.fanout")
    assert house.publish("x", "k") == []


def test_an_exchange_in_the_middle_uses_its_own_alternate() -> None:
    house = SmallVhost()
    house.queues("direct hit", "rest")
    house.exchange("middle", alternate_exchange="amq.direct")
    house.bind_exchange("middle", "amq.fanout")
    house.bind("direct hit", "amq.fanout")
    house.bind("rest", "amq.direct", "k")
    assert set(house.publish("amq.fanout", "k")) == {"direct hit", "rest"}


# --- CC and BCC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_extra_keys_are_routed_on_like_the_first(header: str) -> None:
    house = SmallVhost()
    house.queues("a", "b", "c")
    house.bind("c", "amq.topic", "x.#")
    assert house.publish("", "a", {header: ["b", "nowhere", "a"]}) == ["a", "b"]
    assert house.publish("", "nowhere", {header: ["b"]}) == ["b"]
    assert house.publish("amq.topic", "y", {header: ["x.y"]}) == ["c"]


def test_extra_keys_are_nothing_to_a_message_without_them() -> None:
    house = SmallVhost()
    house.queues("a", "b")
    assert house.publish("", "a", {"CC": ["b"]}) == ["a", "b"]
    assert house.publish("", "a") == ["a"]
    assert house.publish("", "a", {"CC": ["b"]}) == ["a", "b"]


@pytest.mark.parametrize("headers", [{"Cc": ["b"]}, {"CCC": ["b"]}, {"x": {"CC": ["b"]}}, {"x": "\x02CC"}])
def test_only_headers_of_these_names_count(headers: FieldTable) -> None:
    house = SmallVhost()
    house.queues("a", "b")
    assert house.publish("", "a", headers) == ["a"]


def test_what_is_no_string_among_extra_keys_is_ignored() -> None:
    house = SmallVhost()
    house.queues("a", "b")
    assert house.publish("", "", {"CC": [5, None, "b", b"a"], "BCC": []}) == ["b"]


@pytest.mark.parametrize(
    ("headers", "name", "type_name"),
    [
        ({"CC": 5}, "CC", "signedint"),
        ({"CC": "a"}, "CC", "longstr"),
        ({"CC": None}, "CC", "void"),
        ({"BCC": {"a": 1}}, "BCC", "table"),
        ({"BCC": True, "CC": "a"}, "CC", "longstr"),
        ({"BCC": 5, "CC": ["a"]}, "BCC", "signedint"),
    ],
)
def test_extra_keys_of_a_wrong_type(headers: FieldTable, name: str, type_name: str) -> None:
    text = f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name}}}'
    with refused(ReplyCode.PRECONDITION_FAILED, text):
        SmallVhost().publish("", "a", headers)


def test_the_exchange_is_looked_for_before_the_headers() -> None:
    house = SmallVhost()
    with refused(ReplyCode.NOT_FOUND, NO_X):
        house.publish("x", "k", {"CC": 5})
    text = "cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'"
    with refused(ReplyCode.ACCESS_REFUSED, text):
        house.publish("amq.rabbitmq.trace", "k", {"CC": 5})


def test_bcc_is_taken_out_of_the_message() -> None:
    house = SmallVhost()
    house.queues("a")
    headers: dict[str, FieldValue] = {"n": 1, "BCC": ["a"], "CC": ["b"]}
    published = encode_properties(BasicProperties(headers=headers, message_id="m"))
    queues, delivered = house.vhost.route_publish("", "q", published, read_facts(published))
    assert names(queues) == ["a"]
    assert decode_properties(delivered) == BasicProperties(headers={"n": 1, "CC": ["b"]}, message_id="m")


@pytest.mark.parametrize("headers", [None, {}, {"CC": ["a"]}, {"x": 1}])
def test_other_messages_keep_their_octets(headers: FieldTable | None) -> None:
    house = SmallVhost()
    published = encode_properties(BasicProperties(headers=headers, message_id="m"))
    for _ in range(2):
        _, delivered = house.vhost.route_publish("", "q", published, read_facts(published))
        assert delivered == published


# --- remembered routes --------------------------------------------------------------------------------


def test_every_change_of_the_topology_is_seen_at_once() -> None:
    house = SmallVhost()
    house.exchange("x", alternate_exchange="ae")
    assert house.publish("x", "k") == []
    house.queue("q")
    house.bind("q", "x", "k")
    assert house.publish("x", "k") == ["q"]
    house.unbind("q", "x", "k")
    assert house.publish("x", "k") == []
    house.exchange("ae", "fanout")
    house.bind("q", "ae")
    assert house.publish("x", "k") == ["q"]
    house.delete_queue("q")
    assert house.publish("x", "k") == []
    house.queue("r")
    house.exchange("y", "fanout")
    house.bind_exchange("y", "x", "k")
    house.bind("r", "y")
    assert house.publish("x", "k") == ["r"]
    house.unbind_exchange("y", "x", "k")
    assert house.publish("x", "k") == []
    house.bind_exchange("y", "x", "k")
    house.delete_exchange("y")
    assert house.publish("x", "k") == []
    house.delete_exchange("x")
    with refused(ReplyCode.NOT_FOUND, NO_X):
        house.publish("x", "k")


def test_an_alternate_that_appears_may_know_a_way_at_once() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.fanout")
    house.exchange("x", alternate_exchange="ae")
    assert house.publish("x", "k") == []
    house.exchange("ae", alternate_exchange="amq.fanout")
    assert house.publish("x", "k") == ["q"]


def test_a_queue_that_ends_by_itself_is_no_longer_routed_to() -> None:
    house = SmallVhost()
    house.queue("q", x_expires=1000)
    house.bind("q", "amq.fanout")
    assert house.publish("amq.fanout") == ["q"]
    house.fakes.timers.advance(2000)
    assert house.publish("amq.fanout") == []


def test_restoring_forgets_what_was_found() -> None:
    house = SmallVhost()
    assert house.publish("", "q") == []
    other = SmallVhost()
    other.queue("q")
    for change in other.changes:
        house.vhost.restore(change)
    assert house.publish("", "q") == ["q"]


def test_only_so_many_routes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_module, "ROUTES_MAX", 10)
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.topic", "#")
    for number in range(100):
        assert house.publish("amq.topic", f"k.{number}") == ["q"]
    assert len(house.vhost._routes) <= 10
