"""Durable topology as records: what the journal keeps of exchanges, queues and bindings.

A record says what happened (`op`), and the vhost adds where; arguments are the bytes of their field table, so
that they keep their wire types. Whatever goes because of something else has a record of its own, except
bindings: they go silently with either of their ends.

What exists and is durable keeps the packed record that made it (`record`; empty for the transient and the
predeclared), so that a checkpoint of many thousands costs a list.
"""

from typing import TYPE_CHECKING, Any

from leveret.protocol.amqp.field_table import decode_table

from ..durability.records import pack_map
from ..queues.queue import Queue
from ..queues.queue_arguments import parse_queue_arguments
from .binding import Binding, encode_arguments, shared_arguments
from .exchanges.exchange import Exchange
from .exchanges.types import make_exchange

if TYPE_CHECKING:
    from .vhost import Vhost

Record = dict[str, object]


def exchange_declared(exchange: Exchange) -> Record:
    return {
        "op": "exchange_declare",
        "name": exchange.name,
        "type": exchange.type,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": encode_arguments(exchange.arguments),
    }


def exchange_deleted(exchange: Exchange) -> Record:
    return {"op": "exchange_delete", "name": exchange.name}


def queue_declared(queue: Queue) -> Record:
    return {
        "op": "queue_declare",
        "name": queue.name,
        "id": queue.id,
        "auto_delete": queue.auto_delete,
        "arguments": encode_arguments(queue.arguments),
    }


def queue_deleted(queue: Queue) -> Record:
    return {"op": "queue_delete", "name": queue.name, "id": queue.id}


def bound(binding: Binding) -> Record:
    return _of_binding("bind", binding)


def unbound(binding: Binding) -> Record:
    return _of_binding("unbind", binding)


def _of_binding(op: str, binding: Binding) -> Record:
    return {
        "op": op,
        "source": binding.source.name,
        "to_queue": isinstance(binding.destination, Queue),
        "destination": binding.destination.name,
        "key": binding.key,
        "arguments": encode_arguments(binding.arguments),
    }


def snapshot(vhost: "Vhost") -> list[bytes]:
    """The packed records that make all that is durable in a vhost, ends before the bindings between them."""
    records = [exchange.record for exchange in vhost.exchanges.values() if exchange.record]
    records += [queue.record for queue in vhost.queues.values() if queue.record]
    records += [binding.record for binding in vhost.bindings if binding.record]
    return records


def restore(vhost: "Vhost", record: dict[str, Any]) -> None:
    """Apply one record, unchecked. Raises KeyError or ValueError for one that makes no sense here."""
    op = record["op"]
    if op == "exchange_declare":
        vhost.exchanges[record["name"]] = _restored_exchange(vhost, record)
    elif op == "exchange_delete":
        exchange = vhost.exchanges.pop(record["name"])
        vhost.bindings.remove_from(exchange)
        vhost.bindings.remove_to(exchange)
    elif op == "queue_declare":
        vhost.queues[record["name"]] = _restored_queue(vhost, record)
    elif op == "queue_delete":
        vhost.bindings.remove_to(vhost.queues.pop(record["name"]))
    elif op in ("bind", "unbind"):
        _restore_binding(vhost, op, record)
    else:
        raise ValueError(f"unknown change of the topology {op!r}")


def _restored_exchange(vhost: "Vhost", record: dict[str, Any]) -> Exchange:
    exchange = make_exchange(
        record["type"],
        record["name"],
        vhost.name,
        durable=True,
        auto_delete=record["auto_delete"],
        internal=record["internal"],
        arguments=decode_table(record["arguments"]),
    )
    exchange.record = pack_map(record)
    return exchange


def _restored_queue(vhost: "Vhost", record: dict[str, Any]) -> Queue:
    arguments = shared_arguments(decode_table(record["arguments"]))
    auto_delete = record["auto_delete"]
    settings = parse_queue_arguments(
        f"queue '{record['name']}'", arguments, durable=True, exclusive=False, auto_delete=auto_delete
    )
    queue = Queue(
        record["name"],
        vhost,
        record["id"],
        durable=True,
        exclusive_owner=None,
        auto_delete=auto_delete,
        arguments=arguments,
        settings=settings,
    )
    queue.record = pack_map(record)
    return queue


def _restore_binding(vhost: "Vhost", op: str, record: dict[str, Any]) -> None:
    ends: dict[str, Any] = vhost.queues if record["to_queue"] else vhost.exchanges
    binding = Binding(
        vhost.exchanges[record["source"]],
        ends[record["destination"]],
        record["key"],
        shared_arguments(decode_table(record["arguments"])),
    )
    held = vhost.bindings.find(binding)
    if op == "bind" and held is None:
        binding.record = pack_map(record)
        vhost.bindings.add(binding)
    elif op == "unbind" and held is not None:
        vhost.bindings.remove(held)
