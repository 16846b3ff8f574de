"""The checker finds each kind of broken promise, and nothing in the histories of a broker that keeps all.

A green crash test means something only if this holds.
"""

from pathlib import Path

import pytest
from checker import (
    CORRUPT,
    DUPLICATED,
    LOST,
    OVERMARKED,
    REORDERED,
    RESURRECTED,
    TORN,
    UNEXPECTED,
    UNMARKED,
    check,
)
from correct_broker import BARRIER, CHANNELS, CONSUMED, CorrectBroker
from history import (
    Acked,
    Built,
    Closed,
    Closing,
    Confirmed,
    Consuming,
    Crashed,
    Declared,
    Deleted,
    Deleting,
    Delivered,
    Event,
    Invoked,
    Refused,
    Rejected,
    Removed,
    Removing,
    Requeued,
    Standing,
    Stopped,
    load,
    save,
)
from hypothesis import given
from hypothesis import strategies as st

CHANNEL = st.integers(0, len(CHANNELS) - 1)
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 1), st.sampled_from([("a", "b"), ("a",), ("scratch",)])),
    st.tuples(st.just("publish"), st.integers(0, 1), st.just(("a",)), st.just(False)),
    st.tuples(st.sampled_from(["ack", "reject", "requeue", "lose", "transfer", "publish_barrier"]), CHANNEL),
    st.tuples(st.just("deliver"), CHANNEL, st.sampled_from(CONSUMED)),
    st.tuples(st.sampled_from(["commit", "crash", "stop", "redeclare"])),
)


def run(steps: list[tuple[object, ...]]) -> list[Event]:
    broker = CorrectBroker()
    for name, *arguments in steps:
        getattr(broker, str(name))(*arguments)
    broker.publish(0)
    broker.drain()
    return broker.events


@given(st.lists(STEPS, max_size=60))
def test_finds_nothing_in_what_a_correct_broker_does(steps: list[tuple[object, ...]]) -> None:
    events = run(steps)

    report = check(events)

    assert report.ok, f"{report}\n" + "\n".join(map(str, events))


@given(st.lists(STEPS, max_size=60), st.data())
def test_finds_one_flipped_or_repeated_delivery_anywhere(
    steps: list[tuple[object, ...]], data: st.DataObject
) -> None:
    events = run(steps)
    at = data.draw(st.sampled_from([i for i, event in enumerate(events) if isinstance(event, Delivered)]))
    delivery = events[at]
    assert isinstance(delivery, Delivered)

    flipped = check([*events[:at], delivery._replace(intact=False), *events[at + 1 :]])
    repeated = check([*events[: at + 1], delivery._replace(redelivered=True), *events[at + 1 :]])

    assert list(flipped.violations) == [CORRUPT]
    assert DUPLICATED in repeated.violations


@given(st.lists(STEPS, max_size=60))
def test_finds_one_confirmed_message_that_is_gone(steps: list[tuple[object, ...]]) -> None:
    events = run(steps)
    lost = ("a", *next(event for event in reversed(events) if isinstance(event, Invoked))[:2])

    gone = [event for event in events if not (isinstance(event, Delivered | Acked) and event[1:4] == lost)]

    assert list(check(gone).violations) == [LOST]


# One message, from publish to ack: what each mutation below starts from.
PUBLISHED: list[Event] = [Invoked("p", 1, ("q",)), Confirmed("p", 1)]
TRANSIENT: list[Event] = [Invoked("p", 1, ("q",), persistent=False)]
DELIVERED: list[Event] = [Consuming("c", "q"), Delivered("c", "q", "p", 1)]
ACKED: list[Event] = [Acked("c", "q", "p", 1)]
PROVEN: list[Event] = [Invoked("c", 1, (BARRIER,), barrier=True), Confirmed("c", 1)]
AGAIN: list[Event] = [Delivered("d", "q", "p", 1, redelivered=True), Acked("d", "q", "p", 1)]
DRAINED_BARRIER: list[Event] = [Delivered("d", BARRIER, "c", 1), Acked("d", BARRIER, "c", 1)]
DEAD_LETTERED: list[Event] = [*PUBLISHED, *DELIVERED, Rejected("c", "q", "p", 1, "dead")]
TWO_PUBLISHED: list[Event] = [
    Invoked("p", 1, ("q",)),
    Invoked("p", 2, ("q",)),
    Confirmed("p", 1),
    Confirmed("p", 2),
]
TWO_ACKED: list[Event] = [Acked("c", "q", "p", 1), Acked("c", "q", "p", 2)]
TRANSACTION: list[Event] = [
    *PUBLISHED,
    *DELIVERED,
    Invoked("c", 1, ("r",), transaction=7),
    Invoked("c", 2, ("r",), transaction=7),
    Acked("c", "q", "p", 1, transaction=7),
]
FIRST_OF_TRANSACTION: list[Event] = [Delivered("d", "r", "c", 1), Acked("d", "r", "c", 1)]
SECOND_OF_TRANSACTION: list[Event] = [Delivered("d", "r", "c", 2), Acked("d", "r", "c", 2)]

GOOD: dict[str, list[Event]] = {
    "published, delivered, acked": [*PUBLISHED, *DELIVERED, *ACKED],
    "confirmed after the ack": [PUBLISHED[0], *DELIVERED, *ACKED, PUBLISHED[1]],
    "unconfirmed and gone after a crash": [PUBLISHED[0], Crashed()],
    "unconfirmed and there after a crash": [PUBLISHED[0], Crashed(), *DELIVERED, *ACKED],
    "refused and gone": [PUBLISHED[0], Refused("p", 1)],
    "transient and gone after a crash": [
        Invoked("p", 1, ("q",), persistent=False),
        Confirmed("p", 1),
        Crashed(),
    ],
    "an ack forgotten by a crash": [*PUBLISHED, *DELIVERED, *ACKED, Crashed(), *AGAIN],
    "an ack forgotten with its channel": [*PUBLISHED, *DELIVERED, *ACKED, Closing("c"), Closed("c"), *AGAIN],
    "a barrier without its confirm proves nothing": [
        *[*PUBLISHED, *DELIVERED, *ACKED, PROVEN[0], Crashed(), *AGAIN],
    ],
    "a barrier before the ack proves nothing": [
        *[*PUBLISHED, *DELIVERED, PROVEN[0], *ACKED, PROVEN[1], Crashed(), *AGAIN, *DRAINED_BARRIER],
    ],
    "requeued": [*PUBLISHED, *DELIVERED, Requeued("c", "q", "p", 1), *AGAIN],
    "never read by the consumer that was lost": [
        *[Consuming("c", "q"), *PUBLISHED, Closing("c"), Closed("c"), *AGAIN],
    ],
    "delivered to another while the consumer closes": [
        *[Consuming("c", "q"), Closing("c"), *PUBLISHED, *AGAIN, Closed("c")],
    ],
    "marked by a crash": [Consuming("c", "q"), Crashed(), *PUBLISHED, Crashed(), *AGAIN],
    "deleted with its queue": [*PUBLISHED, Deleting("q"), Deleted("q"), Declared("q")],
    "published to a queue being deleted": [Deleting("q"), *PUBLISHED, Deleted("q"), Declared("q")],
    "kept by a deletion that a crash undid": [
        *[*PUBLISHED, Deleting("q"), Crashed(), Declared("q"), *DELIVERED, *ACKED],
    ],
    "dead-lettered": [*DEAD_LETTERED, Delivered("d", "dead", "p", 1), Acked("d", "dead", "p", 1)],
    "dead-lettered twice around a crash": [
        *[
            *DEAD_LETTERED,
            Delivered("d", "dead", "p", 1),
            Crashed(),
            Delivered("c", "q", "p", 1, redelivered=True),
        ],
        *[Rejected("c", "q", "p", 1, "dead"), Delivered("d", "dead", "p", 1), Acked("d", "dead", "p", 1)],
    ],
    "requeued behind a later one": [
        *[*TWO_PUBLISHED, *DELIVERED, Requeued("c", "q", "p", 1), Delivered("c", "q", "p", 2)],
        *[Delivered("c", "q", "p", 1, redelivered=True), *TWO_ACKED],
    ],
    "a transaction that a crash kept": [
        *[*TRANSACTION, Crashed(), *FIRST_OF_TRANSACTION, *SECOND_OF_TRANSACTION],
    ],
    "a transaction that a crash undid, with a transient message": [
        *[Invoked("s", 1, ("q",), persistent=False), Confirmed("s", 1), Delivered("c", "q", "s", 1)],
        *[*TRANSACTION, Acked("c", "q", "s", 1, transaction=7), Crashed(), *AGAIN],
    ],
    "a transaction that a crash undid": [*TRANSACTION, Crashed(), *AGAIN],
    "built, there after a crash": [Built("queue q"), Crashed(), Standing(("queue q", "queue r"))],
    "being removed when it crashed": [Built("queue q"), Removing("queue q"), Crashed(), Standing(())],
    "removed": [Built("queue q"), Removing("queue q"), Removed("queue q"), Crashed(), Standing(())],
}

BAD: dict[str, tuple[str, list[Event]]] = {
    "confirmed, never delivered": (LOST, PUBLISHED),
    "confirmed, gone after a crash": (LOST, [*PUBLISHED, Crashed()]),
    "one of two queues": (LOST, [Invoked("p", 1, ("q", "r")), Confirmed("p", 1), *DELIVERED, *ACKED]),
    "unacked, gone after a crash": (LOST, [*PUBLISHED, *DELIVERED, Crashed()]),
    "requeued and gone": (LOST, [*PUBLISHED, *DELIVERED, Requeued("c", "q", "p", 1)]),
    "gone on the way to the dead letters": (LOST, DEAD_LETTERED),
    "published after the queue was there again": (
        LOST,
        [Deleting("q"), Deleted("q"), Declared("q"), *PUBLISHED],
    ),
    "never published": (UNEXPECTED, DELIVERED),
    "confirmed, never published": (UNEXPECTED, [Confirmed("p", 1)]),
    "another queue's": (UNEXPECTED, [*PUBLISHED, *DELIVERED, *ACKED, Delivered("c", "r", "p", 1)]),
    "a dead letter that nobody rejected": (
        UNEXPECTED,
        [*PUBLISHED, *DELIVERED, *ACKED, Delivered("c", "dead", "p", 1)],
    ),
    "transient, there after a crash": (
        UNEXPECTED,
        [*TRANSIENT, Crashed(), *DELIVERED, *ACKED],
    ),
    "delivered twice": (DUPLICATED, [*PUBLISHED, *DELIVERED, *AGAIN]),
    "delivered after its ack": (DUPLICATED, [*PUBLISHED, *DELIVERED, *ACKED, *AGAIN]),
    "delivered twice after one crash": (DUPLICATED, [*PUBLISHED, *DELIVERED, Crashed(), *AGAIN, *AGAIN]),
    "another channel was lost": (DUPLICATED, [*PUBLISHED, *DELIVERED, Closing("e"), Closed("e"), *AGAIN]),
    "a durable ack forgotten": (
        RESURRECTED,
        [*PUBLISHED, *DELIVERED, *ACKED, *PROVEN, Crashed(), *AGAIN, *DRAINED_BARRIER],
    ),
    "back after the deletion of its queue": (
        RESURRECTED,
        [*PUBLISHED, Deleting("q"), Deleted("q"), Declared("q"), Crashed(), *DELIVERED, *ACKED],
    ),
    "unacked, back after the deletion of its queue": (
        RESURRECTED,
        [*PUBLISHED, *DELIVERED, Deleting("q"), Deleted("q"), Declared("q"), Crashed(), *AGAIN],
    ),
    "swapped": (
        REORDERED,
        [*TWO_PUBLISHED, Delivered("c", "q", "p", 2), Delivered("c", "q", "p", 1), *TWO_ACKED],
    ),
    "swapped by recovery": (
        REORDERED,
        [
            *[*TWO_PUBLISHED, *DELIVERED, Crashed()],
            *[Delivered("c", "q", "p", 2, redelivered=True), Delivered("c", "q", "p", 1, redelivered=True)],
            *TWO_ACKED,
        ],
    ),
    "again, without the mark": (
        UNMARKED,
        [*PUBLISHED, *DELIVERED, Crashed(), Delivered("c", "q", "p", 1), *ACKED],
    ),
    "requeued, without the mark": (
        UNMARKED,
        [*PUBLISHED, *DELIVERED, Requeued("c", "q", "p", 1), Delivered("c", "q", "p", 1), *ACKED],
    ),
    "marked at the first delivery": (OVERMARKED, [*PUBLISHED, *AGAIN]),
    "marked by a crash, though never consumed from": (OVERMARKED, [*PUBLISHED, Crashed(), *AGAIN]),
    "marked, but published after the loss of the consumer": (
        OVERMARKED,
        [Consuming("c", "q"), Closing("c"), Closed("c"), *PUBLISHED, *AGAIN],
    ),
    "marked by a stop, though new": (
        OVERMARKED,
        [Consuming("c", "q"), Stopped(), *PUBLISHED, Stopped(), *AGAIN],
    ),
    "flipped": (CORRUPT, [*PUBLISHED, Delivered("c", "q", "p", 1, intact=False), *ACKED]),
    "half of the publishes": (TORN, [*TRANSACTION, Crashed(), *FIRST_OF_TRANSACTION]),
    "the publishes without the ack": (
        TORN,
        [*TRANSACTION, Crashed(), *FIRST_OF_TRANSACTION, *SECOND_OF_TRANSACTION, *AGAIN],
    ),
    "the ack without the publishes": (TORN, [*TRANSACTION, Crashed()]),
    "built, gone after a crash": (LOST, [Built("queue q"), Crashed(), Standing(("exchange q",))]),
    "removed, there after a crash": (
        RESURRECTED,
        [Built("queue q"), Removing("queue q"), Removed("queue q"), Crashed(), Standing(("queue q",))],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    report = check(GOOD[name])

    assert report.ok, str(report)


@pytest.mark.parametrize("name", BAD)
def test_reports(name: str) -> None:
    kind, events = BAD[name]

    assert list(check(events).violations) == [kind]


def test_counts_what_was_tried() -> None:
    report = check(
        [*PUBLISHED, Crashed(), *DELIVERED, *ACKED, Invoked("p", 2, ("q",)), Delivered("c", "q", "p", 2)]
    )

    assert report.counts["invoked"] == 2
    assert report.counts["crashed"] == 1
    assert report.counts["recovered"] == 1


def test_refuses_a_load_that_uses_a_number_twice() -> None:
    with pytest.raises(ValueError, match="published \\('p', 1\\) twice"):
        check([*PUBLISHED, *PUBLISHED])


def test_saved_history_reads_back(tmp_path: Path) -> None:
    events: list[Event] = [event for _, events in BAD.values() for event in events]

    save(events, tmp_path / "history")

    assert list(load(tmp_path / "history")) == events
