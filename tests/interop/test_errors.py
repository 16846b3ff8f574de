"""What the broker refuses, with the codes and texts that clients and their users know from RabbitMQ.

A soft error closes the channel, a hard one the connection. Texts are compared to the letter; in them `{q}` is
a queue and `{x}` a direct exchange that exist, and `{no}` is the name of nothing.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

import pytest
from adapters.face import Client, ClientChannel, ClosedByBroker, Properties
from adapters.steps import failure

Name = Callable[[str], str]
Operation = Callable[[ClientChannel, dict[str, str]], Awaitable[object]]

NO_QUEUE = "NOT_FOUND - no queue '{no}' in vhost '/'"
NO_EXCHANGE = "NOT_FOUND - no exchange '{no}' in vhost '/'"
IN_EXCLUSIVE_USE = "ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use"
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. "
    "It could be originally declared on another connection or the exclusive property value "
    "does not match that of the original declaration."
)


def inequivalent(arg: str, what: str, new: str, old: str) -> str:
    difference = f"received {new} but current is {old}"
    return f"PRECONDITION_FAILED - inequivalent arg '{arg}' for {what} in vhost '/': {difference}"


def invalid(arg: str, reason: str) -> str:
    return f"PRECONDITION_FAILED - invalid arg '{arg}' for queue '{{no}}' in vhost '/': {reason}"


def scope(client: Client, of_amqp: str) -> str:
    """What the error ended: with the SDK always just the operation."""
    return of_amqp if client.errors_close else "operation"


async def take_and_ack_twice(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.publish(b"x", routing_key=names["q"])
    delivery = await channel.get(names["q"])
    assert delivery is not None
    await channel.ack(delivery.delivery_tag)
    await channel.ack(delivery.delivery_tag)


async def delete_used(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.consume(names["q"])
    await channel.delete_queue(names["q"], if_unused=True)


async def delete_filled(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.publish(b"x", routing_key=names["q"])
    await channel.delete_queue(names["q"], if_empty=True)


async def delete_bound_exchange(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.bind_queue(names["q"], names["x"], "key")
    await channel.delete_exchange(names["x"], if_unused=True)


async def consume_beside_an_exclusive_consumer(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.consume(names["q"], exclusive=True)
    await channel.consume(names["q"])


async def consume_exclusively_beside_a_consumer(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.consume(names["q"])
    await channel.consume(names["q"], exclusive=True)


async def another_dead_letter_exchange(channel: ClientChannel, names: dict[str, str]) -> None:
    await channel.declare_queue(names["q"], arguments={"x-dead-letter-exchange": "dlx"})


async def publish_as(channel: ClientChannel, names: dict[str, str], properties: Properties) -> None:
    await channel.publish(b"x", routing_key=names["q"], properties=properties)


def new_queue(**arguments: int | str) -> Operation:
    """Declare the queue that does not exist yet, with these x- arguments."""
    table = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    return lambda ch, n: ch.declare_queue(n["no"], arguments=dict(table))


NOT_FOUND: dict[str, tuple[Operation, str]] = {
    "passive declare of no queue": (lambda ch, n: ch.declare_queue(n["no"], passive=True), NO_QUEUE),
    "passive declare of no exchange": (lambda ch, n: ch.declare_exchange(n["no"], passive=True), NO_EXCHANGE),
    "consume from no queue": (lambda ch, n: ch.consume(n["no"]), NO_QUEUE),
    "get from no queue": (lambda ch, n: ch.get(n["no"]), NO_QUEUE),
    "purge no queue": (lambda ch, n: ch.purge_queue(n["no"]), NO_QUEUE),
    "bind no queue": (lambda ch, n: ch.bind_queue(n["no"], n["x"]), NO_QUEUE),
    "bind to no exchange": (lambda ch, n: ch.bind_queue(n["q"], n["no"]), NO_EXCHANGE),
    "publish to no exchange": (lambda ch, n: ch.publish(b"x", exchange=n["no"]), NO_EXCHANGE),
}
DECLARED_DIFFERENTLY: dict[str, tuple[Operation, str]] = {
    "durable": (
        lambda ch, n: ch.declare_queue(n["q"], durable=True),
        inequivalent("durable", "queue '{q}'", "'true'", "'false'"),
    ),
    "auto-delete": (
        lambda ch, n: ch.declare_queue(n["q"], auto_delete=True),
        inequivalent("auto_delete", "queue '{q}'", "'true'", "'false'"),
    ),
    "one argument more": (
        another_dead_letter_exchange,
        inequivalent("x-dead-letter-exchange", "queue '{q}'", "the value 'dlx' of type 'longstr'", "none"),
    ),
    "exchange type": (
        lambda ch, n: ch.declare_exchange(n["x"], "topic"),
        inequivalent("type", "exchange '{x}'", "'topic'", "'direct'"),
    ),
    "exchange durable": (
        lambda ch, n: ch.declare_exchange(n["x"], "direct", durable=True),
        inequivalent("durable", "exchange '{x}'", "'true'", "'false'"),
    ),
}
PRECONDITION: dict[str, tuple[Operation, str]] = {
    "delete a queue in use": (delete_used, "PRECONDITION_FAILED - queue '{q}' in vhost '/' in use"),
    "delete a filled queue": (delete_filled, "PRECONDITION_FAILED - queue '{q}' in vhost '/' not empty"),
    "delete a bound exchange": (
        delete_bound_exchange,
        "PRECONDITION_FAILED - exchange '{x}' in vhost '/' in use",
    ),
    "negative limit": (new_queue(max_length=-1), invalid("x-max-length", "{value_negative,-1}")),
    "wrong type": (
        new_queue(message_ttl="1000"),
        invalid("x-message-ttl", '"expected integer, got longstr"'),
    ),
    "zero expiry": (new_queue(expires=0), invalid("x-expires", "{value_zero,0}")),
    "dead letter key alone": (
        new_queue(dead_letter_routing_key="k"),
        invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"),
    ),
    "CC that is no list": (
        lambda ch, n: publish_as(ch, n, Properties(headers={"CC": "text"})),
        'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}',
    ),
    "somebody else's user-id": (
        lambda ch, n: publish_as(ch, n, Properties(user_id="mallory")),
        "PRECONDITION_FAILED - user_id property set to 'mallory' but authenticated user was 'guest'",
    ),
}
ACCESS_REFUSED: dict[str, tuple[Operation, str]] = {
    "reserved queue name": (
        lambda ch, _: ch.declare_queue("amq.mine"),
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "reserved exchange name": (
        lambda ch, _: ch.declare_exchange("amq.mine"),
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "delete a predeclared exchange": (
        lambda ch, _: ch.delete_exchange("amq.topic"),
        "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
    ),
    "bind to the default exchange": (
        lambda ch, n: ch.bind_queue(n["q"], "", "key"),
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "consumer beside an exclusive one": (consume_beside_an_exclusive_consumer, IN_EXCLUSIVE_USE),
    "exclusive consumer beside another": (consume_exclusively_beside_a_consumer, IN_EXCLUSIVE_USE),
}
SOFT = [
    pytest.param(operation, code, text, id=f"{code} {label}")
    for code, cases in ((403, ACCESS_REFUSED), (404, NOT_FOUND), (406, DECLARED_DIFFERENTLY | PRECONDITION))
    for label, (operation, text) in cases.items()
]


@pytest.mark.parametrize(("operation", "code", "text"), SOFT)
async def test_soft_errors_close_the_channel(
    client: Client, name: Name, operation: Operation, code: int, text: str
) -> None:
    """AMQP's soft errors. With the SDK they fail the operation, and even the channel lives on."""
    names = {"q": name("q"), "x": name("x"), "no": name("no")}
    channel, beside = await client.open_channel(confirms=True), await client.open_channel()
    await beside.declare_queue(names["q"])
    await beside.declare_exchange(names["x"], "direct")

    closed = await failure(channel, operation(channel, names))

    for key, value in names.items():
        text = text.replace("{" + key + "}", value)
    assert (closed.scope, closed.code, closed.text) == (scope(client, "channel"), code, text)
    await beside.declare_queue(names["q"], passive=True)  # the rest of the connection lives


UNKNOWN_TAGS: dict[str, tuple[Operation, int]] = {
    "ack twice": (take_and_ack_twice, 1),
    "ack of a tag never given": (lambda ch, _: ch.ack(42), 42),
    "ack of a tag never given, multiple": (lambda ch, _: ch.ack(5, multiple=True), 5),
    "reject of a tag never given": (lambda ch, _: ch.reject(7), 7),
}


@pytest.mark.parametrize("case", UNKNOWN_TAGS)
async def test_unknown_delivery_tags(client: Client, name: Name, case: str) -> None:
    if not client.settles_by_tag:
        pytest.skip("this library cannot settle what it does not have")
    operation, tag = UNKNOWN_TAGS[case]
    queue = name("q")
    channel = await client.open_channel()
    await channel.declare_queue(queue)

    closed = await failure(channel, operation(channel, {"q": queue}))

    assert (closed.scope, closed.code) == ("channel", 406)
    assert closed.text == f"PRECONDITION_FAILED - unknown delivery tag {tag}"


async def test_publish_without_confirms_to_no_exchange(client: Client, name: Name) -> None:
    if not client.errors_close:
        pytest.skip("this library only logs it")
    channel = await client.open_channel(confirms=False)
    exchange = name("missing")

    closed = await failure(channel, channel.publish(b"x", exchange=exchange))

    assert (closed.scope, closed.code) == ("channel", 404)
    assert closed.text == f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"


@pytest.mark.parametrize("expiration", ["", "10foobar", "-10", "soon"])
async def test_invalid_expiration(
    client: Client, client_class: type[Client], name: Name, expiration: str
) -> None:
    if not client_class.tells_absent_from_empty:
        pytest.skip("this library only sends numbers")
    reasons = {"10foobar": '{leftover_string,"foobar"}', "-10": "{value_negative,-10}"}
    channel = await client.open_channel(confirms=True)

    properties = Properties(expiration=expiration)
    closed = await failure(channel, channel.publish(b"x", routing_key=name("q"), properties=properties))

    reason = reasons.get(expiration, "no_integer")
    assert closed.text == f"PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}"


EXCLUSIVE: dict[str, Operation] = {
    "declare": lambda ch, n: ch.declare_queue(n["q"]),
    "declare exclusively": lambda ch, n: ch.declare_queue(n["q"], exclusive=True),
    "passive declare": lambda ch, n: ch.declare_queue(n["q"], passive=True),
    "bind": lambda ch, n: ch.bind_queue(n["q"], "amq.fanout"),
    "unbind": lambda ch, n: ch.unbind_queue(n["q"], "amq.fanout", "bound"),
    "consume": lambda ch, n: ch.consume(n["q"]),
    "get": lambda ch, n: ch.get(n["q"]),
    "purge": lambda ch, n: ch.purge_queue(n["q"]),
    "delete": lambda ch, n: ch.delete_queue(n["q"]),
}


@pytest.mark.parametrize("case", EXCLUSIVE)
async def test_an_exclusive_queue_is_locked_for_others(
    client: Client, connect: Callable[[], Awaitable[Client]], name: Name, case: str
) -> None:
    queue = name("mine")
    owner = await connect()
    owner_channel = await owner.open_channel()
    await owner_channel.declare_queue(queue, exclusive=True)
    await owner_channel.bind_queue(queue, "amq.fanout", "bound")
    channel = await client.open_channel()

    closed = await failure(channel, EXCLUSIVE[case](channel, {"q": queue}))

    assert (closed.scope, closed.code) == (scope(client, "channel"), 405)
    assert closed.text == LOCKED.replace("{q}", queue)
    await owner.close()


async def test_internal_exchanges_take_nothing(
    client: Client, client_class: type[Client], name: Name
) -> None:
    if not client_class.declares_internal:
        pytest.skip("this library cannot declare internal exchanges")
    exchange = name("internal")
    channel = await client.open_channel(confirms=True)
    await channel.declare_exchange(exchange, "fanout", internal=True)

    closed = await failure(channel, channel.publish(b"x", exchange=exchange))

    assert (closed.code, closed.text) == (
        403,
        f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'",
    )


async def test_an_unknown_exchange_type_closes_the_connection(client: Client, name: Name) -> None:
    channel = await client.open_channel()
    exchange = name("x")

    with pytest.raises(ClosedByBroker) as closed:
        await channel.declare_exchange(exchange, "no-such-type")

    assert (closed.value.scope, closed.value.code) == (scope(client, "connection"), 503)
    assert closed.value.text == "COMMAND_INVALID - unknown exchange type 'no-such-type'"


async def test_a_channel_can_be_opened_after_one_was_closed(client: Client, name: Name) -> None:
    for _ in range(3):
        channel = await client.open_channel()
        assert (await failure(channel, channel.get(name("no")))).code == 404
    assert (await (await client.open_channel()).declare_queue("", exclusive=True)).message_count == 0


async def test_a_wrong_password_is_refused(client_class: type[Client], url: str) -> None:
    parts = urlsplit(url)
    wrong = urlunsplit(parts._replace(netloc=f"guest:wrong@{parts.hostname}:{parts.port}"))

    with pytest.raises(ClosedByBroker) as closed:
        await client_class.connect(wrong)

    assert closed.value.code == 403
    assert closed.value.text == (
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
        "For details see the broker logfile."
    )


async def test_an_unknown_vhost_is_refused(client_class: type[Client], url: str) -> None:
    if not client_class.tells_why_open_failed:
        pytest.skip("this library keeps the reason to itself")
    with pytest.raises(ClosedByBroker) as closed:
        await client_class.connect(urlunsplit(urlsplit(url)._replace(path="/nowhere")))

    assert (closed.value.code, closed.value.text) == (530, "NOT_ALLOWED - vhost nowhere not found")
