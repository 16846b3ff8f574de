"""Property lists: octets, facts, the cache, and edits that leave the rest alone."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from leveret.protocol.amqp.field_table import DistantTimestamp, decode_table
from leveret.protocol.amqp.properties import (
    BasicProperties,
    PropertyFacts,
    decode_properties,
    encode_properties,
    read_facts,
    with_changes,
)
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

ALL = BasicProperties(
    content_type="text/plain",
    content_encoding="utf-8",
    headers={"n": 1},
    delivery_mode=2,
    priority=9,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="m",
    timestamp=datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    type="t",
    user_id="guest",
    app_id="a",
    cluster_id="x",
)
ALL_OCTETS = (
    b"\xff\xfc"
    b"\x0atext/plain"
    b"\x05utf-8"
    b"\x00\x00\x00\x07\x01nI\x00\x00\x00\x01"
    b"\x02"
    b"\x09"
    b"\x01c"
    b"\x01r"
    b"\x0560000"
    b"\x01m"
    b"\x00\x00\x00\x00\x3b\x9a\xca\x00"
    b"\x01t"
    b"\x05guest"
    b"\x01a"
    b"\x01x"
)


def test_all_properties_and_their_octets() -> None:
    assert encode_properties(ALL) == ALL_OCTETS
    assert decode_properties(ALL_OCTETS) == ALL


@pytest.mark.parametrize("name", [field.name for field in fields(BasicProperties)])
def test_each_property_alone(name: str) -> None:
    alone = BasicProperties(**{name: getattr(ALL, name)})
    assert decode_properties(encode_properties(alone)) == alone


def test_no_properties() -> None:
    assert encode_properties(BasicProperties()) == b"\0\0"
    assert read_facts(b"\0\0") == PropertyFacts(persistent=False, plain=True)


def test_empty_and_zero_are_not_absent() -> None:
    empty = BasicProperties(content_type="", headers={}, priority=0, expiration="", delivery_mode=0)
    assert decode_properties(encode_properties(empty)) == empty
    facts = read_facts(encode_properties(empty))
    assert (facts.priority, facts.expiration, facts.headers) == (0, "", b"\0\0\0\0")
    assert not facts.plain


@pytest.mark.parametrize(
    ("mode", "persistent"), [(None, False), (0, False), (1, False), (2, True), (3, False)]
)
def test_only_delivery_mode_2_is_persistent(mode: int | None, persistent: bool) -> None:
    octets = encode_properties(BasicProperties(content_type="a", content_encoding="b", delivery_mode=mode))
    assert read_facts(octets) == PropertyFacts(persistent=persistent, plain=True)


def test_facts_of_a_full_list() -> None:
    facts = read_facts(ALL_OCTETS)
    assert facts.headers is not None
    assert decode_table(facts.headers) == {"n": 1}
    assert facts == PropertyFacts(
        persistent=True, priority=9, expiration="60000", reply_to="r", user_id="guest", headers=facts.headers
    )


def test_facts_stay_right_when_the_cache_overflows() -> None:
    for number in range(5000):
        octets = encode_properties(BasicProperties(expiration=str(number)))
        assert read_facts(octets).expiration == str(number)
        assert read_facts(octets).expiration == str(number)


@pytest.mark.parametrize("cut", range(len(ALL_OCTETS)))
def test_a_list_cut_off_anywhere_is_a_syntax_error(cut: int) -> None:
    with pytest.raises(HardError) as caught:
        read_facts(ALL_OCTETS[:cut])
    assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR


@pytest.mark.parametrize(
    "octets",
    [ALL_OCTETS + b"\0", b"\x00\x01\x00\x00", b"\x00\x02", b"\x20\x00\x00\x00\x00\x03\x01aZ"],
    ids=["more than announced", "a second word of flags", "an unknown flag", "garbage headers"],
)
def test_other_garbage_is_a_syntax_error(octets: bytes) -> None:
    for read in (read_facts, decode_properties, with_changes):
        with pytest.raises(HardError) as caught:
            read(octets)
        assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR


def test_a_property_that_is_not_utf8_is_shown_escaped_and_kept() -> None:
    octets = b"\x02\x00\x02\xff\xfe"
    assert read_facts(octets).reply_to == "\\xff\\xfe"
    assert with_changes(octets, set_headers={"a": True}) == b"\x22\x00\x00\x00\x00\x04\x01at\x01\x02\xff\xfe"


def test_a_timestamp_beyond_datetime_round_trips() -> None:
    milliseconds = BasicProperties(timestamp=DistantTimestamp(1_700_000_000_000))
    assert decode_properties(encode_properties(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    "properties",
    [
        BasicProperties(content_type="x" * 256),
        BasicProperties(priority=256),
        BasicProperties(delivery_mode=-1),
        BasicProperties(timestamp=datetime(2020, 1, 1)),  # the point: no time zone
        BasicProperties(headers={"k": object()}),  # type: ignore[dict-item]  # the point
    ],
)
def test_what_has_no_encoding(properties: BasicProperties) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_properties(properties)


def test_no_change_changes_nothing() -> None:
    assert with_changes(ALL_OCTETS) == ALL_OCTETS


def test_changes_show_and_nothing_else_does() -> None:
    changed = decode_properties(
        with_changes(
            ALL_OCTETS,
            set_headers={"x-death": []},
            remove_headers=["n"],
            remove_expiration=True,
            reply_to="else",
        )
    )
    expected = decode_properties(ALL_OCTETS)
    expected.headers = {"x-death": []}
    expected.expiration = None
    expected.reply_to = "else"
    assert changed == expected


def test_headers_appear_where_there_were_none() -> None:
    assert decode_properties(with_changes(b"\0\0", set_headers={"a": 1})) == BasicProperties(headers={"a": 1})
    assert with_changes(b"\0\0", remove_headers=["a"], remove_expiration=True) == b"\0\0"
