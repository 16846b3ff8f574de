"""Field tables (0-9-1 section 4.2.5.5) in RabbitMQ's dialect: encode, decode, check, edit raw entries.

On the wire a table is a u32 length and entries of (short string name, type letter, value). Decoded, it is a
plain dict; numbers whose wire type Python cannot tell are small subclasses (`TypedInt`, `Float32`): they
compare by value and are encoded again with the type they came with.

Malformed input raises `HardError(SYNTAX_ERROR)` and nothing else; nesting is limited to `DEPTH_MAX`, so that
no input reaches Python's recursion limit. A value without an encoding raises `ValueError`: it is our mistake.

Types (RabbitMQ's reading; `l` and `L` are both signed): t bool, b i8, B u8, s i16, u u16, I i32, i u32,
l L i64, f f32, d f64, D decimal, S long string, x bytes, T timestamp, F table, A array, V void.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from struct import error as StructError
from typing import ClassVar, TypeAlias

from ..errors import HardError
from ..reply_codes import ReplyCode

FieldValue: TypeAlias = (
    "bool | int | float | str | bytes | Decimal | datetime | dict[str, FieldValue] | list[FieldValue] | None"
)
FieldTable: TypeAlias = dict[str, FieldValue]

DEPTH_MAX = 32  # tables and arrays inside each other; deeper ones are an attack, not data
EMPTY_TABLE = b"\0\0\0\0"

_U32 = Struct(">I")
_I64 = Struct(">q")


class TypedInt(int):
    """An integer that remembers its wire type. (A plain int is `I`, or `l` where it does not fit.)"""

    __slots__ = ()
    field_type: ClassVar[str]
    type_name: ClassVar[str]


class SignedByte(TypedInt):
    __slots__ = ()
    field_type = "b"
    type_name = "byte"


class UnsignedByte(TypedInt):
    __slots__ = ()
    field_type = "B"
    type_name = "unsignedbyte"


class SignedShort(TypedInt):
    __slots__ = ()
    field_type = "s"
    type_name = "short"


class UnsignedShort(TypedInt):
    __slots__ = ()
    field_type = "u"
    type_name = "unsignedshort"


class UnsignedInt(TypedInt):
    __slots__ = ()
    field_type = "i"
    type_name = "unsignedint"


class Long(TypedInt):
    __slots__ = ()
    field_type = "l"
    type_name = "long"


class LongLong(TypedInt):
    """`L` means the same as `l`; kept apart only to be encoded as it came."""

    __slots__ = ()
    field_type = "L"
    type_name = "long"


class DistantTimestamp(TypedInt):
    """A timestamp that `datetime` cannot hold, in seconds (often somebody's milliseconds)."""

    __slots__ = ()
    field_type = "T"
    type_name = "timestamp"


class Float32(float):
    """A float that came as 32 bits."""

    __slots__ = ()


class RawLongString(bytes):
    """A long string that is not UTF-8."""

    __slots__ = ()


_TYPE_NAMES: dict[type, str] = {
    type(None): "void",
    bool: "bool",
    float: "double",
    Float32: "float",
    str: "longstr",
    RawLongString: "longstr",
    bytes: "binary",
    Decimal: "decimal",
    datetime: "timestamp",
    dict: "table",
    list: "array",
}


def field_type_name(value: FieldValue) -> str:
    """RabbitMQ's name for the wire type of a value, as its error texts use it."""
    if isinstance(value, TypedInt):
        return value.type_name
    if isinstance(value, int) and not isinstance(value, bool):
        return "signedint" if _fits_signed_int(value) else "long"
    return _TYPE_NAMES[type(value)]


def _fits_signed_int(value: int) -> bool:
    return -0x8000_0000 <= value <= 0x7FFF_FFFF


# --- decoding -------------------------------------------------------------------------------------


def decode_table(payload: bytes) -> FieldTable:
    """The table that is exactly these bytes, its length included."""
    table, end = read_table(payload, 0)
    if end != len(payload):
        raise malformed(f"{len(payload) - end} octets after the end of a table")
    return table


def read_table(data: bytes, position: int) -> tuple[FieldTable, int]:
    """The table at a position, and the position after it."""
    start, end = _extent(data, position, len(data))
    return _table(data, start, end, 1), end


def malformed(what: str) -> HardError:
    """The one error of every undecodable table, property list or string."""
    return HardError(ReplyCode.SYNTAX_ERROR, what)


def _extent(data: bytes, position: int, limit: int) -> tuple[int, int]:
    """Where the content behind a u32 length starts and ends."""
    start = position + 4
    if start > limit:
        raise malformed("a length is cut off")
    end = start + int.from_bytes(data[position:start], "big")
    if end > limit:
        raise malformed(f"a length of {end - start} where {limit - start} octets are left")
    return start, end


def _table(data: bytes, position: int, end: int, depth: int) -> FieldTable:
    if depth > DEPTH_MAX:
        raise malformed(f"tables nested deeper than {DEPTH_MAX}")
    table: FieldTable = {}
    while position < end:
        value_at = position + 1 + data[position]
        if value_at >= end:
            raise malformed("a field name runs over the end of its table")
        # Names are UTF-8; another encoding must not make a message undeliverable, so it is shown escaped.
        name = data[position + 1 : value_at].decode(errors="backslashreplace")
        table[name], position = _value(data, value_at, end, depth)
    return table


def _array(data: bytes, position: int, end: int, depth: int) -> list[FieldValue]:
    if depth > DEPTH_MAX:
        raise malformed(f"arrays nested deeper than {DEPTH_MAX}")
    values: list[FieldValue] = []
    while position < end:
        value, position = _value(data, position, end, depth)
        values.append(value)
    return values


def _value(data: bytes, position: int, end: int, depth: int) -> tuple[FieldValue, int]:
    """The value whose type letter is at a position (which lies before `end`), and the position after it."""
    letter = data[position]
    position += 1
    if letter in _FIXED:
        layout, construct = _FIXED[letter]
        after = position + layout.size
        if after > end:
            raise malformed("a field value runs over the end of its table")
        return construct(*layout.unpack_from(data, position)), after
    if letter == _VOID:
        return None, position
    if letter not in _SIZED:
        raise malformed(f"unknown field type {letter}")
    start, after = _extent(data, position, end)
    return _SIZED[letter](data, start, after, depth + 1), after


def _long_string(data: bytes, start: int, end: int, _depth: int) -> str | bytes:
    content = data[start:end]
    try:
        return content.decode()
    except UnicodeDecodeError:
        return RawLongString(content)


def _binary(data: bytes, start: int, end: int, _depth: int) -> bytes:
    return data[start:end]


def _decimal(scale: int, unscaled: int) -> Decimal:
    return Decimal(unscaled).scaleb(-scale)


def timestamp_from_seconds(seconds: int) -> datetime | DistantTimestamp:
    """A timestamp value: an aware UTC datetime where one can hold it."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return DistantTimestamp(seconds)


_VOID = ord("V")

_FIXED: dict[int, tuple[Struct, Callable[..., FieldValue]]] = {
    ord("t"): (Struct(">B"), bool),
    ord("b"): (Struct(">b"), SignedByte),
    ord("B"): (Struct(">B"), UnsignedByte),
    ord("s"): (Struct(">h"), SignedShort),
    ord("u"): (Struct(">H"), UnsignedShort),
    ord("I"): (Struct(">i"), int),
    ord("i"): (Struct(">I"), UnsignedInt),
    ord("l"): (_I64, Long),
    ord("L"): (_I64, LongLong),
    ord("f"): (Struct(">f"), Float32),
    ord("d"): (Struct(">d"), float),
    # 4.2.5.5: "an octet representing the number of places followed by a signed long integer"
    ord("D"): (Struct(">Bi"), _decimal),
    ord("T"): (Struct(">Q"), timestamp_from_seconds),
}

_SIZED: dict[int, Callable[[bytes, int, int, int], FieldValue]] = {
    ord("S"): _long_string,
    ord("x"): _binary,
    ord("F"): _table,
    ord("A"): _array,
}


# --- encoding -------------------------------------------------------------------------------------


def encode_table(table: Mapping[str, FieldValue]) -> bytes:
    """The table's bytes, its length included."""
    return _encode_table(table, 1)


def _encode_table(table: Mapping[str, FieldValue], depth: int) -> bytes:
    if depth > DEPTH_MAX:
        raise ValueError(f"tables nested deeper than {DEPTH_MAX}")
    content = b"".join(_encode_entry(name, value, depth) for name, value in table.items())
    return _U32.pack(len(content)) + content


def _encode_entry(name: str, value: FieldValue, depth: int) -> bytes:
    if not isinstance(name, str):
        raise ValueError(f"a field name must be a string, not {type(name).__name__}")
    key = name.encode()
    if len(key) > 255:
        raise ValueError(f"field name longer than 255 octets: {name[:40]!r}...")
    return bytes((len(key),)) + key + _encoded(value, depth)


def _encoded(value: FieldValue, depth: int) -> bytes:
    """Type letter and value."""
    for kind in type(value).__mro__:  # nearest first: bool before int, a TypedInt before int
        encode = _ENCODERS.get(kind)
        if encode is not None:
            try:
                return encode(value, depth)
            except StructError as error:
                raise ValueError(f"{value!r} does not fit its field type") from error
    raise ValueError(f"a field table cannot hold a value of type {type(value).__name__}")


def _encode_int(value: int, _depth: int) -> bytes:
    if _fits_signed_int(value):
        return b"I" + value.to_bytes(4, "big", signed=True)
    return b"l" + _I64.pack(value)


def _encode_typed_int(value: TypedInt, _depth: int) -> bytes:
    letter = value.field_type
    return letter.encode() + _FIXED[ord(letter)][0].pack(value)


def _encode_sized(letter: bytes, content: bytes) -> bytes:
    return letter + _U32.pack(len(content)) + content


def _encode_decimal(value: Decimal, _depth: int) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 9:  # infinite, not a number, or beyond 32 bits anyway
        raise ValueError(f"no encoding for the decimal {value}")
    unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    return b"D" + _FIXED[ord("D")][0].pack(max(-exponent, 0), -unscaled if sign else unscaled)


def _encode_datetime(value: datetime, _depth: int) -> bytes:
    if value.tzinfo is None:
        raise ValueError(f"a timestamp needs a time zone: {value}")
    return b"T" + _FIXED[ord("T")][0].pack(int(value.timestamp()))


def _encode_array(values: Sequence[FieldValue], depth: int) -> bytes:
    if depth >= DEPTH_MAX:
        raise ValueError(f"arrays nested deeper than {DEPTH_MAX}")
    return _encode_sized(b"A", b"".join(_encoded(value, depth + 1) for value in values))


_ENCODERS: dict[type, Callable[..., bytes]] = {
    type(None): lambda _value, _depth: b"V",
    bool: lambda value, _depth: b"t\1" if value else b"t\0",
    int: _encode_int,
    TypedInt: _encode_typed_int,
    float: lambda value, _depth: b"d" + _FIXED[ord("d")][0].pack(value),
    Float32: lambda value, _depth: b"f" + _FIXED[ord("f")][0].pack(value),
    str: lambda value, _depth: _encode_sized(b"S", value.encode()),
    RawLongString: lambda value, _depth: _encode_sized(b"S", value),
    bytes: lambda value, _depth: _encode_sized(b"x", value),
    Decimal: _encode_decimal,
    datetime: _encode_datetime,
    dict: lambda value, depth: b"F" + _encode_table(value, depth + 1),
    list: _encode_array,
    tuple: _encode_array,
}


# --- raw entries ----------------------------------------------------------------------------------


def check_table(data: bytes, position: int, limit: int) -> int:
    """Raise unless a well-formed table lies at a position and ends by `limit`; returns the position after it.

    Much cheaper than decoding: what passes here is decodable by `decode_table` and editable by `edit_table`.
    """
    start, end = _extent(data, position, limit)
    _check(data, start, end, 1, named=True)
    return end


def edit_table(payload: bytes, *, put: Mapping[str, FieldValue], remove: Collection[str] = ()) -> bytes:
    """The table without the entries `remove` and with those of `put`; the others keep bytes and order."""
    dropped = {name.encode() for name in remove} | {name.encode() for name in put}
    content = b"".join(entry for name, entry in _raw_entries(payload) if name not in dropped)
    content += b"".join(_encode_entry(name, value, 1) for name, value in put.items())
    return _U32.pack(len(content)) + content


def _raw_entries(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, the whole entry) for each entry of a well-formed table."""
    position, end = _extent(payload, 0, len(payload))
    while position < end:
        value_at = position + 1 + payload[position]
        if value_at >= end:
            raise malformed("a field name runs over the end of its table")
        after = _skip(payload, value_at, end, 1)
        yield payload[position + 1 : value_at], payload[position:after]
        position = after


def _check(data: bytes, position: int, end: int, depth: int, *, named: bool) -> None:
    """Walk over the entries of a table (`named`) or an array."""
    if depth > DEPTH_MAX:
        raise malformed(f"tables nested deeper than {DEPTH_MAX}")
    while position < end:
        if named:
            position += 1 + data[position]
            if position >= end:
                raise malformed("a field name runs over the end of its table")
        position = _skip(data, position, end, depth)


def _skip(data: bytes, position: int, end: int, depth: int) -> int:
    """The position after the value at a position."""
    letter = data[position]
    size = _FIXED_SIZES.get(letter)
    if size is not None:
        after = position + size
        if after > end:
            raise malformed("a field value runs over the end of its table")
        return after
    if letter not in _SIZED:
        raise malformed(f"unknown field type {letter}")
    start, after = _extent(data, position + 1, end)
    if letter in _CONTAINERS:
        _check(data, start, after, depth + 1, named=letter == ord("F"))
    return after


_FIXED_SIZES = {letter: 1 + layout.size for letter, (layout, _) in _FIXED.items()} | {_VOID: 1}
_CONTAINERS = frozenset(b"FA")
