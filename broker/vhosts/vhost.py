"""A vhost: a name space of exchanges, queues and bindings, and the rules by which they come and go.

Checks are made in RabbitMQ 3.10's order and answered with its texts; the rules are those of 0-9-1 sections
1.6 and 1.7. A method either raises and changes nothing, or has told the journal of every durable change.
Permissions are not looked at here.

Invariants:
- `bindings` holds only bindings between exchanges and queues that are in `exchanges` and `queues`.
- `_routes` holds only what a search would find now; every change of the topology empties it.
- Exclusive queues are never durable.
"""

from collections.abc import Sequence
from typing import Any

from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import PropertyFacts, with_changes
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..durability.records import pack_map
from ..queues.queue import Queue
from ..queues.queue_arguments import check_equivalent_arguments, check_server_named, parse_queue_arguments
from ..services import Services
from . import topology
from .binding import Binding, Bindings, Destination, shared_arguments
from .equivalence import check_arguments, check_field
from .exchanges.default import DefaultExchange
from .exchanges.exchange import ALTERNATE, Envelope, Exchange
from .exchanges.types import check_alternate, check_type, make_exchange, predeclared
from .routing import extra_keys, find_queues, may_carry_keys

NAME_MAX_BYTES = 255  # a short string, on the wire and in the log
ROUTES_MAX = 16_384  # remembered routes; keys that never come twice (replies) must not fill the memory

_RESERVED_PREFIX = "amq."


class Vhost:
    """See the module's docstring. `owner` is the connection that calls; it is only compared by identity."""

    def __init__(self, name: str, services: Services) -> None:
        self.name = name
        self.services = services
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {"": DefaultExchange(name, self.queues)}
        self.exchanges |= {exchange.name: exchange for exchange in predeclared(name)}
        self.bindings = Bindings()
        self._exclusive_queues: dict[object, dict[Queue, None]] = {}  # by owner
        self._routes: dict[tuple[str, str], tuple[Queue, ...]] = {}  # by exchange and routing key

    # Exchanges

    def declare_exchange(
        self,
        name: str,
        type_: str,
        *,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: FieldTable,
    ) -> Exchange:
        """Find the exchange, equivalent to this declaration (any, if passive), or make it."""
        if not passive:
            check_type(type_)
        name = _stripped(name)
        _check_not_default(name)
        if passive:
            return self._find_exchange(name)
        exchange = self.exchanges.get(name)
        if exchange is None:
            return self._make_exchange(
                make_exchange(
                    type_,
                    _checked_name("exchange", name),
                    self.name,
                    durable=durable,
                    auto_delete=auto_delete,
                    internal=internal,
                    arguments=arguments,
                )
            )
        check_field(exchange, "type", current=exchange.type, received=type_)
        check_field(exchange, "durable", current=exchange.durable, received=durable)
        check_field(exchange, "auto_delete", current=exchange.auto_delete, received=auto_delete)
        check_field(exchange, "internal", current=exchange.internal, received=internal)
        check_arguments(exchange, (ALTERNATE,), current=exchange.arguments, received=arguments)
        return exchange

    def _make_exchange(self, exchange: Exchange) -> Exchange:
        check_alternate(exchange)
        if exchange.durable:
            exchange.record = self._record(topology.exchange_declared(exchange))
        self.exchanges[exchange.name] = exchange
        self._routes.clear()
        return exchange

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """A missing exchange is no error. Bindings to the exchange do not count as its use."""
        name = _stripped(name)
        _check_not_default(name)
        if name.startswith(_RESERVED_PREFIX):
            raise SoftError(
                ReplyCode.ACCESS_REFUSED,
                f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed",
            )
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and self.bindings.has_source(exchange):
            raise SoftError(ReplyCode.PRECONDITION_FAILED, f"{exchange} in use")
        self._remove_exchanges([exchange])
        self._routes.clear()

    def _remove_exchanges(self, pending: list[Exchange]) -> None:
        """And with each the auto-delete exchanges whose last binding was to it, and so on."""
        while pending:
            exchange = pending.pop()
            del self.exchanges[exchange.name]
            if exchange.durable:
                self._record(topology.exchange_deleted(exchange))
            self.bindings.remove_from(exchange)
            pending += self._unused(self.bindings.remove_to(exchange))

    def _unused(self, sources: list[Exchange]) -> list[Exchange]:
        """Those of them that have just lost the last binding they lived for."""
        return [
            source
            for source in sources
            if source.auto_delete and source.name in self.exchanges and not self.bindings.has_source(source)
        ]

    def _find_exchange(self, name: str) -> Exchange:
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise SoftError(ReplyCode.NOT_FOUND, f"no exchange '{name}' in vhost '{self.name}'")
        return exchange

    # Queues

    def declare_queue(
        self,
        name: str,
        owner: object,
        *,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> Queue:
        """Find the queue, equivalent to this declaration (any, if passive), or make it.

        An empty name asks for one that the server makes up (unless passive).
        """
        name = _stripped(name)
        if passive:
            queue = self.find_queue(name, owner)
            queue.touch()
            return queue
        durable = durable and not exclusive
        if not name:
            check_server_named(arguments)
            name = f"amq.gen-{self.services.random_name()}"
        else:
            _checked_name("queue", name)  # RabbitMQ refuses `amq.` here even if the queue exists
        existing = self.queues.get(name)
        if existing is None:
            return self._make_queue(
                name,
                owner if exclusive else None,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        # Before anything else: a queue of another connection, or another idea of whether it is exclusive.
        if existing.exclusive_owner is not (owner if exclusive else None):
            raise self._locked(existing)
        check_field(existing, "durable", current=existing.durable, received=durable)
        check_field(existing, "auto_delete", current=existing.auto_delete, received=auto_delete)
        check_equivalent_arguments(existing, current=existing.arguments, received=arguments)
        existing.touch()
        return existing

    def _make_queue(
        self,
        name: str,
        exclusive_owner: object | None,
        *,
        durable: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> Queue:
        label = f"queue '{name}' in vhost '{self.name}'"
        settings = parse_queue_arguments(
            label,
            arguments,
            durable=durable,
            exclusive=exclusive_owner is not None,
            auto_delete=auto_delete,
        )
        arguments = shared_arguments(arguments)  # raises while nothing has happened yet
        queue = Queue(
            name,
            self,
            self.services.next_queue_id(),
            durable=durable,
            exclusive_owner=exclusive_owner,
            auto_delete=auto_delete,
            arguments=arguments,
            settings=settings,
        )
        if durable:
            queue.record = self._record(topology.queue_declared(queue))
        self.queues[name] = queue
        if exclusive_owner is not None:
            self._exclusive_queues.setdefault(exclusive_owner, {})[queue] = None
        self._routes.clear()
        return queue

    def find_queue(self, name: str, owner: object) -> Queue:
        """The queue, if this connection may use it: else 404 or 405."""
        queue = self.queues.get(name)
        if queue is None:
            raise SoftError(ReplyCode.NOT_FOUND, f"no queue '{name}' in vhost '{self.name}'")
        self._check_access(queue, owner)
        return queue

    def delete_queue(self, name: str, owner: object, *, if_unused: bool, if_empty: bool) -> int:
        """Returns how many ready messages went with it; a missing queue is no error (0)."""
        queue = self.queues.get(_stripped(name))
        if queue is None:
            return 0
        self._check_access(queue, owner)
        if queue.settings.queue_type == "quorum" and (if_unused or if_empty):
            flag = "if-unused" if if_unused else "if-empty"
            raise HardError(
                ReplyCode.NOT_IMPLEMENTED,
                f"cannot delete {queue}. queue.delete operations with {flag} flag set "
                "are not supported by quorum queues",
            )
        if if_empty and queue.message_count:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, f"{queue} not empty")
        if if_unused and queue.consumer_count:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, f"{queue} in use")
        return queue.delete()

    def remove_queue(self, queue: Queue) -> None:
        """`Queue.delete` says that the queue is gone, for whatever reason."""
        del self.queues[queue.name]
        if queue.durable:
            self._record(topology.queue_deleted(queue))
        if queue.exclusive_owner is not None:
            of_owner = self._exclusive_queues[queue.exclusive_owner]
            del of_owner[queue]
            if not of_owner:
                del self._exclusive_queues[queue.exclusive_owner]
        self._remove_exchanges(self._unused(self.bindings.remove_to(queue)))
        self._routes.clear()

    def delete_exclusive_queues(self, owner: object) -> None:
        """The connection is closing."""
        for queue in list(self._exclusive_queues.get(owner, ())):
            queue.delete()

    def _check_access(self, queue: Queue, owner: object) -> None:
        if queue.exclusive_owner is not None and queue.exclusive_owner is not owner:
            raise self._locked(queue)

    def _locked(self, queue: Queue) -> SoftError:
        return SoftError(
            ReplyCode.RESOURCE_LOCKED,
            f"cannot obtain exclusive access to locked {queue}. It could be originally declared on another "
            "connection or the exclusive property value does not match that of the original declaration.",
        )

    # Bindings

    def bind_queue(
        self, queue_name: str, exchange_name: str, binding_key: str, arguments: FieldTable, owner: object
    ) -> None:
        """Again: no effect."""
        exchange_name, queue_name = _stripped(exchange_name), _stripped(queue_name)
        _check_not_default(exchange_name)
        source = self._find_exchange(exchange_name)
        queue = self.queues.get(queue_name)
        if queue is None:
            raise SoftError(ReplyCode.NOT_FOUND, f"no queue '{queue_name}' in vhost '{self.name}'")
        source.check_binding(arguments)
        self._check_access(queue, owner)
        self._bind(source, queue, binding_key, arguments)

    def unbind_queue(
        self, queue_name: str, exchange_name: str, binding_key: str, arguments: FieldTable, owner: object
    ) -> None:
        """What is not there, ends included, is no error."""
        exchange_name = _stripped(exchange_name)
        _check_not_default(exchange_name)
        source = self.exchanges.get(exchange_name)
        queue = self.queues.get(_stripped(queue_name))
        binding = self._find_binding(source, queue, binding_key, arguments)
        if binding is not None and queue is not None:
            self._check_access(queue, owner)
            self._unbind(binding)

    def bind_exchange(
        self, destination_name: str, source_name: str, binding_key: str, arguments: FieldTable
    ) -> None:
        """Again: no effect."""
        destination_name, source_name = _stripped(destination_name), _stripped(source_name)
        _check_not_default(destination_name)
        _check_not_default(source_name)
        source = self._find_exchange(source_name)
        destination = self._find_exchange(destination_name)
        source.check_binding(arguments)
        self._bind(source, destination, binding_key, arguments)

    def unbind_exchange(
        self, destination_name: str, source_name: str, binding_key: str, arguments: FieldTable
    ) -> None:
        """What is not there, ends included, is no error."""
        destination_name, source_name = _stripped(destination_name), _stripped(source_name)
        _check_not_default(destination_name)
        _check_not_default(source_name)
        source = self.exchanges.get(source_name)
        destination = self.exchanges.get(destination_name)
        binding = self._find_binding(source, destination, binding_key, arguments)
        if binding is not None:
            self._unbind(binding)

    def _bind(self, source: Exchange, destination: Destination, key: str, arguments: FieldTable) -> None:
        binding = Binding(source, destination, key, shared_arguments(arguments))
        if self.bindings.find(binding) is not None:
            return
        self.bindings.add(binding)
        if binding.durable:
            binding.record = self._record(topology.bound(binding))
        self._routes.clear()

    def _find_binding(
        self, source: Exchange | None, destination: "Destination | None", key: str, arguments: FieldTable
    ) -> Binding | None:
        if source is None or destination is None:
            return None
        return self.bindings.find(Binding(source, destination, key, arguments))

    def _unbind(self, binding: Binding) -> None:
        self.bindings.remove(binding)
        if binding.durable:
            self._record(topology.unbound(binding))
        self._remove_exchanges(self._unused([binding.source]))
        self._routes.clear()

    # Routing

    def route_publish(
        self, exchange_name: str, routing_key: str, properties: bytes, facts: PropertyFacts
    ) -> tuple[Sequence[Queue], bytes]:
        """The queues of a client's message, and its properties without BCC. Raises 404, 403 and 406."""
        headers = facts.headers
        if headers is None or not may_carry_keys(headers):
            queues = self._routes.get((exchange_name, routing_key))
            if queues is not None:
                return queues, properties
        exchange = self._find_exchange(exchange_name)
        if exchange.internal:
            raise SoftError(ReplyCode.ACCESS_REFUSED, f"cannot publish to internal {exchange}")
        queues = self._search(exchange, routing_key, headers)
        if headers is not None and may_carry_keys(headers):
            properties = with_changes(properties, remove_headers=("BCC",))
        return queues, properties

    def route(self, exchange_name: str, routing_key: str, facts: PropertyFacts) -> Sequence[Queue]:
        """The queues of a message that the broker publishes itself; internal exchanges are open to it."""
        headers = facts.headers
        if headers is None or not may_carry_keys(headers):
            queues = self._routes.get((exchange_name, routing_key))
            if queues is not None:
                return queues
        return self._search(self._find_exchange(exchange_name), routing_key, headers)

    def _search(self, exchange: Exchange, routing_key: str, headers: bytes | None) -> tuple[Queue, ...]:
        """Search, and remember what was found if the same key always finds the same."""
        keys = [routing_key]
        if headers is not None and may_carry_keys(headers):
            keys += extra_keys(headers)
        envelope = Envelope(keys, headers)
        queues = find_queues(self.exchanges, exchange, envelope)
        # Internal exchanges are not remembered: a hit must mean that clients may publish there.
        if len(keys) == 1 and not envelope.was_opened and not exchange.internal:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            self._routes[exchange.name, routing_key] = queues
        return queues

    # Durability

    def _record(self, record: topology.Record) -> bytes:
        """Tell the journal. Returns what it was told."""
        packed = pack_map({"vhost": self.name, **record})
        self.services.journal.topology(packed)
        return packed

    def snapshot(self) -> list[bytes]:
        """The packed changes that make the durable topology as it is now, for `restore`. Quick: nothing is
        packed for it.
        """
        return topology.snapshot(self)

    def restore(self, change: dict[str, Any]) -> None:
        """Recovery: apply an unpacked change, without checks and without telling the journal again."""
        topology.restore(self, change)
        self._routes.clear()


def _stripped(name: str) -> str:
    """RabbitMQ takes line breaks out of names instead of refusing them."""
    return name.replace("\n", "").replace("\r", "")


def _check_not_default(exchange_name: str) -> None:
    if not exchange_name:
        raise SoftError(ReplyCode.ACCESS_REFUSED, "operation not permitted on the default exchange")


def _checked_name(kind: str, name: str) -> str:
    """A name for something new."""
    if name.startswith(_RESERVED_PREFIX):
        raise SoftError(ReplyCode.ACCESS_REFUSED, f"{kind} name '{name}' contains reserved prefix 'amq.*'")
    if len(name.encode()) > NAME_MAX_BYTES:
        raise SoftError(ReplyCode.PRECONDITION_FAILED, f"{kind} name is longer than {NAME_MAX_BYTES} octets")
    return name
