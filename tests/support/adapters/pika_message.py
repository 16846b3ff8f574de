"""pika's messages and errors in the face's words; shared by the adapters of both pika connection classes."""

import re
from datetime import UTC, datetime
from typing import Any

import pika
from pika import exceptions, spec

from .face import ClosedByBroker, ConnectionLost, Delivery, Properties, Returned

_NAMES = [name for name in Properties.__dataclass_fields__ if name != "headers"]


def to_pika(properties: Properties) -> pika.BasicProperties:
    fields: dict[str, Any] = {name: getattr(properties, name) for name in _NAMES}
    return pika.BasicProperties(headers=properties.headers, **fields)


def from_pika(properties: pika.BasicProperties) -> Properties:
    fields: dict[str, Any] = {name: getattr(properties, name) for name in _NAMES}
    return Properties(headers=_aware(properties.headers), **fields)


def _aware(value: Any) -> Any:
    """pika reads timestamps as naive UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if isinstance(value, dict):
        return {key: _aware(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_aware(item) for item in value]
    return value


def delivery(
    method: spec.Basic.Deliver | spec.Basic.GetOk, properties: pika.BasicProperties, body: bytes
) -> Delivery:
    return Delivery(
        body=body,
        exchange=method.exchange,
        routing_key=method.routing_key,
        delivery_tag=method.delivery_tag,
        redelivered=bool(method.redelivered),
        properties=from_pika(properties),
        message_count=getattr(method, "message_count", None),
    )


def returned(method: spec.Basic.Return, body: bytes) -> Returned:
    return Returned(method.reply_code, method.reply_text, method.exchange, method.routing_key, body)


def broker_said(error: BaseException) -> BaseException:
    """The face's error for one of pika's; any other comes back as it is."""
    match error:
        case exceptions.ChannelClosedByBroker():
            return ClosedByBroker("channel", error.reply_code, error.reply_text)
        case exceptions.ConnectionClosedByBroker():
            return ClosedByBroker("connection", error.reply_code, error.reply_text)
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError():
            # pika puts what the broker said into a text: "ConnectionClosedByBroker: (403) 'ACCESS...'".
            said = re.search(r"\((\d+)\) ['\"](.*)['\"]$", str(error.args[0]))
            return ClosedByBroker("connection", int(said[1]), said[2]) if said else error
        case exceptions.AMQPConnectionError() if error.args and isinstance(error.args[0], BaseException):
            return broker_said(error.args[0])
        case exceptions.StreamLostError():
            return ConnectionLost(str(error))
        case _:
            return error
