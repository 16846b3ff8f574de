"""The topic exchange: what a pattern matches, and that the trie forgets."""

import pytest
from small_vhost import SmallVhost


def matches(pattern: str, key: str) -> bool:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.topic", pattern)
    return house.publish("amq.topic", key) == ["q"]


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("a.b", "a.b"),
        ("a.*", "a.b"),
        ("*.*", "a.b"),
        ("*", "a"),
        ("#", ""),
        ("#", "a"),
        ("#", "a.b.c"),
        ("a.#", "a"),
        ("a.#", "a.b.c"),
        ("#.a", "a"),
        ("#.a", "b.c.a"),
        ("#.a.#", "a"),
        ("#.a.#", "b.a.c"),
        ("*.#", "a"),
        ("*.#.*", "a.b"),
        ("#.#", ""),
        ("#.*.#", "a"),
        ("#.a.#.b.#.c", "a.x.b.y.y.c"),
        ("", ""),
        ("a.*.b", "a..b"),
        ("a..b", "a..b"),
        ("*.*", "."),
        ("a.*", "a."),
        ("*.a", ".a"),
        ("*", "*"),
        ("*", "#"),
        ("#", "#"),
        ("a.#", "a.#"),
        ("é.*", "é.ü"),
    ],
)
def test_matches(pattern: str, key: str) -> None:
    assert matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("a.b", "a"),
        ("a.b", "a.b.c"),
        ("a.b", "A.b"),
        ("*", ""),
        ("*", "a.b"),
        ("a.*", "a"),
        ("a.*", "a.b.c"),
        ("a.#", "b"),
        ("#.a", "a.b"),
        ("*.#.*", "a"),
        ("", "a"),
        ("", "."),
        ("a", "a."),
        ("a*", "ab"),
        ("a#", "ab"),
        ("a", "*"),
        ("a", "#"),
        ("a.b", "a..b"),
    ],
)
def test_does_not_match(pattern: str, key: str) -> None:
    assert not matches(pattern, key)


def test_a_key_finds_all_patterns_that_fit() -> None:
    house = SmallVhost()
    patterns = ("a.b.c", "a.*.c", "a.#", "#", "*.b.*", "a.b", "b.#", "*.*")
    for pattern in patterns:
        house.queue(pattern)
        house.bind(pattern, "amq.topic", pattern)
    assert set(house.publish("amq.topic", "a.b.c")) == {"a.b.c", "a.*.c", "a.#", "#", "*.b.*"}


def test_a_binding_that_goes_leaves_longer_and_shorter_ones() -> None:
    house = SmallVhost()
    house.queues("short", "middle", "long")
    house.bind("short", "amq.topic", "a")
    house.bind("middle", "amq.topic", "a.b")
    house.bind("long", "amq.topic", "a.b.c")
    house.unbind("middle", "amq.topic", "a.b")
    assert house.publish("amq.topic", "a.b") == []
    assert house.publish("amq.topic", "a") == ["short"]
    assert house.publish("amq.topic", "a.b.c") == ["long"]
    house.unbind("long", "amq.topic", "a.b.c")
    assert house.publish("amq.topic", "a") == ["short"]


def test_two_queues_under_one_pattern() -> None:
    house = SmallVhost()
    house.queues("a", "b")
    house.bind("a", "amq.topic", "k.#")
    house.bind("b", "amq.topic", "k.#")
    house.unbind("a", "amq.topic", "k.#")
    assert house.publish("amq.topic", "k.x") == ["b"]


def test_many_hashes_do_not_explode() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.topic", ".".join(["#.a"] * 30))
    assert house.publish("amq.topic", ".".join(["a"] * 100)) == ["q"]
    assert house.publish("amq.topic", ".".join(["a"] * 29 + ["b"] * 70)) == []
