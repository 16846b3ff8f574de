"""Field values as RabbitMQ sees them: which are equal, and how its error texts print them.

RabbitMQ keeps a table as Erlang terms beside their wire types. What clients can observe of that (a number
equals a number of any width, `true` equals no number, a table prints as `[{<<"a">>,signedint,1}]`) is decided
here, once, for binding arguments, message headers and redeclarations.
"""

from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from leveret.protocol.amqp.field_table import FieldValue, field_type_name


class Atom(str):
    """A constant such as `true`; differs from the string of the same letters, which is a `bytes` term."""

    __slots__ = ()


Term: TypeAlias = "Atom | int | float | bytes | tuple[Term, ...] | list[Term]"

UNDEFINED = Atom("undefined")
"""The term of a void value."""


def to_term(value: FieldValue) -> Term:
    """What RabbitMQ decodes the value to, without its wire type; terms compare with `==`."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return Atom("true" if value else "false")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, Decimal):
        return _decimal_term(value)
    if isinstance(value, dict):
        return [(key.encode(), Atom(field_type_name(item)), to_term(item)) for key, item in value.items()]
    return [(Atom(field_type_name(item)), to_term(item)) for item in value]


def _decimal_term(value: Decimal) -> Term:
    """{scale, unscaled}"""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "the wire has no infinite decimals"
    unscaled = int("".join(map(str, digits)))
    return (-exponent, -unscaled if sign else unscaled)


def format_term(term: Term) -> str:
    """As Erlang prints it (`~p`), on one line."""
    if isinstance(term, Atom | int):
        return str(term)
    if isinstance(term, float):
        return _format_float(term)
    if isinstance(term, bytes):
        return _format_binary(term)
    items = ",".join(map(format_term, term))
    return f"{{{items}}}" if isinstance(term, tuple) else f"[{items}]"


def show_bare(term: Term) -> str:
    """A string as it is, anything else as Erlang prints it (`~s` or `~p`)."""
    return term.decode(errors="replace") if isinstance(term, bytes) else format_term(term)


def quote(text: str) -> str:
    """As Erlang prints a string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _format_float(number: float) -> str:
    mantissa, e, exponent = repr(number).partition("e")
    if not e:
        return mantissa
    if "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}e{int(exponent)}"


def _format_binary(octets: bytes) -> str:
    """`<<"text">>`, or the octets' numbers when one of them is not printable in Latin-1."""
    if all(32 <= octet <= 126 or octet >= 160 for octet in octets):
        return f"<<{quote(octets.decode(errors='replace'))}>>" if octets else "<<>>"
    return f"<<{','.join(map(str, octets))}>>"
