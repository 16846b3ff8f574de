"""What a dead-lettered message looks like and where it goes. The shapes were compared with RabbitMQ 3.10."""

import inspect
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_services import START_MS
from queue_house import QueueHouse, bodies_ready, copies_ready, drain, headers_of

from leveret.broker.message import Message, QueuedMessage
from leveret.broker.queues.dead_letter import DeathReason, dead_letter
from leveret.broker.queues.delivery import enqueue_to
from leveret.broker.queues.queue import Queue
from leveret.protocol.amqp.field_table import DEPTH_MAX, FieldTable, FieldValue, Long, field_type_name
from leveret.protocol.amqp.properties import (
    BasicProperties,
    PropertyFacts,
    decode_properties,
    encode_properties,
)

NOW = datetime.fromtimestamp(START_MS // 1000, UTC)


@pytest.fixture
def house() -> QueueHouse:
    return QueueHouse()


def reject(queue: Queue) -> None:
    copy = queue.take()
    assert copy is not None
    queue.discard(copy, DeathReason.REJECTED)


def only_message(queue: Queue) -> Message:
    [copy] = copies_ready(queue)
    return copy.message


def deaths_of(message: Message) -> list[FieldTable]:
    deaths = headers_of(message)["x-death"]
    assert isinstance(deaths, list)
    return deaths  # type: ignore[return-value]  # of tables, as we wrote it


def test_a_first_death(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="dlx")
    dead_letters = house.queue("dlq")
    house.vhost.exchanges["dlx"] = {"key": ["dlq"]}
    source = house.message(
        "body", exchange="x", routing_key="key", headers={"mine": 1}, content_type="text/plain"
    )
    enqueue_to([source], [queue], house.fakes.services)
    house.clock.advance(5000)
    reject(queue)
    message = only_message(dead_letters)
    assert (message.exchange, message.routing_key, message.body) == ("dlx", "key", b"body")
    assert message.sequence > source.sequence
    assert message.published_at == START_MS + 5000
    assert message.facts.persistent
    properties = decode_properties(message.properties)
    assert properties.content_type == "text/plain"
    assert properties.headers == {
        "mine": 1,
        "x-death": [
            {
                "count": 1,
                "reason": "rejected",
                "queue": "q",
                "time": datetime.fromtimestamp(START_MS // 1000 + 5, UTC),
                "exchange": "x",
                "routing-keys": ["key"],
            }
        ],
        "x-first-death-reason": "rejected",
        "x-first-death-queue": "q",
        "x-first-death-exchange": "x",
        "x-last-death-reason": "rejected",
        "x-last-death-queue": "q",
        "x-last-death-exchange": "x",
    }


def test_the_count_is_a_long_and_the_time_a_timestamp(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, "1")
    reject(queue)
    [death] = deaths_of(only_message(dead_letters))
    types = {name: field_type_name(value) for name, value in death.items()}
    assert types == {
        "count": "long", "reason": "longstr", "queue": "longstr", "time": "timestamp", "exchange": "longstr",
        "routing-keys": "array",
    }  # fmt: skip


def test_the_journal_hears_of_the_new_message_before_the_old_one_ends(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq", message_ttl_ms=10)
    house.queue("dlq")
    house.publish(queue, "rejected")
    reject(queue)
    house.publish(queue, "expired")
    house.advance(10)
    assert [kind for kind, _ in house.journal.calls] == ["publish", "publish", "settle"] * 2


def test_an_expired_message_cannot_expire_again(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, "1", expiration="100", priority=4)
    house.advance(100)
    message = only_message(dead_letters)
    assert (message.facts.expiration, message.facts.priority) == (None, 4)
    [death] = deaths_of(message)
    assert (death["reason"], death["original-expiration"]) == ("expired", "100")
    house.advance(1_000_000)
    assert bodies_ready(dead_letters) == ["1"]


def test_the_ttl_of_the_next_queue_counts_from_the_arrival_there(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq", message_ttl_ms=100)
    dead_letters = house.queue("dlq", message_ttl_ms=50)
    house.publish(queue, "1")
    house.advance(100)
    house.advance(49)
    assert bodies_ready(dead_letters) == ["1"]
    house.advance(1)
    assert bodies_ready(dead_letters) == []


def test_a_dropped_head_is_dead_lettered(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq", max_length=1)
    dead_letters = house.queue("dlq")
    house.publish(queue, "1", "2")
    house.end_turn()
    assert bodies_ready(dead_letters) == ["1"]
    assert deaths_of(only_message(dead_letters))[0]["reason"] == "maxlen"


def test_too_many_failed_deliveries(house: QueueHouse) -> None:
    queue = house.queue(
        dead_letter_exchange="", dead_letter_routing_key="dlq", queue_type="quorum", delivery_limit=0
    )
    dead_letters = house.queue("dlq")
    house.publish(queue, "1")
    copy = queue.take()
    assert copy is not None
    queue.requeue([copy], failed=True)
    house.end_turn()
    assert deaths_of(only_message(dead_letters))[0]["reason"] == "delivery_limit"


def test_without_an_exchange_the_message_is_dropped(house: QueueHouse) -> None:
    for settings in ({}, {"dead_letter_exchange": "missing"}):
        queue = house.queue(**settings)
        house.publish(queue, "1")
        house.journal.calls.clear()
        reject(queue)
        assert [kind for kind, _ in house.journal.calls] == ["settle"]


def test_an_exchange_that_leads_nowhere_drops(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="dlx")
    house.vhost.exchanges["dlx"] = {}
    house.publish(queue, "1")
    reject(queue)
    assert len(house.journal.published) == 1


def test_cc_goes_along_without_a_dead_letter_routing_key(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="dlx")
    first, second = house.queue("first"), house.queue("second")
    house.vhost.exchanges["dlx"] = {"q": ["first"], "copy": ["second"]}
    house.publish(queue, "1", headers={"CC": ["copy"], "BCC": ["secret"]})
    reject(queue)
    for dead_letters in (first, second):
        headers = headers_of(only_message(dead_letters))
        assert headers["CC"] == ["copy"]
        assert "BCC" not in headers
        [death] = deaths_of(only_message(dead_letters))
        assert death["routing-keys"] == ["q", "copy"]


def test_of_cc_only_the_strings_become_history(house: QueueHouse) -> None:
    deep: FieldValue = "deep"
    for _ in range(DEPTH_MAX - 2):
        deep = [deep]
    queue = house.queue(dead_letter_exchange="dlx")
    house.vhost.exchanges["dlx"] = {"q": ["dead"]}
    dead_letters = house.queue("dead")
    house.publish(queue, "1", headers={"CC": [deep, "copy"]})
    reject(queue)
    [death] = deaths_of(only_message(dead_letters))
    assert death["routing-keys"] == ["q", "copy"]


def test_a_dead_letter_routing_key_takes_the_place_of_all_keys(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="dlx", dead_letter_routing_key="dead")
    house.queue("second")
    dead_letters = house.queue("dlq")
    house.vhost.exchanges["dlx"] = {"dead": ["dlq"], "copy": ["second"]}
    house.publish(queue, "1", headers={"CC": ["copy"]})
    reject(queue)
    message = only_message(dead_letters)
    assert message.routing_key == "dead"
    assert "CC" not in headers_of(message)
    assert deaths_of(message)[0]["routing-keys"] == ["q", "copy"]
    assert house.vhost.queues["second"].message_count == 0


def test_a_repeated_death_counts_up_and_moves_to_the_front(house: QueueHouse) -> None:
    work = house.queue("work", dead_letter_exchange="", dead_letter_routing_key="wait")
    wait = house.queue("wait", dead_letter_exchange="", dead_letter_routing_key="work", message_ttl_ms=1000)
    house.publish(work, "1")
    for _ in range(3):
        reject(work)
        house.advance(1000)
    message = only_message(work)
    assert [(d["queue"], d["reason"], d["count"]) for d in deaths_of(message)] == [
        ("wait", "expired", 3),
        ("work", "rejected", 3),
    ]
    assert deaths_of(message)[1]["time"] == NOW, "of the first death"
    headers = headers_of(message)
    assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == ("work", "rejected")
    assert (headers["x-last-death-queue"], headers["x-last-death-reason"]) == ("wait", "expired")
    assert drain(wait) == []


def test_a_cycle_without_a_rejection_ends(house: QueueHouse) -> None:
    itself = house.queue("self", dead_letter_exchange="", message_ttl_ms=10)
    house.publish(itself, "1")
    house.advance(10)
    assert bodies_ready(itself) == []
    first = house.queue("first", dead_letter_exchange="", dead_letter_routing_key="second", message_ttl_ms=10)
    second = house.queue("second", dead_letter_exchange="", dead_letter_routing_key="first", max_length=0)
    house.publish(first, "1")
    house.advance(10)
    assert (bodies_ready(first), bodies_ready(second)) == ([], [])
    assert first.deaths_total[DeathReason.EXPIRED] == 1
    assert second.deaths_total[DeathReason.MAXLEN] == 1


def test_a_cycle_is_cut_only_where_it_closes(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="dlx", message_ttl_ms=10)
    other = house.queue("other")
    house.vhost.exchanges["dlx"] = {"q": ["q", "other"]}
    house.publish(queue, "1")
    house.advance(10)
    assert (bodies_ready(queue), bodies_ready(other)) == ([], ["1"])


def test_a_message_may_be_rejected_into_its_own_queue_for_ever(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="")
    house.publish(queue, "1")
    for _ in range(5):
        reject(queue)
    message = only_message(queue)
    assert [death["count"] for death in deaths_of(message)] == [5]


def test_expiry_after_a_rejection_in_the_cycle_goes_on(house: QueueHouse) -> None:
    work = house.queue("work", dead_letter_exchange="", dead_letter_routing_key="wait", message_ttl_ms=10)
    wait = house.queue("wait", dead_letter_exchange="", dead_letter_routing_key="work", message_ttl_ms=10)
    house.publish(work, "1")
    reject(work)  # then it expires in wait, in work, and would come to wait again: only expiries since
    house.advance(10)
    assert bodies_ready(work) == ["1"]
    house.advance(10)
    assert (bodies_ready(work), bodies_ready(wait)) == ([], [])


def test_a_long_chain_of_dead_letter_exchanges_does_not_recurse(house: QueueHouse) -> None:
    length = 40
    for index in range(length):
        house.queue(
            f"q{index}",
            max_length=0,
            dead_letter_exchange="",
            dead_letter_routing_key=f"q{index + 1}",
            overflow="reject-publish-dlx" if index % 2 else "drop-head",
        )
    last = house.queue(f"q{length}")
    house.publish(house.vhost.queues["q0"], "1")
    recursion_limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + length)
    try:
        house.end_turn()
    finally:
        sys.setrecursionlimit(recursion_limit)
    assert bodies_ready(last) == ["1"]


def test_headers_of_the_publisher_keep_their_bytes(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    # Types that few clients write, and a name that comes twice.
    entries = b"\x01aL" + bytes(8) + b"\x01bf" + bytes(4) + b"\x01ax\0\0\0\x02\xff\xfe"
    source = house.message(routing_key="q")
    properties = b"\x20\x00" + len(entries).to_bytes(4, "big") + entries
    facts = PropertyFacts(persistent=False, headers=properties[2:])
    odd = Message(source.sequence, source.published_at, "", "q", properties, facts, b"")
    enqueue_to([odd], [queue], house.fakes.services)
    reject(queue)
    assert only_message(dead_letters).properties[6:].startswith(entries)


def after_a_rejection(house: QueueHouse, history: Any) -> list[Any]:
    """The x-death that a message published with this one has afterwards."""
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    house.publish(queue, "1", headers={"x-death": history})
    reject(queue)
    message = only_message(dead_letters)
    assert "x-first-death-queue" not in headers_of(message), "a client wrote the first death"
    return deaths_of(message)


DEATH = {
    "count": 1, "reason": "rejected", "queue": "q", "time": NOW, "exchange": "", "routing-keys": ["q"],
}  # fmt: skip


@pytest.mark.parametrize("history", ["[{count: 1}]", 5, None, {}, []])
def test_a_history_that_is_no_array_starts_again(house: QueueHouse, history: Any) -> None:
    assert after_a_rejection(house, history) == [DEATH]


def test_an_old_history_with_an_entry_per_death_is_merged(house: QueueHouse) -> None:
    expired = {"queue": "wait", "reason": "expired"}
    history = [expired, {"queue": "q", "reason": "rejected"}, expired, expired]
    assert after_a_rejection(house, history) == [
        {"queue": "q", "reason": "rejected", "count": 2},
        {"queue": "wait", "reason": "expired", "count": 3},
    ]


def test_entries_that_are_no_deaths_are_kept(house: QueueHouse) -> None:
    odd = ["text", {"foo": "bar"}, {"queue": [], "reason": {}}, 7]
    assert after_a_rejection(house, odd) == [DEATH, *odd]


@pytest.mark.parametrize(("count", "after"), [("x", 2), (2**63 - 1, 2**63 - 1), (Long(7), 8), (-3, -2)])
def test_any_count_can_be_counted_up(house: QueueHouse, count: Any, after: int) -> None:
    [death] = after_a_rejection(house, [{"queue": "q", "reason": "rejected", "count": count}])
    assert death["count"] == after


def test_a_history_that_cannot_be_written_again_starts_again(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    dead_letters = house.queue("dlq")
    long_name = b"\xff" * 200  # not UTF-8: longer than a name may be once it is shown escaped
    entry = bytes((len(long_name),)) + long_name + b"t\x01"
    table = b"F" + len(entry).to_bytes(4, "big") + entry
    array = b"\x07x-deathA" + len(table).to_bytes(4, "big") + table
    headers = len(array).to_bytes(4, "big") + array
    facts = PropertyFacts(persistent=False, headers=headers)
    enqueue_to(
        [Message(1, START_MS, "", "q", b"\x20\x00" + headers, facts, b"")], [queue], house.fakes.services
    )
    reject(queue)
    assert deaths_of(only_message(dead_letters)) == [DEATH]


def test_a_foreign_entry_makes_a_cycle_somebodys_decision(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", message_ttl_ms=10)
    history = ["text", {"queue": "q", "reason": "expired"}]
    other = house.queue("other", dead_letter_exchange="", dead_letter_routing_key="q", message_ttl_ms=10)
    house.publish(other, "1", headers={"x-death": history})
    house.advance(10)
    assert bodies_ready(queue) == ["1"]


def test_dead_lettering_an_unsettled_copy_changes_nothing_on_it(house: QueueHouse) -> None:
    queue = house.queue(dead_letter_exchange="", dead_letter_routing_key="dlq")
    house.queue("dlq")
    message = house.message(headers={"a": 1})
    dead_letter(QueuedMessage(message, queue, None, 0), DeathReason.REJECTED)
    assert message.properties == encode_properties(BasicProperties(headers={"a": 1}, delivery_mode=2))
