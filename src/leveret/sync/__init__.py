"""The SDK for programs without an event loop: scripts, threads, Django, a Python prompt.

    with leveret.sync.connect("leveret://guest:guest@127.0.0.1:5672/") as connection:
        channel = connection.channel()
        queue = channel.declare_queue("jobs", durable=True)
        channel.publish(leveret.sync.Message(b"work"), "jobs")
        for message in queue:
            with message.process():
                ...

It is the asynchronous SDK, in a thread of its own for each connection: the same names without `await`, and
the same promises. Any number of threads may share a connection and everything that comes from it. Functions
that handle messages run in threads. `timeout` limits how long calls wait.

A child process opens connections of its own, after the fork.

Written by generate.py: `make sync` writes it anew.
"""

from leveret.client import (
    AccessRefused,
    AlreadySettled,
    AuthenticationFailed,
    Blocked,
    BrokerError,
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryLost,
    DeliveryMode,
    ExchangeType,
    LeveretError,
    Message,
    Nacked,
    NotAllowed,
    NotFound,
    NotSupported,
    PreconditionFailed,
    PublishFailed,
    PublishTimeout,
    QueueEmpty,
    Reconnect,
    ResourceLocked,
    Undecodable,
    Unroutable,
    WrongLoop,
    register_decoder,
)

from .channel import Channel
from .connection import Connection, connect
from .consumer import Consumer
from .exchange import Exchange
from .incoming import IncomingMessage
from .queue import Queue
from .timeout import timeout

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
    "timeout",
]
