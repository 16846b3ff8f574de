"""The exchange types that can be declared, and the exchanges that every vhost has from the start."""

from collections.abc import Mapping

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

from .direct import DirectExchange
from .exchange import ALTERNATE, Exchange
from .fanout import FanoutExchange
from .headers import HeadersExchange
from .topic import TopicExchange

EXCHANGE_TYPES = {
    kind.type: kind for kind in (DirectExchange, FanoutExchange, HeadersExchange, TopicExchange)
}

PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
    "amq.topic": "topic",
}
"""Names and types. They are durable and cannot be deleted."""

INTERNAL = frozenset(("amq.rabbitmq.trace",))
"""Those of them that clients cannot publish to."""


def check_type(type_: str) -> None:
    """Raises 503, as RabbitMQ 3 does."""
    if type_ not in EXCHANGE_TYPES:
        raise HardError(ReplyCode.COMMAND_INVALID, f"unknown exchange type '{type_}'")


def check_alternate(exchange: Exchange) -> None:
    """Raises 406 for an alternate exchange that is no name."""
    name = exchange.arguments.get(ALTERNATE, "")
    if field_type_name(name) != "longstr":
        raise SoftError(
            ReplyCode.PRECONDITION_FAILED,
            f"invalid type '{field_type_name(name)}' for arg '{ALTERNATE}' in {exchange}",
        )


def make_exchange(
    type_: str,
    name: str,
    vhost_name: str,
    *,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Mapping[str, FieldValue],
) -> Exchange:
    return EXCHANGE_TYPES[type_](
        name, vhost_name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
    )


def predeclared(vhost_name: str) -> list[Exchange]:
    """One vhost's set of them."""
    return [
        make_exchange(
            type_,
            name,
            vhost_name,
            durable=True,
            auto_delete=False,
            internal=name in INTERNAL,
            arguments={},
        )
        for name, type_ in PREDECLARED.items()
    ]
