"""A connection on the native framing: frames in, calls on the domain, answers out. Its transport owns it.

It does no I/O. Login, the channels and the answers to requests live here; what one channel can do is in
`NativeChannel`. Every error of an operation is the answer to its request (docs/native-protocol.md section
5); only a broken protocol ends the connection.

Unlike on AMQP, replies may come in any order, so a reply that waits for the disk holds back nothing but
itself.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from leveret.protocol.errors import AmqpError, HardError, SoftError
from leveret.protocol.native.connection import FAILED, Event, ServerConnection, State
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

from ..connection import Connection
from ..queues.queue import HeadNotInMemory
from .native_channel import NativeChannel
from .native_producer import NativeProducerChannel
from .session import SessionHost, SessionSettings, name_given

log = logging.getLogger(__name__)

TURN_OUTPUT_MAX_BYTES = 1 << 20  # of deliveries in one turn; the rest waits until these are written
HELD_REPLIES_MAX = 1024  # waiting for the disk, written or read; a client that asks for more has to wait, too
CLOSE_TIMEOUT_S = 10.0  # how long CLOSED is waited for

_OPERATIONS: dict[int, Callable[..., Sequence[Any] | None]] = {
    FrameType.EXCHANGE_DECLARE: NativeChannel.exchange_declare,
    FrameType.EXCHANGE_DELETE: NativeChannel.exchange_delete,
    FrameType.EXCHANGE_BIND: NativeChannel.exchange_bind,
    FrameType.EXCHANGE_UNBIND: NativeChannel.exchange_unbind,
    FrameType.QUEUE_DECLARE: NativeChannel.queue_declare,
    FrameType.QUEUE_DELETE: NativeChannel.queue_delete,
    FrameType.QUEUE_BIND: NativeChannel.queue_bind,
    FrameType.QUEUE_UNBIND: NativeChannel.queue_unbind,
    FrameType.QUEUE_PURGE: NativeChannel.queue_purge,
    FrameType.QOS: NativeChannel.qos,
    FrameType.CONSUME: NativeChannel.consume,
    FrameType.CANCEL: NativeChannel.cancel,
    FrameType.GET: NativeChannel.get,
    FrameType.ACK: NativeChannel.ack,
    FrameType.NACK: NativeChannel.nack,
    FrameType.REJECT: NativeChannel.reject,
    FrameType.RECOVER: NativeChannel.recover,
    FrameType.TX_SELECT: NativeChannel.tx_select,
    FrameType.TX_COMMIT: NativeChannel.tx_commit,
    FrameType.TX_ROLLBACK: NativeChannel.tx_rollback,
    FrameType.EXTEND: NativeChannel.extend,
}


class NativeSession:
    """See the module's docstring. A `Session` of the transport."""

    def __init__(self, settings: SessionSettings, host: SessionHost) -> None:
        self._settings = settings
        self._host = host
        self._broker = settings.broker
        self._journal = settings.broker.journal
        self._protocol = ServerConnection(
            message_max=settings.message_size_max_bytes,
            channel_max=settings.channel_max,
            heartbeat_s=settings.heartbeat_s,
        )
        self._connection: Connection | None = None  # None before the login
        self._channels: dict[int, NativeChannel] = {}
        self._to_write: dict[NativeChannel, None] = {}  # channels that collected something in this turn
        self._turn_bytes = 0  # of deliveries that were buffered in this turn
        self._socket_is_writable = True
        self._must_hold = False  # the operation under way wants its reply to wait for the commit
        self._held_replies = 0
        self._input_is_paused = False
        self._is_blocked = False  # by an alarm, for having published: nothing is read
        self._is_lost = False
        self._close_deadline_s: float | None = None  # None until a tick after CLOSE was sent

    # What the transport calls (`Session`)

    @property
    def is_established(self) -> bool:
        return self._connection is not None

    @property
    def is_closed(self) -> bool:
        return self._protocol.state is State.CLOSED

    def receive_data(self, data: bytes) -> None:
        has_published = False
        for event in self._protocol.receive_data(data):
            has_published = has_published or event[0] == FrameType.PUBLISH
            try:
                self._receive(event)
            except Exception:
                log.exception("%s: a frame of type %#04x failed", self._host.name, event[0])
                self.close(HardError(ReplyCode.INTERNAL_ERROR, "see the broker's log"))
        is_publishing = has_published or self._protocol.is_receiving_body
        if is_publishing and self._broker.alarms.is_active and self._protocol.state is State.OPEN:
            self._block()
        self._host.request_flush()  # also without output: the end of the turn starts the commit

    def connection_lost(self) -> None:
        self._is_lost = True
        if self._protocol.state is State.OPEN and not self._host.was_cut:
            log.warning("%s: the client went away without closing the connection", self._host.name)
        self._broker.alarms.forget(self._unblock)
        self._channels = {}
        self._to_write = {}
        if self._connection is not None:
            self._connection.close()

    def set_writable(self, writable: bool) -> None:
        self._socket_is_writable = writable
        if writable:
            self._wake_channels()

    def tick(self, now_s: float) -> None:
        if not self._host.is_reading:
            self._protocol.excuse_silence()
        if not self._protocol.tick(now_s):
            log.warning("closing %s: nothing heard for %d s", self._host.name, self._protocol.heartbeat_s)
            self._host.close_after(0)
        elif self._protocol.state is State.CLOSING:
            self._wait_for_closed(now_s)
        elif self._protocol.out:
            self._host.request_flush()

    def _wait_for_closed(self, now_s: float) -> None:
        if self._close_deadline_s is None:
            self._close_deadline_s = now_s + CLOSE_TIMEOUT_S
        elif now_s >= self._close_deadline_s:
            self._host.close_after(0)

    def take_output(self) -> list[bytes]:
        """Answers first, then what the channels collected."""
        if self._to_write:
            channels, self._to_write = self._to_write, {}
            for channel in channels:
                channel.write_batches()
        was_full = self._turn_bytes >= TURN_OUTPUT_MAX_BYTES
        self._turn_bytes = 0
        if was_full:
            self._wake_channels()
        return self._protocol.data_to_send()

    def close(self, error: AmqpError) -> None:
        """End the connection with a goodbye; the domain lets go of it at once."""
        if self._is_blocked:  # the peer's CLOSED must be read
            self._broker.alarms.forget(self._unblock)
            self._unblock()
        self._release()
        self._protocol.close(error.reply_code, error.reply_text)
        self._host.request_flush()

    def _release(self) -> None:
        """Write what was collected and let go of the domain."""
        for channel in self._to_write:
            channel.write_batches()
        self._channels = {}
        self._to_write = {}
        if self._connection is not None:
            self._connection.close()

    # Alarms

    def _block(self) -> None:
        """Read nothing more of a publisher until the alarms are over."""
        alarms = self._broker.alarms
        self._is_blocked = True
        self._host.pause_input()
        alarms.when_clear(self._unblock)
        self._protocol.send(FrameType.BLOCKED, alarms.reason)

    def _unblock(self) -> None:
        self._is_blocked = False
        self._host.resume_input()
        self._protocol.send(FrameType.UNBLOCKED)
        self._host.request_flush()

    # What the channels call

    @property
    def room(self) -> int:
        """How many octets of deliveries the peer may be sent now: none if that is not above 0."""
        return TURN_OUTPUT_MAX_BYTES - self._turn_bytes if self._socket_is_writable else 0

    def buffered(self, channel: NativeChannel, size: int) -> None:
        """The channel collected something to be written at the end of the turn."""
        self._turn_bytes += size
        if channel not in self._to_write:
            self._to_write[channel] = None
            self._host.request_flush()

    def hold_reply(self) -> None:
        """The reply to the operation under way must wait for the commit."""
        self._must_hold = True

    def fail_channel(self, channel: NativeChannel, error: AmqpError, operation: int) -> None:
        """Close a channel towards both sides."""
        if self._channels.pop(channel.number, None) is None or self._connection is None:
            return
        log.warning("%s, channel %d: %s", self._host.name, channel.number, error)
        channel.write_batches()
        self._connection.close_channel(channel.number)
        self._protocol.fail_channel(channel.number, error.reply_code, error.reply_text, operation)
        self._host.request_flush()

    def _wake_channels(self) -> None:
        for channel in self._channels.values():
            channel.channel.wake_consumers()

    # What the peer says

    def _receive(self, event: Event) -> None:
        type_ = event[0]
        if self._protocol.state is State.CLOSING:
            return  # a goodbye was sent in answer to an event before this one
        if type_ == FrameType.PUBLISH:
            _, number, publish_tag, runs = event
            channel = self._channels.get(number)
            if channel is not None:  # else: it failed by an event before this one of the same data
                channel.publish(publish_tag, runs)
        elif type_ == FAILED:
            log.warning("closing %s: %s", self._host.name, event[1])
            self.close(event[1])
        elif type_ == FrameType.HELLO:
            self._log_in(event)
        elif type_ == FrameType.CLOSE:
            log.info("%s: closed by the client: %d %s", self._host.name, event[1], event[2])
            self._release()
            self._protocol.answer_close()
        elif type_ == FrameType.CHANNEL_OPEN:
            self._open_channel(*event[1:])
        elif type_ == FrameType.CHANNEL_CLOSE:
            self._close_channel(*event[1:])
        elif type_ != FrameType.CLOSED:
            self._execute(*event)

    def _log_in(self, hello: Event) -> None:
        _, _, _, _, mechanism, response, vhost_name, properties = hello
        settings, host = self._settings, self._host
        try:
            user = settings.authenticator.authenticate(mechanism, response, host.peer_is_loopback)
            vhost = self._broker.open_vhost(vhost_name, user)
            self._protocol.welcome(hello, {"product": settings.product, "version": settings.version})
        except HardError as error:
            self.close(error)
        else:
            self._connection = self._broker.open_connection(vhost, user, host.name)
            name = name_given(properties)
            log.info("%s: user '%s' opened vhost '%s'%s", host.name, user.name, vhost_name, name)

    def _open_channel(self, request: int, number: int, confirm: bool, producer: bytes, opening: int) -> None:
        assert self._connection is not None
        if producer:
            self._open_producer_channel(request, number, producer, opening)
            return
        channel = NativeChannel(self, self._protocol, number)
        channel.channel = self._connection.open_channel(number, channel)
        if confirm:
            channel.channel.confirm_select()
        self._channels[number] = channel
        self._protocol.answer(request)

    def _open_producer_channel(self, request: int, number: int, producer: bytes, opening: int) -> None:
        assert self._connection is not None
        channel = NativeProducerChannel(self, self._protocol, number)
        try:
            channel.channel = self._connection.open_producer_channel(number, channel, producer, opening)
        except SoftError as error:
            self._protocol.refuse_channel(request, number, ReplyCode(error.reply_code), error.explanation)
            return
        self._channels[number] = channel
        # Whoever hears 0 counts from 1: the log must have forgotten, too, what was before.
        answer = partial(self._protocol.answer, request, channel.channel.last_tag)
        self._hold(answer, self._journal.when_durable)

    def _close_channel(self, request: int, number: int) -> None:
        assert self._connection is not None
        channel = self._channels.pop(number, None)
        if channel is not None:
            channel.write_batches()
            self._to_write.pop(channel, None)
        self._connection.close_channel(number)
        self._protocol.answer_channel_close(request, number)

    def _execute(self, type_: int, request: int, number: int, *fields: Any) -> None:
        channel = self._channels.get(number)
        if channel is None:  # it failed by an event before this one of the same data
            self._answer_not_open(request, number, type_)
            return
        changes = self._journal.changes
        self._must_hold = False
        try:
            values = _OPERATIONS[type_](channel, *fields) or ()
        except HeadNotInMemory as wait:
            again = partial(self._execute_again, channel, type_, request, number, *fields)
            self._hold(again, wait.queue.when_read)
        except AmqpError as error:
            self._answer_error(channel, request, error, type_)
        else:
            if request and (self._must_hold or self._journal.changes != changes):
                self._hold(partial(self._protocol.answer, request, *values), self._journal.when_durable)
            else:
                self._protocol.answer(request, *values)

    def _execute_again(
        self, channel: NativeChannel, type_: int, request: int, number: int, *fields: Any
    ) -> None:
        """What an operation had to wait for is there."""
        if self._channels.get(number) is channel:
            self._execute(type_, request, number, *fields)
        else:  # it was closed meanwhile; there may be another one with its number
            self._answer_not_open(request, number, type_)

    def _answer_not_open(self, request: int, number: int, operation: int) -> None:
        text = f"channel {number} is not open"
        self._protocol.answer_error(request, ReplyCode.CHANNEL_ERROR, text, operation)

    def _answer_error(self, channel: NativeChannel, request: int, error: AmqpError, operation: int) -> None:
        if request:
            code = ReplyCode(error.reply_code)
            self._protocol.answer_error(request, code, error.explanation, operation)
        else:
            self.fail_channel(channel, error, operation)

    # Replies that wait for the disk

    def _hold(
        self, answer: Callable[[], None], call_when_ready: Callable[[Callable[[], None]], None]
    ) -> None:
        self._held_replies += 1
        if self._held_replies >= HELD_REPLIES_MAX and not self._input_is_paused:
            self._input_is_paused = True
            self._host.pause_input()
        call_when_ready(partial(self._let_go, answer))

    def _let_go(self, answer: Callable[[], None]) -> None:
        self._held_replies -= 1
        if self._input_is_paused and self._held_replies < HELD_REPLIES_MAX // 2:
            self._input_is_paused = False
            self._host.resume_input()
        if self._is_lost or self._protocol.state is not State.OPEN:
            return
        try:
            answer()
        except Exception:  # a bug, but of this connection: others wait for the same
            log.exception("%s: an answer that had waited failed", self._host.name)
            self.close(HardError(ReplyCode.INTERNAL_ERROR, "see the broker's log"))
        self._host.request_flush()
