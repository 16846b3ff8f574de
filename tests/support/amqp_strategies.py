"""Hypothesis strategies for AMQP values: field tables, property lists, methods, and a client's bytes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqp_peer import FRAME_MAX, publish
from hypothesis import strategies as st

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.field_table import (
    DistantTimestamp,
    FieldTable,
    FieldValue,
    Float32,
    Long,
    LongLong,
    SignedByte,
    SignedShort,
    UnsignedByte,
    UnsignedInt,
    UnsignedShort,
)
from leveret.protocol.amqp.frames import HEARTBEAT_OCTETS, build_frame, method_frame
from leveret.protocol.amqp.properties import BasicProperties
from leveret.protocol.amqp.wire_types import METHODS, Method

short_text = st.text(max_size=40)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


timestamps = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(  # made aware here
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)

scalars: st.SearchStrategy[FieldValue] = st.one_of(
    st.none(),
    st.booleans(),
    integers(32, signed=True),
    integers(8, signed=True).map(SignedByte),
    integers(8, signed=False).map(UnsignedByte),
    integers(16, signed=True).map(SignedShort),
    integers(16, signed=False).map(UnsignedShort),
    integers(32, signed=False).map(UnsignedInt),
    integers(64, signed=True).map(Long),
    integers(64, signed=True).map(LongLong),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, width=32).map(Float32),
    st.builds(lambda scale, n: Decimal(n).scaleb(-scale), st.integers(0, 255), integers(32, signed=True)),
    st.text(),
    st.binary(),
    timestamps,
    st.integers(2**40, 2**64 - 1).map(DistantTimestamp),
)

field_values: st.SearchStrategy[FieldValue] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short_text, inner, max_size=4),
    max_leaves=12,
)

field_tables: st.SearchStrategy[FieldTable] = st.dictionaries(short_text, field_values, max_size=6)

optional_text = st.none() | short_text

properties = st.builds(
    BasicProperties,
    content_type=optional_text,
    content_encoding=optional_text,
    headers=st.none() | field_tables,
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    correlation_id=optional_text,
    reply_to=optional_text,
    expiration=optional_text,
    message_id=optional_text,
    timestamp=st.none() | timestamps,
    type=optional_text,
    user_id=optional_text,
    app_id=optional_text,
    cluster_id=optional_text,
)

_BY_ANNOTATION: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: short_text,
    bytes: st.binary(max_size=40),
}


def methods_of(
    cls: type[Method], tables: st.SearchStrategy[FieldTable] = field_tables
) -> st.SearchStrategy[Method]:
    """Any method of a class; numbers fit the width of their field."""
    arguments = {name: _argument(cls.__annotations__[name], tables) for name, _ in cls.layout}
    return st.builds(cls, **arguments)


def _argument(annotation: Any, tables: st.SearchStrategy[FieldTable]) -> st.SearchStrategy[Any]:
    if annotation == methods.Table:
        return tables
    bits = {methods.Octet: 8, methods.Short: 16, methods.Long: 32, methods.LongLong: 64}.get(annotation)
    return _BY_ANNOTATION[annotation.__origin__] if bits is None else integers(bits, signed=False)


any_method = st.sampled_from(sorted(METHODS)).flatmap(lambda ids: methods_of(METHODS[ids]))

channel_ids = st.integers(0, 4)

client_frames = st.one_of(
    st.builds(method_frame, channel_ids, any_method),
    st.builds(
        publish,
        channel_ids,
        st.binary(max_size=300),
        exchange=short_text,
        frame_max=st.sampled_from([64, 200, FRAME_MAX]),
        mandatory=st.booleans(),
    ),
    st.builds(method_frame, channel_ids, st.builds(methods.ChannelOpen)),
    st.builds(
        method_frame, channel_ids, st.builds(methods.BasicAck, delivery_tag=integers(64, signed=False))
    ),
    st.just(HEARTBEAT_OCTETS),
    st.builds(build_frame, st.integers(0, 9), channel_ids, st.binary(max_size=40)),
)
"""Frames as a client may send them, right ones and wrong ones."""
