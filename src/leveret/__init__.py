"""Leveret: a message broker with AMQP semantics whose confirm means that the message is on the disk.

This is the public face of the SDK:

    async with leveret.connect("leveret://guest:guest@127.0.0.1:5672/") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("jobs", durable=True)
        await channel.publish(leveret.Message(b"work"), "jobs")
        async for message in queue:
            async with message.process():
                ...
"""

from .client import (
    AccessRefused,
    AlreadySettled,
    AuthenticationFailed,
    Blocked,
    BrokerError,
    Channel,
    ChannelClosed,
    Connection,
    ConnectionLost,
    Connector,
    Consumer,
    ConsumerCancelled,
    DeliveryLost,
    DeliveryMode,
    Exchange,
    ExchangeType,
    IncomingMessage,
    LeveretError,
    Message,
    Nacked,
    NotAllowed,
    NotFound,
    NotSupported,
    PreconditionFailed,
    PublishFailed,
    PublishTimeout,
    Queue,
    QueueEmpty,
    Reconnect,
    ResourceLocked,
    Undecodable,
    Unroutable,
    WrongLoop,
    connect,
    register_decoder,
    run,
)
from .version import __version__

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
    "__version__",
    "connect",
    "register_decoder",
    "run",
]
