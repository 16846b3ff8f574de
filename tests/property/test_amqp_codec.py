"""What is encoded is read back as it was, by us and by another implementation (pamqp)."""

import struct
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from amqp_strategies import field_tables, methods_of, properties, scalars
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from leveret.protocol.amqp.field_table import (
    DistantTimestamp,
    FieldTable,
    check_table,
    decode_table,
    edit_table,
    encode_table,
)
from leveret.protocol.amqp.methods import decode_method, encode_method
from leveret.protocol.amqp.properties import (
    BasicProperties,
    decode_properties,
    encode_properties,
    read_facts,
    with_changes,
)
from leveret.protocol.amqp.wire_types import METHODS
from leveret.protocol.errors import HardError


def types_of(value: Any) -> Any:
    """The shape of a decoded value: equal numbers of different wire types are told apart."""
    if isinstance(value, dict):
        return {name: types_of(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [types_of(inner) for inner in value]
    return type(value)


@given(field_tables)
def test_a_table_is_read_back_with_its_types(table: FieldTable) -> None:
    octets = encode_table(table)
    decoded = decode_table(octets)
    assert decoded == table
    assert types_of(decoded) == types_of(table)
    assert check_table(octets, 0, len(octets)) == len(octets)


@given(field_tables, field_tables, st.lists(st.text(max_size=40)))
def test_an_edited_table(table: FieldTable, put: FieldTable, remove: list[str]) -> None:
    edited = decode_table(edit_table(encode_table(table), put=put, remove=remove))
    assert edited == {name: value for name, value in table.items() if name not in remove} | put


@given(st.binary() | st.binary().map(lambda content: struct.pack(">I", len(content)) + content))
def test_what_passes_the_check_can_be_decoded_and_edited(octets: bytes) -> None:
    try:
        end = check_table(octets, 0, len(octets))
    except HardError:
        with pytest.raises(HardError):
            decode_table(octets)
    else:
        decode_table(octets[:end])
        assert edit_table(octets[:end], put={}) == octets[:end]


# Where the two read a type alike. pamqp reads `b`, `l` and decimals unsigned and knows no distant timestamps.
agreed = scalars.filter(
    lambda value: isinstance(value, bool | str | bytes | float | type(None)) or type(value) is int
)
agreed_tables = st.dictionaries(st.text(max_size=20), agreed, max_size=3)


@given(agreed_tables)
def test_pamqp_reads_our_tables(table: FieldTable) -> None:
    octets = encode_table(table)
    assert pamqp.decode.field_table(octets) == (len(octets), table)


# pamqp writes every float in 32 bits, and bytes not at all.
pamqps_own = agreed.filter(lambda value: not isinstance(value, bytes) and type(value) is not float)


@given(st.dictionaries(st.text(max_size=20), st.recursive(pamqps_own, st.lists, max_leaves=5), max_size=3))
def test_we_read_what_pamqp_encodes(table: FieldTable) -> None:
    octets = pamqp.encode.field_table(dict(table))
    assert decode_table(octets) == table


@given(properties)
def test_a_property_list_is_read_back(value: BasicProperties) -> None:
    octets = encode_properties(value)
    assert decode_properties(octets) == value
    facts = read_facts(octets)
    assert facts.persistent == (value.delivery_mode == 2)
    assert facts.priority == value.priority
    assert facts.expiration == value.expiration
    assert facts.reply_to == value.reply_to
    assert facts.user_id == value.user_id
    assert (None if facts.headers is None else decode_table(facts.headers)) == value.headers


@given(properties, field_tables, st.booleans(), st.none() | st.text(max_size=40))
def test_a_changed_property_list(
    value: BasicProperties, headers: FieldTable, remove_expiration: bool, reply_to: str | None
) -> None:
    octets = with_changes(
        encode_properties(value), set_headers=headers, remove_expiration=remove_expiration, reply_to=reply_to
    )
    if headers:
        value.headers = (value.headers or {}) | headers
    if remove_expiration:
        value.expiration = None
    if reply_to is not None:
        value.reply_to = reply_to
    assert decode_properties(octets) == value


@given(st.binary())
def test_arbitrary_property_lists_are_read_or_refused(octets: bytes) -> None:
    try:
        read_facts(octets)
    except HardError:
        return
    decode_properties(octets)
    assert with_changes(octets) == octets


@pytest.mark.parametrize("ids", sorted(METHODS), ids=lambda ids: METHODS[ids].name)
@settings(max_examples=20)
@given(data=st.data())
def test_a_method_is_read_back(ids: tuple[int, int], data: st.DataObject) -> None:
    method = data.draw(methods_of(METHODS[ids]))
    assert decode_method(encode_method(method)) == method


KNOWN_TO_PAMQP = {
    ids: commands.INDEX_MAPPING[number]
    for ids in METHODS
    if (number := ids[0] << 16 | ids[1]) in commands.INDEX_MAPPING
}


@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
@pytest.mark.parametrize("ids", sorted(KNOWN_TO_PAMQP), ids=lambda ids: METHODS[ids].name)
@settings(max_examples=20)
@given(data=st.data())
def test_pamqp_reads_our_methods(ids: tuple[int, int], data: st.DataObject) -> None:
    method = data.draw(methods_of(METHODS[ids], agreed_tables))
    theirs = KNOWN_TO_PAMQP[ids]()
    theirs.unmarshal(encode_method(method)[4:])
    for (our_name, _), their_name in zip(method.layout, theirs.attributes(), strict=True):
        assert as_ours(getattr(theirs, their_name), our_name) == getattr(method, our_name)


def as_ours(theirs: Any, name: str) -> Any:
    """pamqp decodes long strings where it can, and reads delivery tags as signed."""
    if isinstance(theirs, str) and name in LONG_STRINGS:
        return theirs.encode()
    return theirs % 2**64 if name == "delivery_tag" else theirs


LONG_STRINGS = {"mechanisms", "locales", "response", "challenge", "new_secret", "channel_id"}


def test_pamqp_knows_nearly_all_methods() -> None:
    assert len(METHODS) - len(KNOWN_TO_PAMQP) <= 4


@given(st.binary(), st.sampled_from(sorted(METHODS)))
def test_arbitrary_arguments_are_read_or_refused(arguments: bytes, ids: tuple[int, int]) -> None:
    payload = struct.pack(">HH", *ids) + arguments
    try:
        method = decode_method(payload)
    except HardError:
        return
    assert decode_method(encode_method(method)) == method


def test_a_distant_timestamp_is_what_pamqp_cannot_read() -> None:
    """Why the comparison leaves them out."""
    with pytest.raises((ValueError, OverflowError)):
        pamqp.decode.field_table(encode_table({"t": DistantTimestamp(2**63)}))
