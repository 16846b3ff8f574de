"""The field types of the native framing (docs/native-protocol.md section 2) and how values are checked
against them.

A `FieldType` has the name that the document uses and a `check` that raises `ValueError` with the end of the
sentence "<FRAME>: field <name> ..." for a value that does not fit. The same checks hold the peer to the
protocol (in `framing`) and the application (in the client, before anything is sent).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NAME_MAX_BYTES = 255  # a name must fit an AMQP short string
ENTRIES_MAX = 4096  # of an array or a batch; the limit that the msgpack decoder gets, too
MAP_ENTRIES_MAX = 1024
DEPTH_MAX = 32  # of arguments, as for AMQP field tables
TAG_RANGE_MAX = 65_536
TAG_MAX = 2**64 - 1
MANDATORY = 1  # publish flag
REDELIVERED = 1  # delivery flag
PRODUCER_MAX_BYTES = 64  # of a producer's id
PROPERTIES_MAX_BYTES = 131_072  # a property list must fit an AMQP content header frame


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type of section 2.1."""

    name: str
    check: Callable[[Any], None]


def _check_type(expected: type, called: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if type(value) is not expected:
            raise ValueError(f"must be {called}, not {type(value).__name__}")

    return check


def _check_unsigned(bits: int) -> Callable[[Any], None]:
    limit = 2**bits

    def check(value: Any) -> None:
        if type(value) is not int or not 0 <= value < limit:
            raise ValueError(f"must be an integer of 0 to {limit - 1}, not {_shown(value)}")

    return check


def check_name(value: Any) -> None:
    """At most 255 octets of UTF-8."""
    if not isinstance(value, str):  # a StrEnum is one
        raise ValueError(f"must be a string, not {type(value).__name__}")
    # 63 characters have at most 252 octets: most names need no encoding to be measured.
    if len(value) > 63 and len(value.encode()) > NAME_MAX_BYTES:
        raise ValueError(f"is {len(value.encode())} octets long, more than a name's {NAME_MAX_BYTES}")


def _check_table(value: Any) -> None:
    if type(value) is not dict:
        raise ValueError(f"must be a map, not {type(value).__name__}")
    _check_argument(value, 1)


def _check_argument(value: Any, depth: int) -> None:
    """One value of a table; recursion ends at `DEPTH_MAX`."""
    if depth > DEPTH_MAX:
        raise ValueError(f"is nested deeper than {DEPTH_MAX}")
    if type(value) is dict:
        for key, inner in value.items():
            check_name(key)
            _check_argument(inner, depth + 1)
    elif type(value) is list:
        for inner in value:
            _check_argument(inner, depth + 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"contains {value}, which is no 64-bit integer")
    elif value is not None and not isinstance(value, bool | int | float | str | bytes | datetime):
        raise ValueError(f"contains {_shown(value)}, which is not a value of a table")


def _check_tags(value: Any) -> None:
    if type(value) is not list:
        raise ValueError(f"must be an array, not {type(value).__name__}")
    for element in value:
        if type(element) is int:
            if not 1 <= element <= TAG_MAX:
                raise ValueError(f"contains the tag {element}")
        elif not _is_range(element):
            raise ValueError(f"contains {_shown(element)}, which is neither a tag nor a range")


def _is_range(element: Any) -> bool:
    if type(element) is not list or len(element) != 2:
        return False
    first, last = element
    if type(first) is not int or type(last) is not int or not 0 <= first <= last <= TAG_MAX:
        return False
    return first == 0 or last - first < TAG_RANGE_MAX


def _check_publishes(value: Any) -> None:
    if type(value) is not list:
        raise ValueError(f"must be an array, not {type(value).__name__}")
    for entry in value:
        if type(entry) is not list or len(entry) != 5:
            raise ValueError("contains an entry that is not an array of 5")
        exchange, routing_key, flags, properties, body = entry
        if (
            type(exchange) is not str
            or type(routing_key) is not str
            or type(properties) is not bytes
            or type(body) is not bytes
        ):
            raise ValueError("contains an entry with a field of the wrong type")
        if type(flags) is not int or flags & ~MANDATORY:
            raise ValueError(f"contains an entry with the flags {_shown(flags)}")
        if len(properties) > PROPERTIES_MAX_BYTES:
            raise ValueError(f"contains {len(properties)} octets of properties, over {PROPERTIES_MAX_BYTES}")
        if len(exchange) > 63 or len(routing_key) > 63:
            check_name(exchange)
            check_name(routing_key)


def _check_deliveries(value: Any) -> None:
    if type(value) is not list:
        raise ValueError(f"must be an array, not {type(value).__name__}")
    for entry in value:
        if type(entry) is not list or len(entry) != 7:
            raise ValueError("contains an entry that is not an array of 7")
        consumer, delivery_tag, flags, exchange, routing_key, properties, body = entry
        if (
            type(consumer) is not int
            or type(delivery_tag) is not int
            or type(flags) is not int
            or type(exchange) is not str
            or type(routing_key) is not str
            or type(properties) is not bytes
            or type(body) is not bytes
        ):
            raise ValueError("contains an entry with a field of the wrong type")


def _check_returns(value: Any) -> None:
    if type(value) is not list:
        raise ValueError(f"must be an array, not {type(value).__name__}")
    for entry in value:
        if type(entry) is not list or [type(field) for field in entry] != [int, int, str]:
            raise ValueError("contains an entry that is not a tag, a code and a text")


def _check_optional_u16(value: Any) -> None:
    if value is not None:
        U16.check(value)


def _shown(value: Any) -> str:
    """A value in an error text, cut: the text itself must stay short."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


U8 = FieldType("u8", _check_unsigned(8))
U16 = FieldType("u16", _check_unsigned(16))
U32 = FieldType("u32", _check_unsigned(32))
U64 = FieldType("u64", _check_unsigned(64))
OPTIONAL_U16 = FieldType("?u16", _check_optional_u16)
FLAG = FieldType("flag", _check_type(bool, "a boolean"))
NAME = FieldType("name", check_name)
TEXT = FieldType("text", _check_type(str, "a string"))
BIN = FieldType("bin", _check_type(bytes, "bin"))
TABLE = FieldType("table", _check_table)
LIST = FieldType("list", _check_type(list, "an array"))
TAGS = FieldType("tags", _check_tags)
PUBLISHES = FieldType("publishes", _check_publishes)
DELIVERIES = FieldType("deliveries", _check_deliveries)
RETURNS = FieldType("returns", _check_returns)
