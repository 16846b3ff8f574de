"""Dead lettering: what becomes of a message that a queue gives up, when the queue has a dead-letter exchange.

The message is published again, as a new one with its history in the `x-death` header, to the exchange that
the queue names; a missing exchange drops it. `x-death` has one table per {queue, reason}, newest first; a
repeated death counts up and moves to the front, so that the header does not grow with every round. RabbitMQ
keeps the history in this header too, so one that a client sent is taken at its word, in whatever shape it
comes.

Cycles: a message that would come back to a queue where it died before, without any rejection since, is
dropped for that queue: nobody would ever stop it. A consumer's rejection makes a cycle somebody's decision,
and it goes on.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import FieldTable, FieldValue, Long, decode_table, encode_table
from leveret.protocol.amqp.properties import read_facts, with_changes

from ..message import Message, QueuedMessage
from .delivery import enqueue_to

if TYPE_CHECKING:
    from .queue import Queue

COUNT_MAX = 2**63 - 1  # a long; a client may send us any


class DeathReason(StrEnum):
    """Why a queue gave a message up, in the words of `x-death`."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    MAXLEN = "maxlen"
    DELIVERY_LIMIT = "delivery_limit"


def dead_letter(copy: QueuedMessage, reason: DeathReason) -> None:
    """Publish the message to its queue's dead-letter exchange, if any. The caller settles the copy."""
    queue = copy.queue
    exchange_name = queue.settings.dead_letter_exchange
    if exchange_name is None or exchange_name not in queue.vhost.exchanges:
        return
    services = queue.vhost.services
    source = copy.message
    headers = {} if source.facts.headers is None else decode_table(source.facts.headers)
    now_ms = services.clock.now_ms()
    deaths = _add_death(headers.get("x-death"), _death_table(copy, reason, headers, now_ms))
    new_key = queue.settings.dead_letter_routing_key
    properties = with_changes(
        source.properties,
        set_headers={"x-death": deaths} | _first_and_last_death(copy, reason, headers),
        remove_headers=("BCC",) if new_key is None else ("CC", "BCC"),
        remove_expiration=True,  # so that it cannot expire again where it goes
    )
    message = Message(
        services.next_sequences(1),
        now_ms,
        exchange_name,
        source.routing_key if new_key is None else new_key,
        properties,
        read_facts(properties),
        source.body,
    )
    routed: Sequence[Queue] = queue.vhost.route(exchange_name, message.routing_key, message.facts)
    targets = [target for target in routed if not _is_automatic_cycle(target.name, deaths)]
    if targets:
        enqueue_to([message], targets, services)


def _death_table(copy: QueuedMessage, reason: DeathReason, headers: FieldTable, now_ms: int) -> FieldTable:
    """The `x-death` entry of a first death for this reason in this queue."""
    message = copy.message
    cc = headers.get("CC")
    routing_keys: list[FieldValue] = [message.routing_key]
    if isinstance(cc, list):
        routing_keys += [key for key in cc if isinstance(key, str)]  # what else is there routed nothing
    table: FieldTable = {
        "count": Long(1),
        "reason": reason.value,
        "queue": copy.queue.name,
        "time": datetime.fromtimestamp(now_ms // 1000, UTC),
        "exchange": message.exchange,
        "routing-keys": routing_keys,
    }
    if message.facts.expiration is not None:
        table["original-expiration"] = message.facts.expiration
    return table


def _first_and_last_death(
    copy: QueuedMessage, reason: DeathReason, headers: FieldTable
) -> dict[str, FieldValue]:
    where: dict[str, FieldValue] = {
        "queue": copy.queue.name,
        "reason": reason.value,
        "exchange": copy.message.exchange,
    }
    changed = {f"x-last-death-{name}": value for name, value in where.items()}
    if "x-death" not in headers:
        changed |= {f"x-first-death-{name}": value for name, value in where.items()}
    return changed


def _add_death(history: FieldValue, death: FieldTable) -> list[FieldValue]:
    """The `x-death` array with this death in front, counted up from its predecessor if there is one."""
    if not isinstance(history, list) or not _can_be_written(history):
        return [death]  # clients that publish a message again turn it into strings and the like
    entries = _merge_repeats(history)
    place = _place(death)
    for entry in entries:
        if isinstance(entry, dict) and _place(entry) == place:
            _count_up(entry)
            return [entry, *(other for other in entries if other is not entry)]
    return [death, *entries]


def _merge_repeats(history: Sequence[FieldValue]) -> list[FieldValue]:
    """One entry per {queue, reason}: RabbitMQ before 3.6 wrote one per death, without a count."""
    merged: list[FieldValue] = []
    by_place: dict[tuple[str, str], FieldTable] = {}
    for entry in history:
        place = _place(entry) if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or place is None:
            merged.append(entry)
        elif place in by_place:
            _count_up(by_place[place])
        else:
            by_place[place] = first = {"count": Long(1)} | entry
            merged.append(first)
    return merged


def _place(death: FieldTable) -> tuple[str, str] | None:
    """What entries are told apart by; None for a table that is no death."""
    queue, reason = death.get("queue"), death.get("reason")
    return (queue, reason) if isinstance(queue, str) and isinstance(reason, str) else None


def _count_up(death: FieldTable) -> None:
    count = death.get("count")
    death["count"] = Long(min(count + 1, COUNT_MAX) if isinstance(count, int) else 2)


def _can_be_written(history: list[FieldValue]) -> bool:
    """Whether a client's table has an encoding; names that are not UTF-8 may have none once decoded."""
    try:
        encode_table({"x-death": history})
    except ValueError:
        return False
    return True


def _is_automatic_cycle(queue_name: str, deaths: Sequence[FieldValue]) -> bool:
    """Whether the message died in this queue, and since then (with its newest death) never by a rejection."""
    for death in deaths:
        if not isinstance(death, dict) or death.get("reason") == DeathReason.REJECTED:
            return False  # (what is no table was put there by a client, so the cycle is not automatic either)
        if death.get("queue") == queue_name:
            return True
    return False
