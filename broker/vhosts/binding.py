"""Bindings: from a source exchange to a queue or to another exchange, under a key and arguments.

`Bindings` holds all of a vhost's, found from both ends, and keeps each exchange's own index in step. A
binding is what its four parts are: adding one twice has no effect (0-9-1 section 1.7.2.3).
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from leveret.protocol.amqp.field_table import FieldTable, FieldValue, decode_table, encode_table
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

if TYPE_CHECKING:
    from ..queues.queue import Queue
    from .exchanges.exchange import Exchange

Destination: TypeAlias = "Queue | Exchange"
Identity: TypeAlias = tuple[Destination, str, bytes]
"""What tells the bindings of one source apart. Arguments count with their wire types but in any order."""

SHARED_TABLES_MAX = 128  # remembered, so that the many queues and bindings that are declared alike have one
SHARED_TABLE_MAX_BYTES = 1024
_NO_ARGUMENTS = encode_table({})


class Binding:
    """Compared by identity: `Bindings` holds each only once."""

    __slots__ = ("arguments", "destination", "key", "record", "source")

    def __init__(
        self, source: "Exchange", destination: Destination, key: str, arguments: Mapping[str, FieldValue]
    ) -> None:
        self.source = source
        self.destination = destination
        self.key = key
        self.arguments = arguments
        self.record = b""  # what the journal keeps of it, if it is durable

    @property
    def durable(self) -> bool:
        """Whether it outlives a restart: only if both ends do."""
        return self.source.durable and self.destination.durable

    @property
    def identity(self) -> Identity:
        """Raises HardError for arguments that have no encoding."""
        return self.destination, self.key, encode_arguments(dict(sorted(self.arguments.items())))


class BindingSet:
    """An ordered set of bindings, small while it holds one: there are two per queue, and nearly all do."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: Binding | dict[Binding, None] | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def __iter__(self) -> Iterator[Binding]:
        held = self._held
        if held is None:
            return iter(())
        return iter(held if isinstance(held, dict) else (held,))

    def add(self, binding: Binding) -> None:
        """One that is not in it."""
        held = self._held
        if held is None:
            self._held = binding
        elif isinstance(held, dict):
            held[binding] = None
        else:
            self._held = {held: None, binding: None}

    def remove(self, binding: Binding) -> None:
        """One that is in it."""
        if isinstance(self._held, dict):
            del self._held[binding]
        else:
            assert self._held is binding
            self._held = None


def shared_arguments(arguments: FieldTable) -> FieldTable:
    """An equal table, one for all that are declared alike. Raises HardError where there is no encoding."""
    encoded = encode_arguments(arguments)
    return _decoded(encoded) if len(encoded) <= SHARED_TABLE_MAX_BYTES else arguments


_decoded = lru_cache(SHARED_TABLES_MAX)(decode_table)


def encode_arguments(arguments: Mapping[str, FieldValue]) -> bytes:
    """The table's bytes, for comparisons and records. Raises HardError where there are none."""
    if not arguments:
        return _NO_ARGUMENTS
    try:
        return encode_table(arguments)
    except ValueError as error:  # a name that is not UTF-8, too long once it is escaped
        raise HardError(ReplyCode.SYNTAX_ERROR, f"cannot keep these arguments: {error}") from error


class Bindings:
    """Ends are compared by identity: a name may come again as another queue."""

    def __init__(self) -> None:
        self._by_source: dict[Exchange, dict[Identity, Binding]] = {}
        self._by_destination: dict[Destination, BindingSet] = {}

    def __iter__(self) -> Iterator[Binding]:
        for bindings in self._by_source.values():
            yield from bindings.values()

    def from_source(self, source: "Exchange") -> list[Binding]:
        return list(self._by_source.get(source, {}).values())

    def to_destination(self, destination: Destination) -> list[Binding]:
        return list(self._by_destination.get(destination, ()))

    def has_source(self, source: "Exchange") -> bool:
        return source in self._by_source

    def find(self, binding: Binding) -> Binding | None:
        """The one that is held and equal to this."""
        return self._by_source.get(binding.source, {}).get(binding.identity)

    def add(self, binding: Binding) -> None:
        """The caller has found that no equal one is held."""
        self._by_source.setdefault(binding.source, {})[binding.identity] = binding
        self._by_destination.setdefault(binding.destination, BindingSet()).add(binding)
        binding.source.add_binding(binding)

    def remove(self, binding: Binding) -> None:
        """The binding is one that is held."""
        of_source = self._by_source[binding.source]
        del of_source[binding.identity]
        if not of_source:
            del self._by_source[binding.source]
        of_destination = self._by_destination[binding.destination]
        of_destination.remove(binding)
        if not of_destination:
            del self._by_destination[binding.destination]
        binding.source.remove_binding(binding)

    def remove_from(self, source: "Exchange") -> None:
        """Remove all bindings of a source that is gone."""
        for binding in self.from_source(source):
            self.remove(binding)

    def remove_to(self, destination: Destination) -> "list[Exchange]":
        """Remove all bindings to a destination that is gone; returns the sources they came from."""
        bindings = self.to_destination(destination)
        for binding in bindings:
            self.remove(binding)
        return list(dict.fromkeys(binding.source for binding in bindings))
