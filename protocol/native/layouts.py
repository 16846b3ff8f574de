"""Every frame of the native framing: its type number, who sends it, its fields. The document's section 3 as
a table.

To change it: change the document first, then this table; `test_native_document.py` compares them. A field
may be added at the end, with a default; anything else is a new frame type or a new version of the protocol
(docs/native-protocol.md 1.2).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .fields import (
    BIN,
    DELIVERIES,
    FLAG,
    LIST,
    NAME,
    OPTIONAL_U16,
    PUBLISHES,
    RETURNS,
    TABLE,
    TAGS,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    FieldType,
)


class FrameType(IntEnum):
    """The first element of a frame."""

    PING = 0x00
    PONG = 0x01
    HELLO = 0x02
    WELCOME = 0x03
    CLOSE = 0x04
    CLOSED = 0x05
    BLOCKED = 0x06
    UNBLOCKED = 0x07
    REPLY = 0x08
    ERROR = 0x09
    CHANNEL_OPEN = 0x10
    CHANNEL_CLOSE = 0x11
    CHANNEL_CLOSED = 0x12
    EXCHANGE_DECLARE = 0x18
    EXCHANGE_DELETE = 0x19
    EXCHANGE_BIND = 0x1A
    EXCHANGE_UNBIND = 0x1B
    QUEUE_DECLARE = 0x20
    QUEUE_DELETE = 0x21
    QUEUE_BIND = 0x22
    QUEUE_UNBIND = 0x23
    QUEUE_PURGE = 0x24
    QOS = 0x28
    CONSUME = 0x29
    CANCEL = 0x2A
    GET = 0x2B
    ACK = 0x2C
    NACK = 0x2D
    REJECT = 0x2E
    RECOVER = 0x2F
    TX_SELECT = 0x30
    TX_COMMIT = 0x31
    TX_ROLLBACK = 0x32
    EXTEND = 0x33
    PUBLISH = 0x40
    CONFIRM = 0x41
    REFUSE = 0x42
    RETURN = 0x43
    DELIVER = 0x44
    CONSUMER_CANCELLED = 0x45


class Role(IntEnum):
    """Who sends a frame."""

    CLIENT = 1
    SERVER = 2
    BOTH = 3


class _Required:
    """The default of a field that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a frame."""

    name: str
    type: FieldType
    default: Any = REQUIRED

    def make_default(self) -> Any:
        """The value of the field when the sender left it out; a new object where it is mutable."""
        return self.default.copy() if isinstance(self.default, dict | list) else self.default


@dataclass(frozen=True, slots=True)
class Layout:
    """One row of the table."""

    type: FrameType
    sender: Role
    fields: tuple[Field, ...]

    @property
    def is_request(self) -> bool:
        """Whether REPLY or ERROR answers it."""
        return bool(self.fields) and self.fields[0] is _REQUEST and self.sender is Role.CLIENT


_REQUEST = Field("request", U32)
_CHANNEL = Field("channel", U16)
_CODE = Field("code", U16)
_TEXT = Field("text", TEXT)
_EXCHANGE = Field("exchange", NAME)
_QUEUE = Field("queue", NAME)
_BINDING_KEY = Field("binding_key", NAME)
_ARGUMENTS = Field("arguments", TABLE, {})
_CONSUMER = Field("consumer", U32)
_DELIVERY_TAGS = Field("delivery_tags", TAGS)
_PUBLISH_TAGS = Field("publish_tags", TAGS)
_PROPERTIES = Field("properties", TABLE, {})
_REQUEUE = Field("requeue", FLAG, True)
_LIMITS = (Field("frame_max", U32), Field("channel_max", U16), Field("heartbeat_s", U16))
_BINDING = (Field("destination", NAME), Field("source", NAME), _BINDING_KEY, _ARGUMENTS)
_QUEUE_BINDING = (_QUEUE, _EXCHANGE, _BINDING_KEY, _ARGUMENTS)


def _off(name: str) -> Field:
    return Field(name, FLAG, False)


def _request(type_: FrameType, *fields: Field) -> Layout:
    return Layout(type_, Role.CLIENT, (_REQUEST, _CHANNEL, *fields))


def _from_server(type_: FrameType, *fields: Field) -> Layout:
    return Layout(type_, Role.SERVER, fields)


LAYOUTS: dict[int, Layout] = {
    layout.type.value: layout
    for layout in (
        Layout(FrameType.PING, Role.BOTH, ()),
        Layout(FrameType.PONG, Role.BOTH, ()),
        Layout(
            FrameType.HELLO,
            Role.CLIENT,
            (*_LIMITS, Field("mechanism", NAME), Field("response", BIN), Field("vhost", NAME), _PROPERTIES),
        ),
        _from_server(FrameType.WELCOME, *_LIMITS, Field("message_max", U32), _PROPERTIES),
        Layout(FrameType.CLOSE, Role.BOTH, (_CODE, _TEXT)),
        Layout(FrameType.CLOSED, Role.BOTH, ()),
        _from_server(FrameType.BLOCKED, Field("reason", TEXT)),
        _from_server(FrameType.UNBLOCKED),
        _from_server(FrameType.REPLY, _REQUEST, Field("values", LIST, [])),
        _from_server(FrameType.ERROR, _REQUEST, _CODE, _TEXT, Field("operation", U8)),
        _request(
            FrameType.CHANNEL_OPEN,
            Field("confirm", FLAG, True),
            Field("producer", BIN, b""),
            Field("opening", U32, 0),
        ),
        _request(FrameType.CHANNEL_CLOSE),
        _from_server(FrameType.CHANNEL_CLOSED, _CHANNEL, _CODE, _TEXT, Field("operation", U8, 0)),
        _request(
            FrameType.EXCHANGE_DECLARE,
            _EXCHANGE,
            Field("type", NAME),
            _off("passive"),
            _off("durable"),
            _off("auto_delete"),
            _off("internal"),
            _ARGUMENTS,
        ),
        _request(FrameType.EXCHANGE_DELETE, _EXCHANGE, _off("if_unused")),
        _request(FrameType.EXCHANGE_BIND, *_BINDING),
        _request(FrameType.EXCHANGE_UNBIND, *_BINDING),
        _request(
            FrameType.QUEUE_DECLARE,
            _QUEUE,
            _off("passive"),
            _off("durable"),
            _off("exclusive"),
            _off("auto_delete"),
            _ARGUMENTS,
        ),
        _request(FrameType.QUEUE_DELETE, _QUEUE, _off("if_unused"), _off("if_empty")),
        _request(FrameType.QUEUE_BIND, *_QUEUE_BINDING),
        _request(FrameType.QUEUE_UNBIND, *_QUEUE_BINDING),
        _request(FrameType.QUEUE_PURGE, _QUEUE),
        _request(FrameType.QOS, Field("prefetch_count", U16), _off("global")),
        _request(
            FrameType.CONSUME,
            _QUEUE,
            _CONSUMER,
            Field("consumer_tag", NAME, ""),
            _off("no_ack"),
            _off("exclusive"),
            Field("prefetch_count", OPTIONAL_U16, None),
            _ARGUMENTS,
        ),
        _request(FrameType.CANCEL, _CONSUMER),
        _request(FrameType.GET, _QUEUE, _off("no_ack")),
        _request(FrameType.ACK, _DELIVERY_TAGS),
        _request(FrameType.NACK, _DELIVERY_TAGS, _REQUEUE),
        _request(FrameType.REJECT, _DELIVERY_TAGS, _REQUEUE),
        _request(FrameType.RECOVER),
        _request(FrameType.TX_SELECT),
        _request(FrameType.TX_COMMIT, _off("all_or_nothing")),
        _request(FrameType.TX_ROLLBACK),
        _request(FrameType.EXTEND, _DELIVERY_TAGS),
        Layout(
            FrameType.PUBLISH,
            Role.CLIENT,
            (_CHANNEL, Field("publish_tag", U64), Field("messages", PUBLISHES)),
        ),
        _from_server(FrameType.CONFIRM, _CHANNEL, _PUBLISH_TAGS),
        _from_server(FrameType.REFUSE, _CHANNEL, _PUBLISH_TAGS, _CODE, _TEXT),
        _from_server(FrameType.RETURN, _CHANNEL, Field("messages", RETURNS)),
        _from_server(FrameType.DELIVER, _CHANNEL, Field("messages", DELIVERIES)),
        _from_server(FrameType.CONSUMER_CANCELLED, _CHANNEL, _CONSUMER, Field("queue_is_gone", FLAG, True)),
    )
}
