"""The topic trie against the definition of a match, word by word."""

from hypothesis import given
from hypothesis import strategies as st

from leveret.broker.vhosts.binding import Binding
from leveret.broker.vhosts.exchanges.exchange import Envelope
from leveret.broker.vhosts.exchanges.topic import TopicExchange

WORDS = st.sampled_from(["a", "b", "", "*", "#"])
KEYS = st.lists(st.sampled_from(["a", "b", ""]), max_size=6).map(".".join)
PATTERNS = st.lists(WORDS, max_size=6).map(".".join)


def make_exchange() -> TopicExchange:
    return TopicExchange("x", "/", durable=False, auto_delete=False, internal=False, arguments={})


def matches(pattern: list[str], words: list[str]) -> bool:
    """0-9-1 section 3.1.3.3, read aloud."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(matches(rest, words[taken:]) for taken in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and matches(rest, words[1:])


def split(key: str) -> list[str]:
    return key.split(".") if key else []


@given(st.lists(PATTERNS, max_size=12), st.data())
def test_the_trie_finds_exactly_what_matches(patterns: list[str], data: st.DataObject) -> None:
    exchange = make_exchange()
    destinations = [make_exchange() for _ in patterns]
    bindings = [
        Binding(exchange, destination, pattern, {})
        for destination, pattern in zip(destinations, patterns, strict=True)
    ]
    for binding in bindings:
        exchange.add_binding(binding)
    removed = data.draw(st.sets(st.integers(0, len(patterns) - 1))) if patterns else set()
    for index in removed:
        exchange.remove_binding(bindings[index])
    for key in data.draw(st.lists(KEYS, min_size=1, max_size=5)):
        found = {destinations.index(found) for found in exchange.match(Envelope([key], None))}  # type: ignore[arg-type]  # only exchanges are bound
        wanted = {
            index
            for index, pattern in enumerate(patterns)
            if index not in removed and matches(split(pattern), split(key))
        }
        assert found == wanted


@given(st.lists(PATTERNS, max_size=12))
def test_nothing_is_left_when_all_bindings_are_gone(patterns: list[str]) -> None:
    exchange = make_exchange()
    bindings = [Binding(exchange, exchange, pattern, {}) for pattern in patterns]
    for binding in bindings:
        exchange.add_binding(binding)
    for binding in bindings:
        exchange.remove_binding(binding)
    assert exchange._root.children == {}
