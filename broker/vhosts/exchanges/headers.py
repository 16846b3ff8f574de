"""The headers exchange: bindings match by their arguments (0-9-1 section 3.1.3.4, with RabbitMQ's additions).

`x-match` says how: `all` (the default) or `any` of the arguments must be in the message's headers with the
same value; arguments that start with `x-` take part only under `all-with-x` and `any-with-x`. A void argument
asks only that the header is present. Values compare as numbers and strings, whatever width they travelled in.
Without arguments to compare, `all` matches everything and `any` nothing. Keys play no part.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..binding import Binding, Destination
from ..terms import UNDEFINED, Term, format_term, to_term
from .exchange import Envelope, Exchange

_MATCH = "x-match"
_MATCHES = ("all", "any", "all-with-x", "any-with-x")


class _Pattern:
    """A binding's arguments, ready to be compared."""

    __slots__ = ("_needs_all", "_wanted")

    def __init__(self, arguments: Mapping[str, FieldValue]) -> None:
        match = arguments.get(_MATCH, "all")
        self._needs_all = match in ("all", "all-with-x")
        with_x = match in ("all-with-x", "any-with-x")
        self._wanted: dict[str, Term] = {
            name: to_term(value)
            for name, value in arguments.items()
            if name != _MATCH and (with_x or not name.startswith("x-"))
        }

    def matches(self, headers: Mapping[str, Term]) -> bool:
        fits = (
            name in headers and (value is UNDEFINED or headers[name] == value)
            for name, value in self._wanted.items()
        )
        return all(fits) if self._needs_all else any(fits)


class HeadersExchange(Exchange):
    """Every binding is compared with every message."""

    type = "headers"

    def __init__(self, name: str, vhost_name: str, **properties: Any) -> None:
        super().__init__(name, vhost_name, **properties)
        self._patterns: dict[Binding, _Pattern] = {}

    def check_binding(self, arguments: Mapping[str, FieldValue]) -> None:
        if _MATCH not in arguments:
            return
        match = arguments[_MATCH]
        shown = format_term(to_term(match))
        type_name = field_type_name(match)
        if type_name != "longstr":
            raise SoftError(
                ReplyCode.PRECONDITION_FAILED,
                f"Invalid x-match field type {type_name} (value {shown}); expected longstr",
            )
        if match not in _MATCHES:
            raise SoftError(
                ReplyCode.PRECONDITION_FAILED,
                f"Invalid x-match field value {shown}; expected all, any, all-with-x, or any-with-x",
            )

    def add_binding(self, binding: Binding) -> None:
        self._patterns[binding] = _Pattern(binding.arguments)

    def remove_binding(self, binding: Binding) -> None:
        del self._patterns[binding]

    def match(self, envelope: Envelope) -> Iterator[Destination]:
        if not self._patterns:
            return
        headers = {name: to_term(value) for name, value in envelope.open_headers().items()}
        for binding, pattern in self._patterns.items():
            if pattern.matches(headers):
                yield binding.destination
