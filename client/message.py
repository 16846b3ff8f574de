"""A message to publish. What arrives is an `IncomingMessage` (`incoming.py`)."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import Any, Self, TypedDict, Unpack

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.amqp.properties import BasicProperties, decode_properties, encode_properties
from leveret.protocol.native.fields import PROPERTIES_MAX_BYTES, check_name

from .codecs import JSON, MSGPACK, TEXT, encode_json, encode_msgpack


class DeliveryMode(IntEnum):
    """Whether a message survives a restart of the broker (in a durable queue)."""

    NOT_PERSISTENT = 1
    PERSISTENT = 2


class MessageOptions(TypedDict, total=False):
    """What every way to make a message takes besides the body."""

    headers: Mapping[str, FieldValue] | None
    content_type: str | None
    content_encoding: str | None
    delivery_mode: int
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: timedelta | float | None
    message_id: str | None
    timestamp: datetime | None
    type: str | None
    user_id: str | None
    app_id: str | None


class Message:
    """A body and its properties. Persistent unless told otherwise: a confirm then means that it is on disk.

        Message(b"any bytes")
        Message.json({"order": 17}, message_id="order-17")
        Message.msgpack([1, 2, b"three"])
        Message.text("Grüße")

    The latter three set the content type, so that the receiver's `message.decode()` gives back what was sent.
    `expiration` is a timedelta or a number of seconds, from publishing on. A message may be published any
    number of times; changing its attributes has an effect on later publishes.
    """

    __slots__ = (
        "app_id",
        "body",
        "content_encoding",
        "content_type",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "headers",
        "message_id",
        "priority",
        "reply_to",
        "timestamp",
        "type",
        "user_id",
    )

    def __init__(
        self,
        body: bytes,
        *,
        headers: Mapping[str, FieldValue] | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_mode: int = DeliveryMode.PERSISTENT,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: timedelta | float | None = None,
        message_id: str | None = None,
        timestamp: datetime | None = None,
        type: str | None = None,  # AMQP's name of it
        user_id: str | None = None,
        app_id: str | None = None,
    ) -> None:
        if not isinstance(body, bytes):
            raise TypeError(
                f"the body of a message is bytes, not {body.__class__.__name__}; encode it first, "
                "or use Message.text, Message.json or Message.msgpack"
            )
        self.body = body
        self.headers = headers
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.delivery_mode = delivery_mode
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id

    @classmethod
    def json(
        cls,
        value: object,
        *,
        default: Callable[[Any], Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Self:
        """A message with a JSON body. `default` makes JSON of what JSON does not know, as in `json.dumps`.

        Raises TypeError or ValueError for what is no JSON, such as NaN.
        """
        options.setdefault("content_type", JSON)
        return cls(encode_json(value, default), **options)

    @classmethod
    def msgpack(
        cls,
        value: object,
        *,
        default: Callable[[Any], Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Self:
        """A message with a msgpack body: as JSON, and besides bytes, aware datetimes and keys of any kind.

        `default` makes msgpack of what msgpack does not know. Raises TypeError, ValueError or OverflowError.
        """
        options.setdefault("content_type", MSGPACK)
        return cls(encode_msgpack(value, default), **options)

    @classmethod
    def text(cls, text: str, **options: Unpack[MessageOptions]) -> Self:
        """A message with a text in UTF-8."""
        if not isinstance(text, str):
            raise TypeError(f"Message.text takes a str, not {text.__class__.__name__}")
        options.setdefault("content_type", TEXT)
        return cls(text.encode(), **options)

    @classmethod
    def from_properties(cls, body: bytes, properties: bytes) -> Self:
        """The message that has these properties, as `encode_properties` gave them: to keep it somewhere."""
        found = decode_properties(properties)
        expiration, timestamp = found.expiration, found.timestamp
        return cls(
            body,
            headers=found.headers,
            content_type=found.content_type,
            content_encoding=found.content_encoding,
            delivery_mode=found.delivery_mode or DeliveryMode.NOT_PERSISTENT,
            priority=found.priority,
            correlation_id=found.correlation_id,
            reply_to=found.reply_to,
            expiration=None if expiration is None else timedelta(milliseconds=int(expiration)),
            message_id=found.message_id,
            timestamp=timestamp if isinstance(timestamp, datetime) else None,
            type=found.type,
            user_id=found.user_id,
            app_id=found.app_id,
        )

    def __repr__(self) -> str:
        return f"<Message of {len(self.body)} bytes, message_id={self.message_id!r}>"

    def encode_properties(self) -> bytes:
        """The property list as it travels. Raises ValueError or TypeError for what cannot be sent."""
        if self.headers is None and self.timestamp is None:
            return _encode_short(
                self.content_type,
                self.content_encoding,
                self.delivery_mode,
                self.priority,
                self.correlation_id,
                self.reply_to,
                _expiration_ms(self.expiration),
                self.message_id,
                self.type,
                self.user_id,
                self.app_id,
            )
        encoded = encode_properties(
            BasicProperties(
                content_type=self.content_type,
                content_encoding=self.content_encoding,
                headers=None if self.headers is None else dict(self.headers),
                delivery_mode=_checked(self.delivery_mode),
                priority=self.priority,
                correlation_id=self.correlation_id,
                reply_to=self.reply_to,
                expiration=_expiration_ms(self.expiration),
                message_id=self.message_id,
                timestamp=self.timestamp,
                type=self.type,
                user_id=self.user_id,
                app_id=self.app_id,
            )
        )
        if len(encoded) > PROPERTIES_MAX_BYTES:
            raise ValueError(f"headers and properties take {len(encoded)} bytes, over {PROPERTIES_MAX_BYTES}")
        return encoded


@lru_cache(maxsize=1024)
def _encode_short(
    content_type: str | None,
    content_encoding: str | None,
    delivery_mode: int,
    priority: int | None,
    correlation_id: str | None,
    reply_to: str | None,
    expiration: str | None,
    message_id: str | None,
    type_: str | None,
    user_id: str | None,
    app_id: str | None,
) -> bytes:
    """Properties without headers are mostly the same for every message of a publisher."""
    return encode_properties(
        BasicProperties(
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_mode=_checked(delivery_mode),
            priority=priority,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
            message_id=message_id,
            type=type_,
            user_id=user_id,
            app_id=app_id,
        )
    )


def _checked(delivery_mode: int) -> int:
    if delivery_mode not in (DeliveryMode.PERSISTENT, DeliveryMode.NOT_PERSISTENT):
        raise ValueError(
            "delivery_mode is DeliveryMode.PERSISTENT (2) or DeliveryMode.NOT_PERSISTENT (1), "
            f"not {delivery_mode!r}"
        )
    return delivery_mode


def _expiration_ms(expiration: timedelta | float | None) -> str | None:
    """AMQP carries it as decimal milliseconds in a string."""
    if expiration is None:
        return None
    if not isinstance(expiration, timedelta | float | int):
        raise TypeError(f"expiration is a timedelta or a number of seconds, not {type(expiration).__name__}")
    seconds = expiration.total_seconds() if isinstance(expiration, timedelta) else expiration
    if seconds < 0:
        raise ValueError(f"expiration must not be negative: {seconds}")
    return str(round(seconds * 1000))


def check_names(**names: str) -> None:
    """Raise ValueError for an exchange or routing key that no broker could take."""
    for what, name in names.items():
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{what} {error}") from None
