"""What matching a routing key costs a topic exchange with more and more bindings.

    python -m benchmarks.micro.topic_routing

One binding key in ten has a wildcard; every routing key matches one or two bindings. A naive matcher, which
looks at every binding, is beside it up to 1,000 bindings. The time should follow the words, not the bindings.
"""

import random
import re
import time
from collections.abc import Callable
from statistics import median

from leveret.broker.vhosts.binding import Binding
from leveret.broker.vhosts.exchanges.exchange import Envelope
from leveret.broker.vhosts.exchanges.topic import TopicExchange

SIZES = (10, 100, 1_000, 10_000, 100_000)
NAIVE_UP_TO = 1_000
KEYS = 200
ROUNDS = 5
SEED = 11


def make_exchange() -> TopicExchange:
    return TopicExchange("x", "/", durable=False, auto_delete=False, internal=False, arguments={})


def binding_keys(chance: random.Random, count: int) -> list[str]:
    """Three words each, from a world that grows with the number of bindings."""
    keys = []
    for number in range(count):
        words = [f"region{chance.randrange(20)}", f"device{chance.randrange(count)}", f"event{number % 7}"]
        if chance.random() < 0.1:
            words[chance.choice((0, 2))] = chance.choice("*#")  # the device stays: few bindings match
        keys.append(".".join(words))
    return keys


def as_regex(binding_key: str) -> re.Pattern[str]:
    """A binding key as a regular expression over the words, each followed by a dot."""
    words = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    return re.compile(
        "".join(words.get(word, re.escape(word) + r"\.") for word in binding_key.split(".")) + "$"
    )


def us_per_key(match: Callable[[str], int], keys: list[str]) -> float:
    """The median of several rounds."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for key in keys:
            match(key)
        times.append((time.perf_counter() - started) / len(keys))
    return median(times) * 1e6


def main() -> None:
    print(f"{'bindings':>9} {'trie us/key':>12} {'naive us/key':>13} {'matches':>8}")
    for size in SIZES:
        chance = random.Random(SEED)
        patterns = binding_keys(chance, size)
        exchange = make_exchange()
        for pattern in patterns:
            exchange.add_binding(Binding(exchange, make_exchange(), pattern, {}))
        keys = [key.replace("*", "word").replace("#", "word") for key in chance.choices(patterns, k=KEYS)]

        def match(key: str, exchange: TopicExchange = exchange) -> int:
            return sum(1 for _ in exchange.match(Envelope([key], None)))

        trie = us_per_key(match, keys)
        matches = sum(map(match, keys)) / KEYS
        naive = ""
        if size <= NAIVE_UP_TO:
            regexes = [as_regex(pattern) for pattern in patterns]

            def search(key: str, regexes: list[re.Pattern[str]] = regexes) -> int:
                return sum(1 for regex in regexes if regex.match(key + "."))

            naive = f"{us_per_key(search, keys):13.1f}"
        print(f"{size:9} {trie:12.1f} {naive:>13} {matches:8.1f}")


if __name__ == "__main__":
    main()
