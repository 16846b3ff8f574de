"""The asyncio SDK over the native framing.

`connect` -> `Connection` -> `Channel` -> `Exchange`, `Queue`. A plain connection: when it breaks, it is
over, and whatever waited raises. A layer that reconnects goes above it and uses nothing but what is
exported here.

Inside: `transport` has the socket, `connection` the requests, `channel` the operations, `publisher` the
confirms, `transaction` what replaces them, `consumer` the deliveries, `settler` the acks.
"""

from .channel import Channel
from .codecs import register_decoder
from .connection import Connection, Connector, connect
from .consumer import Consumer
from .errors import (
    AccessRefused,
    AlreadySettled,
    AuthenticationFailed,
    Blocked,
    BrokerError,
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryLost,
    LeveretError,
    Nacked,
    NotAllowed,
    NotFound,
    NotSupported,
    PreconditionFailed,
    PublishFailed,
    PublishTimeout,
    QueueEmpty,
    ResourceLocked,
    Undecodable,
    Unroutable,
    WrongLoop,
)
from .exchange import Exchange, ExchangeType
from .incoming import IncomingMessage
from .message import DeliveryMode, Message
from .queue import Queue

__all__ = [
    "AccessRefused",
    "AlreadySettled",
    "AuthenticationFailed",
    "Blocked",
    "BrokerError",
    "Channel",
    "ChannelClosed",
    "Connection",
    "ConnectionLost",
    "Connector",
    "Consumer",
    "ConsumerCancelled",
    "DeliveryLost",
    "DeliveryMode",
    "Exchange",
    "ExchangeType",
    "IncomingMessage",
    "LeveretError",
    "Message",
    "Nacked",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "PreconditionFailed",
    "PublishFailed",
    "PublishTimeout",
    "Queue",
    "QueueEmpty",
    "ResourceLocked",
    "Undecodable",
    "Unroutable",
    "WrongLoop",
    "connect",
    "register_decoder",
]
