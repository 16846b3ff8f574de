"""The asyncio SDK over the native framing.

`connect` -> `Connection` -> `Channel` -> `Exchange`, `Queue`. A connection survives: these objects stay what
they are while links to brokers come and go.

Inside: `link` is one life of a connection, `transport` its socket; `reconnect` says when to try again, and
`topology` what to make again. `channel` has the operations, `publisher` the confirms (`batch`: of many at a
time), `transaction` what replaces them, `consumer` the deliveries, `workers` the handlers, `settler` the
acks.
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
from .reconnect import Reconnect
from .run import run

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
    "Reconnect",
    "ResourceLocked",
    "Undecodable",
    "Unroutable",
    "WrongLoop",
    "connect",
    "register_decoder",
    "run",
]
