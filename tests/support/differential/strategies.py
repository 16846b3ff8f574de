"""Hypothesis strategies for scripts: few names, so that steps meet; mostly valid, so that they get somewhere.

What RabbitMQ and Leveret are meant to do differently (docs/rabbitmq-differences.md) is not generated:

- No message has an unknown delivery mode; no queue that the server is to name has an unknown type.
- No exchange has the default exchange for an alternate.
- A wrong exchange type is a word that Erlang does not know: for others the text is another one.
- RabbitMQ only lets the head of a queue expire. So where messages expire while the script is played, all of a
  queue expire alike: the TTL is the queue's and there are no priorities; or it is the messages', and these go
  to `q1` and die into another queue.
- A message has one fault at most.

What channels that end together still give each other is not compared: see `Observation`.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from leveret.protocol.amqp import methods as m
from leveret.protocol.amqp.field_table import FieldTable, FieldValue, Long, SignedByte, UnsignedShort
from leveret.protocol.amqp.properties import BasicProperties

from .player import EXCHANGES, QUEUES, SHORT_TTL_MS
from .script import Action, CloseConnection, Publish, Script, Settle, SettleTag, Step, Wait

PARTS = 4
SHORT = "short"  # stands for a TTL that ends while the script is played
LONG_TTL_MS = 3_600_000


def rarely(odd: st.SearchStrategy[Any], usual: st.SearchStrategy[Any], one_in: int = 8) -> Any:
    """`odd` about once in so many draws."""
    return st.integers(0, one_in - 1).flatmap(lambda n: odd if n == one_in - 1 else usual)


def seldom(one_in: int = 8) -> st.SearchStrategy[bool]:
    return st.integers(0, one_in - 1).map(lambda n: n == one_in - 1)


def table(optional: dict[str, st.SearchStrategy[Any]], size: int = 3) -> st.SearchStrategy[FieldTable]:
    """A table of up to so many of these entries, in any order."""
    entry = st.sampled_from(sorted(optional)).flatmap(lambda name: st.tuples(st.just(name), optional[name]))
    return st.lists(entry, max_size=size, unique_by=lambda each: each[0]).map(dict)


# --- names --------------------------------------------------------------------------------------------

queue_names = rarely(st.sampled_from(["", "<gen1>", "missing", "amq.mine"]), st.sampled_from(QUEUES), 10)
declared_queues = rarely(st.sampled_from(["", "", "<gen1>", "amq.mine"]), st.sampled_from(QUEUES), 8)
BUILT_IN = ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match")
ODD_EXCHANGES = ("", "missing", "amq.mine", "amq.rabbitmq.trace", *BUILT_IN)
exchange_names = rarely(st.sampled_from(ODD_EXCHANGES), st.sampled_from(EXCHANGES), 5)
own_exchanges = rarely(st.sampled_from(["", "missing"]), st.sampled_from(EXCHANGES), 10)
keys = st.sampled_from(["", "a", "b", "a.b", "a.b.c", "a..b", "q1", "q2", "<gen1>"])
patterns = st.sampled_from(["", "a", "a.b", "#", "*", "a.*", "a.#", "#.b", "*.*", "q1", "#.b.#", "a.*.b"])
tags = rarely(st.just(""), st.integers(1, 9).map(lambda number: f"t{number}"), 10)

# --- arguments ----------------------------------------------------------------------------------------

odd_values: st.SearchStrategy[FieldValue] = st.sampled_from(
    [-1, 0, 1, 2, "2", "", True, None, 1.5, Long(2), SignedByte(-1), UnsignedShort(2), 2**40, {}, [], b"2"]
)


def argument(*usual: FieldValue) -> Any:
    return rarely(odd_values, st.sampled_from(usual), 10)


_queue_arguments = {
    "x-message-ttl": argument(LONG_TTL_MS, Long(LONG_TTL_MS), 0, SHORT),
    "x-expires": argument(LONG_TTL_MS),
    "x-max-length": argument(0, 1, 2, 3),
    "x-max-length-bytes": argument(0, 5, 10),
    "x-overflow": argument("drop-head", "reject-publish", "reject-publish-dlx", "bad"),
    "x-dead-letter-exchange": argument("", "", "x1", "x2", "missing"),
    "x-dead-letter-routing-key": argument("a", "q1", "q2", "q3"),
    "x-max-priority": argument(1, 5, 10, 255, 256),
    "x-single-active-consumer": argument(True, False),
    "x-queue-type": argument("classic", "classic", "bad"),
    "x-queue-mode": argument("default", "lazy", "bad"),
    "x-queue-version": argument(1, 2, 3),
    "x-max-in-memory-length": argument(5),
    "x-max-age": argument("1h"),
    "x-unknown": argument("anything"),
}
dead_letter_arguments = st.fixed_dictionaries(
    {"x-dead-letter-exchange": st.sampled_from(["", "x1", "x2"])},
    optional={
        "x-dead-letter-routing-key": st.sampled_from(["a", "q1", "q2", "q3"]),
        "x-max-length": st.sampled_from([0, 1, 2]),
        "x-message-ttl": st.sampled_from([0, SHORT, LONG_TTL_MS]),
        "x-overflow": st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"]),
    },
)
queue_arguments = st.one_of(
    st.just({}), st.just({}), table(_queue_arguments), dead_letter_arguments, dead_letter_arguments
)
good_queue_arguments = st.one_of(
    st.just({}),
    dead_letter_arguments,
    st.fixed_dictionaries(
        {},
        optional={
            "x-max-priority": st.sampled_from([1, 5]),
            "x-max-length": st.sampled_from([0, 1, 2]),
            "x-max-length-bytes": st.sampled_from([0, 5, 10]),
            "x-single-active-consumer": st.booleans(),
            "x-overflow": st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"]),
        },
    ),
)
header_values = st.sampled_from([1, "1", True, None, Long(1), 1.0, "x", [1], {"a": 1}])
match_arguments = table(
    {
        "x-match": argument("all", "any", "all-with-x", "any-with-x", "bad"),
        "h1": header_values,
        "h2": header_values,
        "x-h": header_values,
    },
    4,
)
binding_arguments = rarely(match_arguments, st.just({}), 3)
exchange_arguments = rarely(
    table(
        {"alternate-exchange": argument("x1", "x2", "x3", "missing").filter(bool), "x-unknown": odd_values}
    ),
    st.just({}),
    4,
)
consumer_arguments = rarely(
    table({"x-priority": argument(-5, 0, 1, Long(10)), "x-cancel-on-ha-failover": st.booleans()}),
    st.just({}),
    3,
)

# --- messages -----------------------------------------------------------------------------------------

carbon_copies = rarely(st.sampled_from(["q1", 5, ["q1", 5], None, [["q1"]]]), st.lists(keys, max_size=3), 8)
message_headers = table(
    {
        "CC": carbon_copies,
        "BCC": carbon_copies,
        "h1": header_values,
        "h2": header_values,
        "x-h": header_values,
        "x-death": st.sampled_from(["odd", [], [{"queue": "q1", "reason": "expired", "count": Long(1)}]]),
    },
    3,
)
MOMENT = datetime(2020, 2, 2, 2, 2, 2, tzinfo=UTC)


def _has_one_fault_at_most(made: BasicProperties) -> bool:
    sound = made.expiration in (None, SHORT) and made.user_id != "somebody"
    return sound or not {"CC", "BCC"} & (made.headers or {}).keys()


odd_properties = st.builds(
    BasicProperties,
    content_type=st.sampled_from([None, "", "text/plain"]),
    content_encoding=st.sampled_from([None, "utf-8"]),
    headers=st.none() | message_headers,
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.sampled_from([None, 0, 1, 2, 5, 9, 255]),
    correlation_id=st.sampled_from([None, "c"]),
    reply_to=st.sampled_from([None, "", "q1"]),
    expiration=rarely(
        st.sampled_from(["", "-1", "1x", "x", "99999999999999", " 5", "+5", "5.0"]),
        st.sampled_from([None, SHORT]),
        20,
    ),
    message_id=st.sampled_from([None, "m"]),
    timestamp=st.sampled_from([None, MOMENT]),
    type=st.sampled_from([None, "t"]),
    user_id=rarely(st.just("somebody"), st.sampled_from([None, "guest"]), 15),
    app_id=st.sampled_from([None, "a"]),
    cluster_id=st.sampled_from([None, "c"]),
).filter(_has_one_fault_at_most)
plain_properties = st.builds(
    BasicProperties,
    delivery_mode=st.sampled_from([None, 2]),
    priority=st.sampled_from([None, 0, 1, 5]),
    expiration=st.sampled_from([None, None, None, SHORT]),
    headers=rarely(message_headers, st.none(), 4),
)
properties = rarely(odd_properties, plain_properties, 4)

# --- actions ------------------------------------------------------------------------------------------

TYPES = ("direct", "fanout", "topic", "headers")
kinds = rarely(st.just("no-such-type"), st.sampled_from(TYPES), 20)
declare_exchange = st.builds(
    m.ExchangeDeclare,
    exchange=rarely(st.sampled_from(ODD_EXCHANGES), st.sampled_from(EXCHANGES), 12),
    type=kinds,
    passive=seldom(),
    durable=st.booleans(),
    auto_delete=seldom(4),
    internal=seldom(),
    no_wait=seldom(),
    arguments=exchange_arguments,
)
declare_queue = st.builds(
    m.QueueDeclare,
    queue=declared_queues,
    passive=seldom(),
    durable=st.booleans(),
    exclusive=seldom(6),
    auto_delete=seldom(5),
    no_wait=seldom(),
    arguments=queue_arguments,
)
bind_queue = st.builds(
    m.QueueBind,
    queue=queue_names,
    exchange=exchange_names,
    routing_key=patterns,
    no_wait=seldom(),
    arguments=binding_arguments,
)
bind_exchange = st.builds(
    m.ExchangeBind,
    destination=own_exchanges,
    source=exchange_names,
    routing_key=patterns,
    no_wait=seldom(),
    arguments=binding_arguments,
)
unbind_queue = st.builds(
    m.QueueUnbind,
    queue=queue_names,
    exchange=exchange_names,
    routing_key=patterns,
    arguments=binding_arguments,
)
unbind_exchange = st.builds(
    m.ExchangeUnbind,
    destination=own_exchanges,
    source=exchange_names,
    routing_key=patterns,
    arguments=binding_arguments,
)
publish = st.builds(
    Publish,
    method=st.builds(
        m.BasicPublish,
        exchange=rarely(exchange_names, st.sampled_from(["", "", "x1", "x2"]), 4),
        routing_key=keys | st.sampled_from(["q1", "q2", "q3"]),
        mandatory=seldom(3),
        immediate=seldom(60),
    ),
    properties=properties,
    padding=st.sampled_from([0, 0, 0, 3, 10, 140_000]),
)
publish_to_queue = st.builds(
    Publish,
    method=st.builds(m.BasicPublish, routing_key=st.sampled_from(["q1", "q1", "q2", "q3"])),
    properties=plain_properties,
)
consume = st.builds(
    m.BasicConsume,
    queue=rarely(queue_names, st.sampled_from(["q1", "q1", "q2", "q3"]), 3),
    consumer_tag=tags,
    no_ack=seldom(3),
    exclusive=seldom(8),
    no_wait=seldom(),
    arguments=consumer_arguments,
)
settlement_kinds = st.sampled_from(["ack", "nack", "reject"])
settle = st.builds(
    Settle,
    kind=settlement_kinds,
    which=st.integers(0, 5),
    multiple=seldom(3),
    requeue=st.booleans(),
)
settle_tag = st.builds(
    SettleTag,
    kind=settlement_kinds,
    tag=st.sampled_from([0, 0, 1, 2, 99]),
    multiple=st.booleans(),
    requeue=st.booleans(),
)
qos = st.builds(
    m.BasicQos,
    prefetch_size=rarely(st.just(1), st.just(0), 40),
    prefetch_count=st.integers(0, 3),
    global_=st.booleans(),
)
delete_queue = st.builds(
    m.QueueDelete,
    queue=queue_names,
    if_unused=seldom(3),
    if_empty=seldom(3),
    no_wait=seldom(),
)
delete_exchange = st.builds(
    m.ExchangeDelete, exchange=exchange_names, if_unused=st.booleans(), no_wait=seldom()
)
replies = st.sampled_from(
    [
        m.BasicConsume(queue="amq.rabbitmq.reply-to", consumer_tag="t1", no_ack=True),
        m.BasicConsume(queue="amq.rabbitmq.reply-to", consumer_tag="t2"),
        m.QueueDeclare(queue="amq.rabbitmq.reply-to", passive=True),
        m.QueueDeclare(queue="amq.rabbitmq.reply-to"),
        m.BasicGet(queue="amq.rabbitmq.reply-to"),
        m.QueueBind(queue="amq.rabbitmq.reply-to", exchange="x1"),
        m.QueueDelete(queue="amq.rabbitmq.reply-to"),
        Publish(m.BasicPublish(routing_key="q1"), BasicProperties(reply_to="amq.rabbitmq.reply-to")),
        Publish(m.BasicPublish(routing_key="<rabbitmq.reply-to1>", mandatory=True), BasicProperties()),
    ]
)
rare = st.sampled_from(
    [
        m.ChannelClose(reply_code=200),
        m.ChannelOpen(),
        m.ChannelFlow(active=False),
        m.AccessRequest(),
        m.BasicRecover(requeue=False),
        m.BasicRecoverAsync(requeue=True),
        m.BasicRecoverAsync(requeue=False),
        CloseConnection(),
        CloseConnection(politely=False),
        Wait(),
    ]
)
transactions = st.sampled_from([m.TxSelect(), m.TxCommit(), m.TxCommit(), m.TxRollback()])

_WEIGHTS: tuple[tuple[int, st.SearchStrategy[Any]], ...] = (
    (8, publish),
    (8, publish_to_queue),
    (9, settle),
    (1, settle_tag),
    (9, consume),
    (4, st.builds(m.BasicGet, queue=queue_names, no_ack=st.booleans())),
    (2, qos),
    (2, st.builds(m.BasicCancel, consumer_tag=tags, no_wait=seldom())),
    (1, st.just(m.BasicRecover(requeue=True))),
    (2, declare_queue),
    (2, declare_exchange),
    (2, bind_queue),
    (1, bind_exchange),
    (1, unbind_queue),
    (1, unbind_exchange),
    (1, st.builds(m.QueuePurge, queue=queue_names, no_wait=seldom())),
    (1, delete_queue),
    (1, delete_exchange),
    (1, st.builds(m.ConfirmSelect, no_wait=seldom())),
    (3, transactions),
    (1, replies),
    (1, rare),
)
actions: st.SearchStrategy[Action] = st.sampled_from(
    [strategy for weight, strategy in _WEIGHTS for _ in range(weight)]
).flatmap(lambda strategy: strategy)


def steps(of: st.SearchStrategy[Action]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.sampled_from([0, 0, 0, 1]), st.sampled_from([1, 1, 1, 2]), of)


channel_modes: st.SearchStrategy[list[Action]] = st.sampled_from(
    [
        [],
        [],
        [m.ConfirmSelect()],
        [m.TxSelect()],
        [m.BasicQos(prefetch_count=1)],
        [m.BasicQos(prefetch_count=2, global_=True)],
    ]
)


@st.composite
def topologies(draw: st.DrawFn) -> list[Step]:
    """Queues and exchanges that exist, mostly, with bindings between them; and a channel's mode."""
    queues = [
        m.QueueDeclare(queue=queue, durable=draw(st.booleans()), arguments=draw(good_queue_arguments))
        for queue in QUEUES
    ]
    exchanges = [
        m.ExchangeDeclare(
            exchange=exchange, type=draw(st.sampled_from(TYPES)), arguments=draw(exchange_arguments)
        )
        for exchange in EXCHANGES
    ]
    bindings = draw(st.lists(st.one_of(bind_queue, bind_queue, bind_exchange), max_size=5))
    there = [Step(0, 2, action) for action in (*queues, *exchanges) if draw(st.integers(0, 15))]
    there += [Step(0, 2, action) for action in bindings]
    return [*there, *(Step(0, 1, action) for action in draw(channel_modes))]


some_steps = st.lists(steps(actions), max_size=10)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Some topology, then anything."""
    parts = draw(st.lists(some_steps, min_size=PARTS, max_size=PARTS))  # one list would mostly be short
    drawn = [*draw(topologies()), *(step for part in parts for step in part)]
    short_ttl_ms = draw(st.sampled_from([LONG_TTL_MS, LONG_TTL_MS, 0, SHORT_TTL_MS]))
    messages_expire = draw(st.booleans())
    made = tuple(
        replace(step, action=_with_ttl(step.action, short_ttl_ms, messages_expire)) for step in drawn
    )
    return Script(made, sleeps=short_ttl_ms == SHORT_TTL_MS)


def _with_ttl(action: Action, short_ttl_ms: int, messages_expire: bool) -> Action:
    """The action with a real TTL in place of `SHORT`, and without what must not stand next to it."""
    is_short = short_ttl_ms != LONG_TTL_MS
    if isinstance(action, m.QueueDeclare):
        arguments = action.arguments
        if is_short and messages_expire:
            arguments = {name: value for name, value in arguments.items() if "dead-letter" not in name}
            if action.queue == "q1":
                arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q2"}
        if not action.queue:
            arguments = {name: value for name, value in arguments.items() if name != "x-queue-type"}
        if is_short:
            arguments = {name: value for name, value in arguments.items() if name != "x-max-priority"}
        return replace(
            action,
            arguments={name: short_ttl_ms if value == SHORT else value for name, value in arguments.items()},
        )
    if isinstance(action, Publish):
        if is_short and messages_expire:
            return replace(
                action,
                method=m.BasicPublish(routing_key="q1"),
                properties=replace(
                    action.properties,
                    expiration=str(short_ttl_ms),
                    headers=_without_keys(action.properties.headers),
                ),
            )
        if action.properties.expiration == SHORT:
            expiration = None if is_short else str(short_ttl_ms)
            return replace(action, properties=replace(action.properties, expiration=expiration))
    return action


def _without_keys(headers: FieldTable | None) -> FieldTable | None:
    return headers and {name: value for name, value in headers.items() if name not in ("CC", "BCC")}
