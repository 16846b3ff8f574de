"""Field tables: every type's bytes, limits, garbage, and edits that leave the rest alone."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.protocol.amqp.field_table import (
    DEPTH_MAX,
    DistantTimestamp,
    FieldTable,
    FieldValue,
    Float32,
    Long,
    LongLong,
    RawLongString,
    SignedByte,
    SignedShort,
    UnsignedByte,
    UnsignedInt,
    UnsignedShort,
    check_table,
    decode_table,
    edit_table,
    encode_table,
    field_type_name,
)
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

# (value, the octets of type and value, RabbitMQ's name of the type)
VECTORS: list[tuple[FieldValue, bytes, str]] = [
    (True, b"t\x01", "bool"),
    (False, b"t\x00", "bool"),
    (SignedByte(-2), b"b\xfe", "byte"),
    (UnsignedByte(200), b"B\xc8", "unsignedbyte"),
    (SignedShort(-2), b"s\xff\xfe", "short"),
    (UnsignedShort(65535), b"u\xff\xff", "unsignedshort"),
    (60000, b"I\x00\x00\xea\x60", "signedint"),
    (-1, b"I\xff\xff\xff\xff", "signedint"),
    (UnsignedInt(4294967295), b"i\xff\xff\xff\xff", "unsignedint"),
    (Long(1), b"l\x00\x00\x00\x00\x00\x00\x00\x01", "long"),
    (LongLong(-1), b"L\xff\xff\xff\xff\xff\xff\xff\xff", "long"),
    (Float32(0.5), b"f\x3f\x00\x00\x00", "float"),
    (0.5, b"d\x3f\xe0\x00\x00\x00\x00\x00\x00", "double"),
    (Decimal("-3.14"), b"D\x02\xff\xff\xfe\xc6", "decimal"),
    ("grün", b"S\x00\x00\x00\x05gr\xc3\xbcn", "longstr"),
    (RawLongString(b"\xff"), b"S\x00\x00\x00\x01\xff", "longstr"),
    (b"\xff", b"x\x00\x00\x00\x01\xff", "binary"),
    (datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), b"T\x00\x00\x00\x00\x3b\x9a\xca\x00", "timestamp"),
    (DistantTimestamp(1_700_000_000_000), b"T\x00\x00\x01\x8b\xcf\xe5\x68\x00", "timestamp"),
    ({"a": 1}, b"F\x00\x00\x00\x07\x01aI\x00\x00\x00\x01", "table"),
    ([True, None], b"A\x00\x00\x00\x03t\x01V", "array"),
    (None, b"V", "void"),
]


def table_of(entries: bytes) -> bytes:
    return len(entries).to_bytes(4, "big") + entries


def nested(depth: int) -> bytes:
    """A table with this many levels."""
    payload = table_of(b"")
    for _ in range(depth - 1):
        payload = table_of(b"\x01tF" + payload)
    return payload


@pytest.mark.parametrize(("value", "octets", "name"), VECTORS)
def test_a_value_and_its_octets(value: FieldValue, octets: bytes, name: str) -> None:
    payload = table_of(b"\x03key" + octets)
    decoded = decode_table(payload)
    assert decoded == {"key": value}
    assert type(decoded["key"]) is type(value)
    assert encode_table({"key": value}) == payload
    assert check_table(payload, 0, len(payload)) == len(payload)
    assert field_type_name(value) == name


def test_an_integer_beyond_32_bits_becomes_a_long() -> None:
    assert encode_table({"k": 2**31}) == table_of(b"\x01kl\x00\x00\x00\x00\x80\x00\x00\x00")
    assert field_type_name(2**31) == "long"
    assert field_type_name(2**31 - 1) == "signedint"


def test_typed_numbers_are_equal_by_value() -> None:
    assert Long(5) == UnsignedByte(5) == 5
    assert Float32(0.5) == 0.5


def test_order_is_kept_and_the_last_of_equal_names_counts() -> None:
    payload = table_of(b"\x01bV\x01aV\x01bt\x01")
    assert list(decode_table(payload)) == ["b", "a"]
    assert decode_table(payload)["b"] is True


def test_a_name_that_is_not_utf8_is_shown_escaped() -> None:
    assert decode_table(table_of(b"\x02a\xffV")) == {"a\\xff": None}


def test_the_deepest_nesting_allowed() -> None:
    assert decode_table(nested(DEPTH_MAX)) is not None
    assert check_table(nested(DEPTH_MAX), 0, 10_000)


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 5_000])
def test_deeper_nesting_is_refused(depth: int) -> None:
    payload = nested(depth)
    for read in (decode_table, lambda octets: check_table(octets, 0, len(octets))):
        with pytest.raises(HardError, match="nested deeper than 32"):
            read(payload)


def test_arrays_count_as_nesting_too() -> None:
    value: FieldValue = []
    for _ in range(DEPTH_MAX):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper"):
        encode_table({"k": value})


MALFORMED = {
    "no length": b"\x00\x00\x00",
    "shorter than its length": b"\x00\x00\x00\x05\x01aV",
    "longer than its length": table_of(b"\x01aV") + b"x",
    "a name over the end": table_of(b"\x05ab"),
    "a name and no value": table_of(b"\x01a"),
    "an unknown type": table_of(b"\x01aZ"),
    "a number over the end": table_of(b"\x01aI\x00\x00"),
    "a string over the end": table_of(b"\x01aS\x00\x00\x00\x09abc"),
    "a string without a length": table_of(b"\x01aS\x00\x00"),
    "a table over the end": table_of(b"\x01aF\x00\x00\x00\x09\x01bV"),
    "a number over the end of its array": table_of(b"\x01aA\x00\x00\x00\x02I\x00\x01cV"),
    "an array over the end": table_of(b"\x01aA\x00\x00\x00\x09V"),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_garbage_is_a_syntax_error(payload: bytes) -> None:
    with pytest.raises(HardError) as caught:
        decode_table(payload)
    assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR


@pytest.mark.parametrize("payload", [p for n, p in MALFORMED.items() if n != "longer than its length"])
def test_check_table_refuses_what_cannot_be_decoded(payload: bytes) -> None:
    with pytest.raises(HardError):
        check_table(payload, 0, len(payload))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        2**63,
        SignedByte(128),
        Decimal("NaN"),
        Decimal("1e-300"),
        Decimal("1e50"),
        datetime(2020, 1, 1),  # the point: no time zone
        datetime(1960, 1, 1, tzinfo=UTC),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_has_no_encoding(value: FieldValue) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_table({"k": value})


def test_a_name_of_255_octets_fits_and_one_more_does_not() -> None:
    table: FieldTable = {"n" * 255: None}
    assert decode_table(encode_table(table)) == table
    with pytest.raises(ValueError, match="longer than 255"):
        encode_table({"n" * 256: None})


def test_an_edit_keeps_the_octets_of_other_entries() -> None:
    # an `L`, a name that is not UTF-8, a repeated name: nothing of it survives decoding and encoding
    untouched = b"\x01aL\x00\x00\x00\x00\x00\x00\x00\x01\x01\xffV\x01aV"
    payload = table_of(b"\x03oldV" + untouched + b"\x04goneV")
    edited = edit_table(payload, put={"old": True, "new": "x"}, remove=["gone", "never there"])
    assert edited == table_of(untouched + b"\x03oldt\x01\x03newS\x00\x00\x00\x01x")
