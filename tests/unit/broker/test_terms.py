"""Field values as RabbitMQ compares and prints them."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.broker.vhosts.terms import format_term, quote, show_bare, to_term
from leveret.protocol.amqp.field_table import DistantTimestamp, FieldValue, Float32, Long, RawLongString


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5, "5"),
        (Long(-5), "-5"),
        (True, "true"),
        (None, "undefined"),
        (2.0, "2.0"),
        (Float32(0.5), "0.5"),
        (1e20, "1.0e20"),
        (1.5e-7, "1.5e-7"),
        ("text", '<<"text">>'),
        ("", "<<>>"),
        ("é", '<<"é">>'),
        ('a"\\b', '<<"a\\"\\\\b">>'),
        ("a\nb", "<<97,10,98>>"),
        (RawLongString(b"\x80"), "<<128>>"),
        (b"bytes", '<<"bytes">>'),
        (Decimal("1.50"), "{2,150}"),
        (Decimal("-7"), "{0,-7}"),
        (datetime.fromtimestamp(5, UTC), "5"),
        (DistantTimestamp(2**60), "1152921504606846976"),
        ([], "[]"),
        ([1, [True]], "[{signedint,1},{array,[{bool,true}]}]"),
        ({"k": {"n": None}}, '[{<<"k">>,table,[{<<"n">>,void,undefined}]}]'),
    ],
)
def test_printing(value: FieldValue, shown: str) -> None:
    assert format_term(to_term(value)) == shown


def test_a_string_by_itself_is_printed_bare() -> None:
    assert show_bare(to_term("a'b")) == "a'b"
    assert show_bare(to_term(5)) == "5"


def test_quoting() -> None:
    assert quote('a "b" \\') == '"a \\"b\\" \\\\"'


def test_words_are_no_constants() -> None:
    for word, constant in (("true", True), ("undefined", None)):
        assert to_term(word) != to_term(constant)
    assert to_term(1) != to_term(True)
