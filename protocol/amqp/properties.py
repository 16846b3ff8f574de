"""The property list of a content header (0-9-1 section 4.2.6.1): two octets of flags, then the values.

The broker keeps a property list as the bytes that were published and forwards them untouched. `read_facts`
finds the few things it must know itself and checks the whole list on the way: bytes that passed it are
decodable and editable ever after. `with_changes` edits a list and keeps every other property and header entry
byte for byte. Clients and tests use `BasicProperties`.

Malformed lists raise `HardError(SYNTAX_ERROR)`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from struct import Struct

from .field_table import (
    EMPTY_TABLE,
    DistantTimestamp,
    FieldTable,
    FieldValue,
    check_table,
    decode_table,
    edit_table,
    encode_table,
    malformed,
    timestamp_from_seconds,
)

HEADERS = 0x2000
DELIVERY_MODE = 0x1000
PRIORITY = 0x0800
REPLY_TO = 0x0200
EXPIRATION = 0x0100
TIMESTAMP = 0x0040
USER_ID = 0x0010

# Bit 0 would announce a second word of flags, bit 1 is no property of class basic.
_UNUSED_FLAGS = 0x0003

_SHORT_STRING, _TABLE, _OCTET, _LONG_LONG = range(4)
_KINDS = {HEADERS: _TABLE, DELIVERY_MODE: _OCTET, PRIORITY: _OCTET, TIMESTAMP: _LONG_LONG}

_FACTS_CACHE_MAX = 1024  # entries
_FACTS_CACHED_BYTES_MAX = 64  # longer lists carry ids and timestamps: they do not come twice

_FLAGS = Struct(">H")
_SECONDS = Struct(">Q")


@dataclass(frozen=True, slots=True)
class PropertyFacts:
    """What the broker itself must know of a property list."""

    persistent: bool
    """delivery-mode is 2."""
    priority: int | None = None
    expiration: str | None = None
    """The raw text; the channel validates it."""
    reply_to: str | None = None
    user_id: str | None = None
    headers: bytes | None = None
    """The table with its length, for `decode_table`."""
    plain: bool = False
    """None of the above is present, delivery-mode apart: the broker need not look any further."""


@dataclass(slots=True)
class BasicProperties:
    """All properties, in the order of their flags. None means absent, which is not the same as empty or 0."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: FieldTable | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | DistantTimestamp | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


_NAMES = {0x8000 >> index: field.name for index, field in enumerate(fields(BasicProperties))}

_TRANSIENT = PropertyFacts(persistent=False, plain=True)
_PERSISTENT = PropertyFacts(persistent=True, plain=True)
_facts_cache: dict[bytes, PropertyFacts] = {}
_layouts: dict[int, tuple[tuple[int, int], ...]] = {}


def read_facts(properties: bytes) -> PropertyFacts:
    """What the broker must know of this list. Raises HardError for a list that is not well-formed."""
    facts = _facts_cache.get(properties)
    if facts is None:
        facts = _find_facts(properties)
        if len(properties) <= _FACTS_CACHED_BYTES_MAX:
            if len(_facts_cache) >= _FACTS_CACHE_MAX:
                _facts_cache.clear()
            _facts_cache[properties] = facts
    return facts


def _find_facts(properties: bytes) -> PropertyFacts:
    spans = _spans(properties)
    persistent = DELIVERY_MODE in spans and properties[spans[DELIVERY_MODE][0]] == 2
    if not spans.keys() & _INTERESTING:
        return _PERSISTENT if persistent else _TRANSIENT
    priority = spans.get(PRIORITY)
    headers = spans.get(HEADERS)
    return PropertyFacts(
        persistent=persistent,
        priority=None if priority is None else properties[priority[0]],
        expiration=_text(properties, spans.get(EXPIRATION)),
        reply_to=_text(properties, spans.get(REPLY_TO)),
        user_id=_text(properties, spans.get(USER_ID)),
        headers=None if headers is None else properties[headers[0] : headers[1]],
    )


_INTERESTING = frozenset((HEADERS, PRIORITY, REPLY_TO, EXPIRATION, USER_ID))


def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    """(bit, kind) of each property that the flags announce, in wire order."""
    layout = _layouts.get(flags)
    if layout is None:
        if flags & _UNUSED_FLAGS:
            raise malformed(f"property flags {flags:#06x} announce what class basic does not have")
        layout = tuple((bit, _KINDS.get(bit, _SHORT_STRING)) for bit in _NAMES if flags & bit)
        _layouts[flags] = layout
    return layout


def _spans(properties: bytes) -> dict[int, tuple[int, int]]:
    """Where the value of each property present starts and ends (length octets included)."""
    if len(properties) < 2:
        raise malformed("a property list without flags")
    end = len(properties)
    position = 2
    spans = {}
    for bit, kind in _layout(properties[0] << 8 | properties[1]):
        start = position
        if start >= end:
            raise malformed("a property list is cut off")
        if kind == _SHORT_STRING:
            position += 1 + properties[position]
        elif kind == _OCTET:
            position += 1
        elif kind == _LONG_LONG:
            position += 8
        else:
            position = check_table(properties, position, end)
        spans[bit] = (start, position)
    if position != end:
        raise malformed("a property list does not end where its last value does")
    return spans


def _text(properties: bytes, span: tuple[int, int] | None) -> str | None:
    """A short string. One that is not UTF-8 is shown escaped: it must not make a message undeliverable."""
    return None if span is None else properties[span[0] + 1 : span[1]].decode(errors="backslashreplace")


# --- decoding and encoding whole lists ----------------------------------------------------------------


def decode_properties(properties: bytes) -> BasicProperties:
    """The list with all of its values decoded."""
    decoded = BasicProperties()
    for bit, span in _spans(properties).items():
        decode = _DECODERS[_KINDS.get(bit, _SHORT_STRING)]
        setattr(decoded, _NAMES[bit], decode(properties, span))
    return decoded


_DECODERS: dict[int, Callable[[bytes, tuple[int, int]], object]] = {
    _SHORT_STRING: _text,
    _TABLE: lambda properties, span: decode_table(properties[span[0] : span[1]]),
    _OCTET: lambda properties, span: properties[span[0]],
    _LONG_LONG: lambda properties, span: timestamp_from_seconds(
        int.from_bytes(properties[span[0] : span[1]], "big")
    ),
}


def encode_properties(properties: BasicProperties) -> bytes:
    """The list's bytes. Raises ValueError for what has no encoding."""
    values = {}
    for bit, name in _NAMES.items():
        value = getattr(properties, name)
        if value is not None:
            try:
                values[bit] = _ENCODERS[_KINDS.get(bit, _SHORT_STRING)](value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from None
    return _assemble(values)


def _assemble(values: Mapping[int, bytes]) -> bytes:
    """A list of encoded values by bit, in any order."""
    return _FLAGS.pack(sum(values)) + b"".join(values[bit] for bit in sorted(values, reverse=True))


def _encode_short_string(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"must be a string, not {type(value).__name__}")
    content = value.encode()
    if len(content) > 255:
        raise ValueError(f"longer than 255 octets: {value[:40]!r}...")
    return bytes((len(content),)) + content


def _encode_octet(value: int) -> bytes:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise ValueError(f"must be an integer of 0 to 255, not {value!r}")
    return bytes((value,))


def _encode_timestamp(value: datetime | DistantTimestamp) -> bytes:
    if isinstance(value, datetime):
        if value.tzinfo is None or value.timestamp() < 0:
            raise ValueError(f"must have a time zone and a year from 1970: {value}")
        return _SECONDS.pack(int(value.timestamp()))
    return _SECONDS.pack(value)


_ENCODERS: dict[int, Callable[..., bytes]] = {
    _SHORT_STRING: _encode_short_string,
    _TABLE: encode_table,
    _OCTET: _encode_octet,
    _LONG_LONG: _encode_timestamp,
}


# --- editing ------------------------------------------------------------------------------------------


def with_changes(
    properties: bytes,
    *,
    set_headers: Mapping[str, FieldValue] | None = None,
    remove_headers: Collection[str] = (),
    remove_expiration: bool = False,
    reply_to: str | None = None,
) -> bytes:
    """The list with these changes; what they do not name keeps its bytes."""
    values = {bit: properties[start:end] for bit, (start, end) in _spans(properties).items()}
    if set_headers or (remove_headers and HEADERS in values):
        headers = values.get(HEADERS, EMPTY_TABLE)
        values[HEADERS] = edit_table(headers, put=set_headers or {}, remove=remove_headers)
    if remove_expiration:
        values.pop(EXPIRATION, None)
    if reply_to is not None:
        values[REPLY_TO] = _encode_short_string(reply_to)
    return _assemble(values)
