"""Routing through the four exchange types, and the graphs that can be built of them."""

from collections.abc import Callable

from adapters.face import ClientChannel, Properties
from adapters.steps import drain

Name = Callable[[str], str]


async def test_direct_routes_by_equal_key(channel: ClientChannel, name: Name) -> None:
    exchange, red, blue = name("direct"), name("red"), name("blue")
    await channel.declare_exchange(exchange, "direct")
    for queue, key in ((red, "red"), (blue, "blue")):
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange, key)

    for key in ("red", "blue", "Red", "re", ""):
        await channel.publish(key.encode(), exchange=exchange, routing_key=key)

    assert await drain(channel, red) == [b"red"]
    assert await drain(channel, blue) == [b"blue"]


async def test_fanout_ignores_the_key(channel: ClientChannel, name: Name) -> None:
    exchange, queues = name("fanout"), [name("q") for _ in range(3)]
    await channel.declare_exchange(exchange, "fanout")
    for number, queue in enumerate(queues):
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange, f"key {number}")

    await channel.publish(b"to all", exchange=exchange, routing_key="no such key")

    assert [await drain(channel, queue) for queue in queues] == [[b"to all"]] * 3


TOPIC_KEYS = [
    "",
    "stock",
    "stock.usd",
    "stock.usd.nyse",
    "stock..nyse",
    "stock.eur.db",
    "quick.orange.rabbit",
    "Stock",
]
TOPIC_MATCHES = {
    "stock.usd": ["stock.usd"],
    "stock.*": ["stock.usd"],
    "stock.#": ["stock", "stock.usd", "stock.usd.nyse", "stock..nyse", "stock.eur.db"],
    "*.usd.#": ["stock.usd", "stock.usd.nyse"],
    "*": ["stock", "Stock"],
    "*.*.nyse": ["stock.usd.nyse", "stock..nyse"],  # an empty word is a word
    "#.nyse": ["stock.usd.nyse", "stock..nyse"],
    "#.usd.#": ["stock.usd", "stock.usd.nyse"],
    "#": TOPIC_KEYS,
    "": [""],
    "*.#": TOPIC_KEYS[1:],  # at least one word, and the empty key has none
}


async def test_topic_wildcards(channel: ClientChannel, name: Name) -> None:
    exchange = name("topic")
    await channel.declare_exchange(exchange, "topic")
    queues = {binding_key: name("q") for binding_key in TOPIC_MATCHES}
    for binding_key, queue in queues.items():
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange, binding_key)

    for key in TOPIC_KEYS:
        await channel.publish(key.encode(), exchange=exchange, routing_key=key)

    got = {
        binding_key: [b.decode() for b in await drain(channel, queues[binding_key])] for binding_key in queues
    }
    assert got == TOPIC_MATCHES


async def test_headers_all_and_any(channel: ClientChannel, name: Name) -> None:
    exchange = name("headers")
    await channel.declare_exchange(exchange, "headers")
    bindings: dict[str, dict[str, object]] = {
        "all": {"x-match": "all", "format": "pdf", "pages": 3},
        "any": {"x-match": "any", "format": "pdf", "pages": 3},
        "all is the default": {"format": "pdf", "pages": 3},
        "all of nothing": {"x-match": "all"},
        "any of nothing": {"x-match": "any"},
    }
    queues = {label: name("q") for label in bindings}
    for label, queue in queues.items():
        await channel.declare_queue(queue)
        await channel.bind_queue(queue, exchange, "", arguments=bindings[label])

    for body, headers in (
        (b"both", {"format": "pdf", "pages": 3, "more": True}),
        (b"one", {"format": "pdf", "pages": 4}),
        (b"wrong type", {"format": "txt", "pages": "3"}),
        (b"none", {}),
    ):
        await channel.publish(body, exchange=exchange, properties=Properties(headers=headers))

    assert {label: await drain(channel, queue) for label, queue in queues.items()} == {
        "all": [b"both"],
        "any": [b"both", b"one"],
        "all is the default": [b"both"],
        "all of nothing": [b"both", b"one", b"wrong type", b"none"],
        "any of nothing": [],
    }


async def test_default_exchange_routes_to_the_queue_of_that_name(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)

    await channel.publish(b"by name", exchange="", routing_key=queue)

    delivery = await channel.get(queue, no_ack=True)
    assert delivery is not None
    assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"by name", "", queue)


async def test_a_queue_gets_one_copy_however_many_bindings_match(channel: ClientChannel, name: Name) -> None:
    exchange, queue = name("topic"), name("q")
    await channel.declare_exchange(exchange, "topic")
    await channel.declare_queue(queue)
    for binding_key in ("a.*", "*.b", "#", "a.b"):
        await channel.bind_queue(queue, exchange, binding_key)

    await channel.publish(b"once", exchange=exchange, routing_key="a.b")

    assert await drain(channel, queue) == [b"once"]


async def test_unbind_stops_the_flow(channel: ClientChannel, name: Name) -> None:
    exchange, queue = name("fanout"), name("q")
    await channel.declare_exchange(exchange, "fanout")
    await channel.declare_queue(queue)
    await channel.bind_queue(queue, exchange, "k")
    await channel.publish(b"before", exchange=exchange)
    await channel.unbind_queue(queue, exchange, "k")
    await channel.unbind_queue(queue, exchange, "was never bound")

    await channel.publish(b"after", exchange=exchange)

    assert await drain(channel, queue) == [b"before"]


async def test_exchange_to_exchange_bindings_may_form_a_cycle(channel: ClientChannel, name: Name) -> None:
    entry, exit_, queue = name("topic"), name("fanout"), name("q")
    await channel.declare_exchange(entry, "topic")
    await channel.declare_exchange(exit_, "fanout")
    await channel.declare_queue(queue)
    await channel.bind_queue(queue, exit_)
    await channel.bind_exchange(exit_, entry, "to.#")
    await channel.bind_exchange(entry, exit_)

    await channel.publish(b"matches", exchange=entry, routing_key="to.you")
    await channel.publish(b"does not", exchange=entry, routing_key="from.me")

    assert await drain(channel, queue) == [b"matches"]


async def test_alternate_exchange_takes_what_matched_nothing(channel: ClientChannel, name: Name) -> None:
    exchange, alternate, queue, rest = name("direct"), name("alternate"), name("q"), name("rest")
    await channel.declare_exchange(alternate, "fanout")
    await channel.declare_exchange(exchange, "direct", arguments={"alternate-exchange": alternate})
    await channel.declare_queue(queue)
    await channel.declare_queue(rest)
    await channel.bind_queue(queue, exchange, "known")
    await channel.bind_queue(rest, alternate)

    await channel.publish(b"known", exchange=exchange, routing_key="known", mandatory=True)
    await channel.publish(b"unknown", exchange=exchange, routing_key="unknown", mandatory=True)

    assert await drain(channel, queue) == [b"known"]
    assert await drain(channel, rest) == [b"unknown"]
    assert channel.returns.empty()  # the alternate exchange counts as routed


async def test_cc_and_bcc_are_further_routing_keys(channel: ClientChannel, name: Name) -> None:
    to, cc, bcc = name("to"), name("cc"), name("bcc")
    for queue in (to, cc, bcc):
        await channel.declare_queue(queue)

    headers: dict[str, object] = {"CC": [cc], "BCC": [bcc], "kept": "yes"}
    await channel.publish(b"copies", routing_key=to, properties=Properties(headers=headers))

    for queue in (to, cc, bcc):
        delivery = await channel.get(queue, no_ack=True)
        assert delivery is not None
        assert delivery.headers == {"CC": [cc], "kept": "yes"}  # nobody sees the BCC


async def test_auto_delete_exchange_goes_with_its_last_binding(channel: ClientChannel, name: Name) -> None:
    exchange, queue = name("gone"), name("q")
    await channel.declare_exchange(exchange, "fanout", auto_delete=True)
    await channel.declare_queue(queue)
    await channel.bind_queue(queue, exchange)

    await channel.delete_queue(queue)

    # It would be 406 if the old one were still there.
    await channel.declare_exchange(exchange, "direct")
