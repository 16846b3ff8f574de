"""A connection on AMQP 0-9-1: bytes in, calls on the domain, bytes out. Its transport owns it.

It does no I/O. The handshake, the errors and the end of a connection live here; what one channel can do is in
`AmqpChannel`.

Invariants:
- A method that changed something durable holds the connection: its reply, and every event after it, wait for
  the commit, and the transport reads nothing meanwhile. So replies come in order, and none lies.
- An error closes what its class says: `SoftError` the channel, `HardError` and the unexpected the connection.
- When a connection ends, the domain lets go of it before the peer is told.
"""

import logging
import platform
from collections.abc import Iterator
from itertools import chain

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import ServerConnection
from leveret.protocol.amqp.events import (
    ACK,
    CHANNEL_FAILED,
    CLOSE,
    FAILED,
    METHOD,
    OPEN,
    PUBLISH,
    START_OK,
    Event,
)
from leveret.protocol.amqp.field_table import FieldTable, FieldValue
from leveret.protocol.amqp.wire_types import Method
from leveret.protocol.errors import AmqpError, HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode
from leveret.version import __version__

from ..auth import MECHANISMS, User
from ..channels.channel import Channel
from ..connection import Connection
from ..queues.queue import HeadNotInMemory, Queue
from .amqp_channel import AmqpChannel
from .session import SessionHost, SessionSettings, name_given

log = logging.getLogger(__name__)

TURN_OUTPUT_MAX_BYTES = 1 << 20  # of deliveries in one turn; the rest waits until these are written
CLOSE_TIMEOUT_S = 10.0  # how long the peer's close-ok is waited for
LOST_FRAMING_TIMEOUT_S = 1.0  # the same where we could not read it: time for our close to arrive
REFUSAL_DELAY_S = 1.0  # a refused login that must not be told why waits this long for the end

CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)

CHANGES_MAX = 200  # durable ones in one hold: 10 ms of the loop's time


class AmqpSession:
    """See the module's docstring. A `Session` of the transport."""

    def __init__(self, settings: SessionSettings, host: SessionHost) -> None:
        self._settings = settings
        self._host = host
        self._broker = settings.broker
        self._journal = settings.broker.journal
        self._protocol = ServerConnection(
            server_properties=_server_properties(settings),
            mechanisms=MECHANISMS,
            channel_max=settings.channel_max,
            frame_max_bytes=settings.frame_max_bytes,
            heartbeat_s=settings.heartbeat_s,
            message_size_max_bytes=settings.message_size_max_bytes,
        )
        self._user: User | None = None  # None before the login
        self._peer_capabilities: frozenset[str] = frozenset()
        self._name_given = ""
        self._connection: Connection | None = None  # None before connection.open and after the end
        self._domain_channels: dict[int, Channel] = {}  # the connection's own
        self._channels: dict[int, AmqpChannel] = {}
        self._events: Iterator[Event] = iter(())
        # Output that waits for the commit, with its channel; input is paused until then.
        self._held: list[tuple[int, list[bytes]]] | None = None
        self._held_from = 0  # the journal's count of changes when that began
        self._is_processing = False
        self._is_blocked = False  # by an alarm, for having published: nothing is read
        self._socket_is_writable = True
        self._turn_bytes = 0  # of content that was buffered in this turn
        self._flush_is_requested = False
        self._close_deadline_s: float | None = None  # None until the first tick after close was sent
        self._is_closing = False  # we sent connection.close

    # What the transport calls (`Session`)

    @property
    def is_established(self) -> bool:
        return self._connection is not None

    @property
    def is_closed(self) -> bool:
        return self._protocol.is_closed and self._held is None

    def receive_data(self, data: bytes) -> None:
        self._events = self._protocol.receive_data(data)
        self._process()

    def connection_lost(self) -> None:
        if self._connection is not None and not self._is_closing and not self._host.was_cut:
            log.warning("%s: the client went away without closing the connection", self._host.name)
        self._events = iter(())
        self._held = None
        self._release()

    def set_writable(self, writable: bool) -> None:
        self._socket_is_writable = writable
        if writable:
            self._wake_channels()

    def tick(self, now_s: float) -> None:
        if not self._protocol.tick(now_s, is_reading=self._host.is_reading):
            log.warning(
                "%s: missed heartbeats from client, timeout: %ds", self._host.name, self._protocol.heartbeat_s
            )
            self._host.close_after(0)
        if self._is_closing:
            self._wait_for_close_ok(now_s)
        if self._protocol.out:
            self._request_flush()

    def take_output(self) -> list[bytes]:
        self._flush_is_requested = False
        was_full = self._turn_bytes >= TURN_OUTPUT_MAX_BYTES
        self._turn_bytes = 0
        if was_full:
            self._wake_channels()
        return self._protocol.data_to_send()

    def close(self, error: AmqpError) -> None:
        """connection.close: the domain lets go at once, the socket goes when the peer has answered."""
        if self._is_closing or self._protocol.is_closed:
            return
        self._is_closing = True
        self._release()
        self._protocol.send_close(error)
        self._request_flush()
        # From here on only the peer's close-ok matters, and it must be read.
        if self._is_blocked:
            self._is_blocked = False
            self._host.resume_input()
        if self._held is not None:  # the reply it was for is nobody's any more
            self._held = None
            self._host.resume_input()
            self._process()

    def _wait_for_close_ok(self, now_s: float) -> None:
        if self._close_deadline_s is None:
            patience_s = LOST_FRAMING_TIMEOUT_S if self._protocol.is_deaf else CLOSE_TIMEOUT_S
            self._close_deadline_s = now_s + patience_s
        elif now_s >= self._close_deadline_s:
            self._host.close_after(0)

    # What the channels call

    @property
    def room(self) -> int:
        """How many octets of deliveries the peer may be sent now: none if that is not above 0."""
        return TURN_OUTPUT_MAX_BYTES - self._turn_bytes if self._socket_is_writable else 0

    def buffered(self, content_bytes: int) -> None:
        """Something was buffered that is to be written at the end of the turn."""
        self._turn_bytes += content_bytes
        if not self._flush_is_requested:
            self._request_flush()

    def peer_can(self, capability: str) -> bool:
        """Whether the client said so in its properties."""
        return capability in self._peer_capabilities

    def fail_channel(self, number: int, error: AmqpError) -> None:
        """Close a channel towards both sides."""
        if self._channels.pop(number, None) is None or self._connection is None:
            return
        log.warning("%s, channel %d: %s", self._host.name, number, error)
        self._connection.close_channel(number)
        self._protocol.close_channel(number, error)
        if self._held and not self._is_processing:  # nothing may follow channel.close on a channel
            self._held = [(held_for, output) for held_for, output in self._held if held_for != number]
        self._request_flush()

    def _request_flush(self) -> None:
        self._flush_is_requested = True
        self._host.request_flush()

    def _wake_channels(self) -> None:
        for channel in self._domain_channels.values():
            channel.wake_consumers()

    # What the peer says

    def _process(self) -> None:
        """Handle the events that are left; what they answer after a durable change is held."""
        channels = self._domain_channels
        has_published = False
        awaited: Queue | None = None
        out = self._protocol.out
        self._is_processing = True
        for event in self._events:
            kind = event[0]
            if self._held is not None and kind == METHOD and self._must_wait(event[1], event[2]):
                self._events = chain(self._once_more(event), self._events)
                break
            already_out = len(out)
            try:
                if kind == PUBLISH:
                    has_published = True
                    _, number, exchange, routing_key, mandatory, immediate, properties, bodies = event
                    channels[number].publish(exchange, routing_key, mandatory, immediate, properties, bodies)
                elif kind == ACK:
                    channels[event[1]].ack(event[2], event[3])
                else:
                    self._handle(event)
                    channels = self._domain_channels
            except HeadNotInMemory as wait:
                awaited = wait.queue
                self._events = chain(self._once_more(event), self._events)
                break
            except AmqpError as error:
                self._fail(event, error)
            except Exception:
                log.exception("%s: an event of kind %d failed", self._host.name, kind)
                self._fail(event, HardError(ReplyCode.INTERNAL_ERROR, "see the broker's log"))
            if self._held is not None and len(out) > already_out:
                self._held.append((event[1] if kind in (METHOD, PUBLISH, ACK) else 0, out[already_out:]))
                del out[already_out:]
        self._is_processing = False
        if self._held is not None:
            self._host.pause_input()
            self._journal.when_durable(self._resume)
        elif awaited is not None:
            self._held = []
            self._host.pause_input()
            awaited.when_read(self._resume)
        is_publishing = has_published or self._protocol.is_receiving_content
        if is_publishing and self._connection and self._broker.alarms.is_active and not self._is_blocked:
            self._block()
        self._request_flush()

    def _must_wait(self, number: int, method: Method) -> bool:
        """Whether a method of an open channel must not be carried out during the hold that there is."""
        if number not in self._channels:
            return False
        # Deliveries would overtake the reply to a consume; and others want their turn, too.
        return type(method) is methods.BasicConsume or self._journal.changes - self._held_from > CHANGES_MAX

    def _once_more(self, event: Event) -> Iterator[Event]:
        """An event of a channel, unless the channel is closed by then."""
        if event[1] in self._channels:
            yield event

    def _handle(self, event: Event) -> None:
        """Everything but publishes and acks; a durable change begins a hold."""
        changes = self._journal.changes
        kind = event[0]
        if kind == METHOD:
            self._execute(event[1], event[2])
        elif kind == START_OK:
            self._log_in(*event[1:])
        elif kind == OPEN:
            self._open(event[1])
        elif kind == CLOSE:
            log.info("%s: closed by the client: %d %s", self._host.name, *event[1:])
            self._release()
            self._protocol.close_ok()
        elif kind in (FAILED, CHANNEL_FAILED):
            raise event[-1]
        if self._journal.changes != changes and self._held is None:
            self._held = []
            self._held_from = changes

    def _execute(self, number: int, method: Method) -> None:
        assert self._connection is not None
        match method:
            case methods.ConnectionUpdateSecret() if number == 0:
                self._protocol.send_method(0, methods.ConnectionUpdateSecretOk())
            case methods.ChannelOpen():
                channel = AmqpChannel(self, self._protocol, number)
                channel.channel = self._connection.open_channel(number, channel)
                self._channels[number] = channel
                self._protocol.send_method(number, methods.ChannelOpenOk())
            case methods.ChannelClose():
                del self._channels[number]
                self._connection.close_channel(number)
                self._protocol.send_method(number, methods.ChannelCloseOk())
            case _:
                self._channels[number].receive(method)

    def _log_in(self, mechanism: str, response: bytes, client_properties: FieldTable) -> None:
        self._peer_capabilities = _capabilities(client_properties.get("capabilities"))
        self._name_given = name_given(client_properties)
        try:
            self._user = self._settings.authenticator.authenticate(
                mechanism, response, self._host.peer_is_loopback
            )
        except HardError as error:
            if error.reply_code is ReplyCode.ACCESS_REFUSED and not self.peer_can(
                "authentication_failure_close"
            ):
                self._protocol.ignore_peer()
                self._host.close_after(REFUSAL_DELAY_S)
                return
            raise
        self._protocol.tune()

    def _open(self, vhost_name: str) -> None:
        assert self._user is not None
        vhost = self._broker.open_vhost(vhost_name, self._user)
        self._connection = self._broker.open_connection(vhost, self._user, self._host.name)
        self._domain_channels = self._connection.channels
        self._protocol.open_ok()
        about = (self._host.name, self._user.name, vhost_name, self._name_given)
        log.info("%s: user '%s' opened vhost '%s'%s", *about)

    # The hold

    def _resume(self) -> None:
        if self._held is None:  # lost or closed meanwhile
            return
        for _, output in self._held:
            self._protocol.out.extend(output)
        self._held = None
        self._process()
        self._host.resume_input()

    # Alarms

    def _block(self) -> None:
        """Read nothing more of a publisher until the alarms are over."""
        alarms = self._broker.alarms
        self._is_blocked = True
        self._host.pause_input()
        alarms.when_clear(self._unblock)
        if self.peer_can("connection.blocked"):
            self._protocol.send_method(0, methods.ConnectionBlocked(reason=alarms.reason))

    def _unblock(self) -> None:
        self._is_blocked = False
        self._host.resume_input()
        if self.peer_can("connection.blocked"):
            self._protocol.send_method(0, methods.ConnectionUnblocked())
            self._request_flush()

    # The end

    def _fail(self, event: Event, error: AmqpError) -> None:
        """Close what the error reaches, and name the method that is to blame."""
        kind, number = event[0], 0
        if kind in _BLAMED:
            number = event[1]
            if error.method == (0, 0):
                error.method = event[2].ids if kind == METHOD else _BLAMED[kind]
        if number and isinstance(error, SoftError):
            self.fail_channel(number, error)
        else:
            log.warning("%s: closing the connection: %s", self._host.name, error)
            self.close(error)

    def _release(self) -> None:
        """The domain lets go: everything unacked goes back, exclusive queues go."""
        self._broker.alarms.forget(self._unblock)
        self._channels = {}
        self._domain_channels = {}
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_BLAMED = {
    PUBLISH: methods.BasicPublish.ids,
    ACK: methods.BasicAck.ids,
    METHOD: (0, 0),  # its own
    CHANNEL_FAILED: methods.BasicPublish.ids,
}
"""Kinds of events that belong to a channel, and the ids of their method."""


def _capabilities(value: FieldValue) -> frozenset[str]:
    return (
        frozenset(name for name, can in value.items() if can is True)
        if isinstance(value, dict)
        else frozenset()
    )


def _server_properties(settings: SessionSettings) -> FieldTable:
    """Clients branch on product and version; the truth is in `leveret_version`."""
    return {
        "capabilities": dict.fromkeys(CAPABILITIES, True),
        "cluster_name": "leveret",
        "copyright": "The Leveret authors",
        "information": "Apache-2.0",
        "platform": f"Python {platform.python_version()}",
        "product": settings.product,
        "version": settings.version,
        "leveret_version": __version__,
    }
