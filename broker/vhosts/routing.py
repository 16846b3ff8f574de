"""From a message's exchange and keys to the queues that get it.

An exchange is visited at most once and a queue is found at most once, however many bindings and cycles lead
there. An exchange that matches nothing hands over to its alternate exchange.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import decode_table, field_type_name
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from .binding import Destination
from .exchanges.exchange import Envelope, Exchange

if TYPE_CHECKING:
    from ..queues.queue import Queue

_LETTER_C = ord("C")  # finding one octet is many times as fast as finding two


def find_queues(
    exchanges: Mapping[str, Exchange], start: Exchange, envelope: Envelope
) -> "tuple[Queue, ...]":
    """The queues that an envelope handed to this exchange reaches."""
    queues: dict[Queue, None] = {}
    visited = {start}
    pending = [start]
    while pending:
        for destination in _destinations(exchanges, pending.pop(), envelope):
            if not isinstance(destination, Exchange):
                queues[destination] = None
            elif destination not in visited:
                visited.add(destination)
                pending.append(destination)
    return tuple(queues)


def _destinations(
    exchanges: Mapping[str, Exchange], exchange: Exchange, envelope: Envelope
) -> list[Destination]:
    matched = list(exchange.match(envelope))
    if not matched and exchange.alternate is not None:
        alternate = exchanges.get(exchange.alternate)
        if alternate is not None:
            return [alternate]
    return matched


def may_carry_keys(headers: bytes) -> bool:
    """Whether a table can have a CC or BCC header: cheap, and never wrongly False."""
    return _LETTER_C in headers and b"CC" in headers


def extra_keys(headers: bytes) -> list[str]:
    """The keys in the CC and BCC headers. Raises 406 for what is no array.

    What is in the arrays and is no string is ignored, as RabbitMQ does.
    """
    table = decode_table(headers)
    keys: list[str] = []
    for name in ("CC", "BCC"):
        if name not in table:
            continue
        value = table[name]
        if not isinstance(value, list):
            raise SoftError(
                ReplyCode.PRECONDITION_FAILED,
                f'invalid message: {{unacceptable_type_in_header,"{name}",{field_type_name(value)}}}',
            )
        keys += [key for key in value if isinstance(key, str)]
    return keys
