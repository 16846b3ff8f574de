"""Every method of AMQP 0-9-1 with RabbitMQ's extensions, and their codec.

A method is a frozen value; its fields are keyword arguments, declared in wire order, reserved ones included.
"""

from dataclasses import field
from struct import error as StructError

from ..errors import HardError
from ..reply_codes import ReplyCode
from .wire_types import (
    METHODS,
    Bit,
    Long,
    LongLong,
    LongString,
    Method,
    Octet,
    Short,
    ShortString,
    Table,
    method,
)


def encode_method(value: Method) -> bytes:
    """The method's payload: class id, method id, arguments (0-9-1 section 4.2.4).

    Raises ValueError for a value that does not fit its field.
    """
    class_id, method_id = value.ids
    out = bytearray((class_id >> 8, class_id & 255, method_id >> 8, method_id & 255))
    try:
        for name, wire_type in value.layout:
            wire_type.write(out, getattr(value, name))
    except StructError as error:
        raise ValueError(f"{value.name}: {error}") from error
    return bytes(out)


def decode_method(payload: bytes) -> Method:
    """The method with this payload.

    Raises HardError for one that does not exist or is not well-formed.
    """
    ids = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
    cls = METHODS.get(ids)
    if cls is None or len(payload) < 4:
        raise HardError(ReplyCode.COMMAND_INVALID, "unimplemented method", ids)
    values = {}
    position = 4
    try:
        for name, wire_type in cls.layout:
            values[name], position = wire_type.read(payload, position)
    except HardError as error:
        error.method = ids
        raise
    except (IndexError, StructError):
        position = -1
    if position != len(payload):
        arguments = ",".join(map(str, payload[4:100]))  # a reply text holds no more
        raise HardError(ReplyCode.FRAME_ERROR, f"cannot decode <<{arguments}>>", ids)
    return cls(**values)


# --- class connection ---------------------------------------------------------------------------------


@method(10, 10)
class ConnectionStart(Method):
    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: Table = field(default_factory=dict)
    mechanisms: LongString = b"PLAIN"
    locales: LongString = b"en_US"


@method(10, 11)
class ConnectionStartOk(Method):
    client_properties: Table = field(default_factory=dict)
    mechanism: ShortString = "PLAIN"
    response: LongString = b""
    locale: ShortString = "en_US"


@method(10, 20)
class ConnectionSecure(Method):
    challenge: LongString


@method(10, 21)
class ConnectionSecureOk(Method):
    response: LongString


@method(10, 30)
class ConnectionTune(Method):
    channel_max: Short
    frame_max: Long
    heartbeat: Short


@method(10, 31)
class ConnectionTuneOk(Method):
    channel_max: Short
    frame_max: Long
    heartbeat: Short


@method(10, 40)
class ConnectionOpen(Method):
    virtual_host: ShortString = "/"
    capabilities: ShortString = ""
    insist: Bit = False


@method(10, 41)
class ConnectionOpenOk(Method):
    known_hosts: ShortString = ""


@method(10, 50)
class ConnectionClose(Method):
    reply_code: Short
    reply_text: ShortString = ""
    class_id: Short = 0
    method_id: Short = 0


@method(10, 51)
class ConnectionCloseOk(Method):
    pass


@method(10, 60)
class ConnectionBlocked(Method):
    reason: ShortString


@method(10, 61)
class ConnectionUnblocked(Method):
    pass


@method(10, 70)
class ConnectionUpdateSecret(Method):
    new_secret: LongString
    reason: ShortString = ""


@method(10, 71)
class ConnectionUpdateSecretOk(Method):
    pass


# --- class channel ------------------------------------------------------------------------------------


@method(20, 10)
class ChannelOpen(Method):
    out_of_band: ShortString = ""


@method(20, 11)
class ChannelOpenOk(Method):
    channel_id: LongString = b""


@method(20, 20)
class ChannelFlow(Method):
    active: Bit


@method(20, 21)
class ChannelFlowOk(Method):
    active: Bit


@method(20, 40)
class ChannelClose(Method):
    reply_code: Short
    reply_text: ShortString = ""
    class_id: Short = 0
    method_id: Short = 0


@method(20, 41)
class ChannelCloseOk(Method):
    pass


# --- class access -------------------------------------------------------------------------------------


@method(30, 10)
class AccessRequest(Method):
    realm: ShortString = "/data"
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


@method(30, 11)
class AccessRequestOk(Method):
    ticket: Short = 1


# --- class exchange -----------------------------------------------------------------------------------


@method(40, 10)
class ExchangeDeclare(Method):
    ticket: Short = 0
    exchange: ShortString
    type: ShortString = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(40, 11)
class ExchangeDeclareOk(Method):
    pass


@method(40, 20)
class ExchangeDelete(Method):
    ticket: Short = 0
    exchange: ShortString
    if_unused: Bit = False
    no_wait: Bit = False


@method(40, 21)
class ExchangeDeleteOk(Method):
    pass


@method(40, 30)
class ExchangeBind(Method):
    ticket: Short = 0
    destination: ShortString
    source: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(40, 31)
class ExchangeBindOk(Method):
    pass


@method(40, 40)
class ExchangeUnbind(Method):
    ticket: Short = 0
    destination: ShortString
    source: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(40, 51)  # not 41: RabbitMQ's number
class ExchangeUnbindOk(Method):
    pass


# --- class queue --------------------------------------------------------------------------------------


@method(50, 10)
class QueueDeclare(Method):
    ticket: Short = 0
    queue: ShortString = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(50, 11)
class QueueDeclareOk(Method):
    queue: ShortString
    message_count: Long
    consumer_count: Long


@method(50, 20)
class QueueBind(Method):
    ticket: Short = 0
    queue: ShortString = ""
    exchange: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(50, 21)
class QueueBindOk(Method):
    pass


@method(50, 30)
class QueuePurge(Method):
    ticket: Short = 0
    queue: ShortString = ""
    no_wait: Bit = False


@method(50, 31)
class QueuePurgeOk(Method):
    message_count: Long


@method(50, 40)
class QueueDelete(Method):
    ticket: Short = 0
    queue: ShortString = ""
    if_unused: Bit = False
    if_empty: Bit = False
    no_wait: Bit = False


@method(50, 41)
class QueueDeleteOk(Method):
    message_count: Long


@method(50, 50)
class QueueUnbind(Method):
    ticket: Short = 0
    queue: ShortString = ""
    exchange: ShortString
    routing_key: ShortString = ""
    arguments: Table = field(default_factory=dict)


@method(50, 51)
class QueueUnbindOk(Method):
    pass


# --- class basic --------------------------------------------------------------------------------------


@method(60, 10)
class BasicQos(Method):
    prefetch_size: Long = 0
    prefetch_count: Short = 0
    global_: Bit = False


@method(60, 11)
class BasicQosOk(Method):
    pass


@method(60, 20)
class BasicConsume(Method):
    ticket: Short = 0
    queue: ShortString = ""
    consumer_tag: ShortString = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=dict)


@method(60, 21)
class BasicConsumeOk(Method):
    consumer_tag: ShortString


@method(60, 30)
class BasicCancel(Method):
    consumer_tag: ShortString
    no_wait: Bit = False


@method(60, 31)
class BasicCancelOk(Method):
    consumer_tag: ShortString


@method(60, 40)
class BasicPublish(Method):
    ticket: Short = 0
    exchange: ShortString = ""
    routing_key: ShortString = ""
    mandatory: Bit = False
    immediate: Bit = False


@method(60, 50)
class BasicReturn(Method):
    reply_code: Short
    reply_text: ShortString
    exchange: ShortString
    routing_key: ShortString


@method(60, 60)
class BasicDeliver(Method):
    consumer_tag: ShortString
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortString
    routing_key: ShortString


@method(60, 70)
class BasicGet(Method):
    ticket: Short = 0
    queue: ShortString = ""
    no_ack: Bit = False


@method(60, 71)
class BasicGetOk(Method):
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortString
    routing_key: ShortString
    message_count: Long


@method(60, 72)
class BasicGetEmpty(Method):
    cluster_id: ShortString = ""


@method(60, 80)
class BasicAck(Method):
    delivery_tag: LongLong
    multiple: Bit = False


@method(60, 90)
class BasicReject(Method):
    delivery_tag: LongLong
    requeue: Bit = True


@method(60, 100)
class BasicRecoverAsync(Method):
    requeue: Bit


@method(60, 110)
class BasicRecover(Method):
    requeue: Bit


@method(60, 111)
class BasicRecoverOk(Method):
    pass


@method(60, 120)
class BasicNack(Method):
    delivery_tag: LongLong
    multiple: Bit = False
    requeue: Bit = True


# --- classes confirm and tx ---------------------------------------------------------------------------


@method(85, 10)
class ConfirmSelect(Method):
    no_wait: Bit = False


@method(85, 11)
class ConfirmSelectOk(Method):
    pass


@method(90, 10)
class TxSelect(Method):
    pass


@method(90, 11)
class TxSelectOk(Method):
    pass


@method(90, 20)
class TxCommit(Method):
    pass


@method(90, 21)
class TxCommitOk(Method):
    pass


@method(90, 30)
class TxRollback(Method):
    pass


@method(90, 31)
class TxRollbackOk(Method):
    pass
