"""A channel of an AMQP connection: its methods in, its frames out. `AmqpSession` owns it.

It is the `Wire` of one domain `Channel`. `_HANDLERS` says for every method that a client may send what it
does: one call on the domain and, unless the method asks for none, one reply. basic.publish and basic.ack are
not here: the session calls the domain for them itself, because there is one for every message.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import ServerConnection
from leveret.protocol.amqp.rendering import ChannelRenderer
from leveret.protocol.amqp.wire_types import Method
from leveret.protocol.errors import AmqpError, HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..channels.channel import Channel
from ..message import Message
from ..queues.delivery import Delivery, delivered_properties

if TYPE_CHECKING:
    from .amqp_session import AmqpSession

DELIVERY_OVERHEAD_BYTES = 64  # of frames and names, roughly: a backlog of empty messages takes turns, too


class AmqpChannel:
    """See the module's docstring."""

    channel: Channel  # set by the session right after making this

    def __init__(self, session: "AmqpSession", protocol: ServerConnection, number: int) -> None:
        self.number = number
        self._session = session
        self._protocol = protocol
        self._renderer = ChannelRenderer(number, protocol.frame_max_bytes, protocol.out)

    # What the domain says (`Wire`)

    def deliver(self, consumer_tag: str, first_tag: int, deliveries: Sequence[Delivery]) -> None:
        content_bytes = self._renderer.deliver(consumer_tag, first_tag, deliveries)
        self._session.buffered(content_bytes + len(deliveries) * DELIVERY_OVERHEAD_BYTES)

    def return_message(self, message: Message, reply_code: int, reply_text: str) -> None:
        method = methods.BasicReturn(
            reply_code=reply_code,
            reply_text=reply_text,
            exchange=message.exchange,
            routing_key=message.routing_key,
        )
        self._renderer.method_with_content(method, message.properties, message.body)
        self._session.buffered(len(message.body))

    def confirm(self, publish_tag: int, multiple: bool) -> None:
        self._renderer.ack(publish_tag, multiple)
        self._session.buffered(0)

    def refuse(self, publish_tag: int, multiple: bool) -> None:
        self._renderer.nack(publish_tag, multiple)
        self._session.buffered(0)

    def cancel_consumer(self, consumer_tag: str, *, queue_is_gone: bool) -> bool:
        understood = self._session.peer_can("consumer_cancel_notify")
        if understood:
            self._send(methods.BasicCancel(consumer_tag=consumer_tag, no_wait=True))
        return understood

    def close_channel(self, error: AmqpError) -> None:
        self._session.fail_channel(self.number, error)

    def room(self) -> int:
        return self._session.room

    # What the client says

    def receive(self, method: Method) -> None:
        """Execute a method and answer it."""
        handle = _HANDLERS.get(type(method))
        if handle is None:
            raise HardError(ReplyCode.COMMAND_INVALID, "unimplemented method")
        reply = handle(self, method)
        if reply is not None and not getattr(method, "no_wait", False):
            self._send(reply)

    def _send(self, method: Method) -> None:
        self._protocol.send_method(self.number, method)
        self._session.buffered(0)

    def _flow(self, method: methods.ChannelFlow) -> Method:
        if not method.active:
            raise HardError(ReplyCode.NOT_IMPLEMENTED, "active=false")
        return methods.ChannelFlowOk(active=True)

    def _access_request(self, _: methods.AccessRequest) -> Method:
        return methods.AccessRequestOk(ticket=1)  # a relic of 0-8: tickets are ignored

    def _exchange_declare(self, method: methods.ExchangeDeclare) -> Method:
        self.channel.exchange_declare(
            method.exchange,
            method.type,
            passive=method.passive,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments,
        )
        return methods.ExchangeDeclareOk()

    def _exchange_delete(self, method: methods.ExchangeDelete) -> Method:
        self.channel.exchange_delete(method.exchange, if_unused=method.if_unused)
        return methods.ExchangeDeleteOk()

    def _exchange_bind(self, method: methods.ExchangeBind) -> Method:
        self.channel.exchange_bind(method.destination, method.source, method.routing_key, method.arguments)
        return methods.ExchangeBindOk()

    def _exchange_unbind(self, method: methods.ExchangeUnbind) -> Method:
        self.channel.exchange_unbind(method.destination, method.source, method.routing_key, method.arguments)
        return methods.ExchangeUnbindOk()

    def _queue_declare(self, method: methods.QueueDeclare) -> Method:
        declared = self.channel.queue_declare(
            method.queue,
            passive=method.passive,
            durable=method.durable,
            exclusive=method.exclusive,
            auto_delete=method.auto_delete,
            arguments=method.arguments,
        )
        return methods.QueueDeclareOk(
            queue=declared.name,
            message_count=declared.message_count,
            consumer_count=declared.consumer_count,
        )

    def _queue_bind(self, method: methods.QueueBind) -> Method:
        self.channel.queue_bind(method.queue, method.exchange, method.routing_key, method.arguments)
        return methods.QueueBindOk()

    def _queue_unbind(self, method: methods.QueueUnbind) -> Method:
        self.channel.queue_unbind(method.queue, method.exchange, method.routing_key, method.arguments)
        return methods.QueueUnbindOk()

    def _queue_purge(self, method: methods.QueuePurge) -> Method:
        return methods.QueuePurgeOk(message_count=self.channel.queue_purge(method.queue))

    def _queue_delete(self, method: methods.QueueDelete) -> None:
        # As in RabbitMQ: who deletes a queue is answered, then told that its own consumers are cancelled.
        out = self._protocol.out
        already_out = len(out)
        count = self.channel.queue_delete(method.queue, if_unused=method.if_unused, if_empty=method.if_empty)
        cancels = out[already_out:]
        del out[already_out:]
        if not method.no_wait:
            self._send(methods.QueueDeleteOk(message_count=count))
        out.extend(cancels)

    def _qos(self, method: methods.BasicQos) -> Method:
        self.channel.qos(method.prefetch_size, method.prefetch_count, method.global_)
        return methods.BasicQosOk()

    def _consume(self, method: methods.BasicConsume) -> Method:
        tag = self.channel.consume(
            method.queue,
            method.consumer_tag,
            no_ack=method.no_ack,
            exclusive=method.exclusive,
            arguments=method.arguments,
        )
        return methods.BasicConsumeOk(consumer_tag=tag)

    def _cancel(self, method: methods.BasicCancel) -> Method:
        self.channel.cancel(method.consumer_tag)
        return methods.BasicCancelOk(consumer_tag=method.consumer_tag)

    def _get(self, method: methods.BasicGet) -> Method | None:
        got = self.channel.get(method.queue, no_ack=method.no_ack)
        if got is None:
            return methods.BasicGetEmpty()
        message = got.copy.message
        reply = methods.BasicGetOk(
            delivery_tag=got.delivery_tag,
            redelivered=got.copy.redelivered,
            exchange=message.exchange,
            routing_key=message.routing_key,
            message_count=got.message_count,
        )
        self._renderer.method_with_content(reply, delivered_properties(got.copy), message.body)
        self._session.buffered(len(message.body))
        return None

    def _reject(self, method: methods.BasicReject) -> None:
        self.channel.reject(method.delivery_tag, method.requeue)

    def _nack(self, method: methods.BasicNack) -> None:
        self.channel.nack(method.delivery_tag, method.multiple, method.requeue)

    def _recover(self, method: methods.BasicRecover) -> Method:
        self._requeue_unacked(method.requeue)
        return methods.BasicRecoverOk()

    def _recover_async(self, method: methods.BasicRecoverAsync) -> None:
        self._requeue_unacked(method.requeue)

    def _requeue_unacked(self, requeue: bool) -> None:
        if not requeue:
            raise HardError(ReplyCode.NOT_IMPLEMENTED, "requeue=false")
        self.channel.recover()

    def _confirm_select(self, _: methods.ConfirmSelect) -> Method:
        self.channel.confirm_select()
        return methods.ConfirmSelectOk()

    def _tx_select(self, _: methods.TxSelect) -> Method:
        self.channel.tx_select()
        return methods.TxSelectOk()

    def _tx_commit(self, _: methods.TxCommit) -> Method:
        if self.channel.tx_commit():
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "partial tx completion")
        return methods.TxCommitOk()

    def _tx_rollback(self, _: methods.TxRollback) -> Method:
        self.channel.tx_rollback()
        return methods.TxRollbackOk()

    def _ignore(self, _: Method) -> None:
        """An answer to something we did not ask: flow-ok, cancel-ok."""


_HANDLERS: dict[type[Method], Callable[[AmqpChannel, Any], Method | None]] = {
    methods.ChannelFlow: AmqpChannel._flow,
    methods.ChannelFlowOk: AmqpChannel._ignore,
    methods.AccessRequest: AmqpChannel._access_request,
    methods.ExchangeDeclare: AmqpChannel._exchange_declare,
    methods.ExchangeDelete: AmqpChannel._exchange_delete,
    methods.ExchangeBind: AmqpChannel._exchange_bind,
    methods.ExchangeUnbind: AmqpChannel._exchange_unbind,
    methods.QueueDeclare: AmqpChannel._queue_declare,
    methods.QueueBind: AmqpChannel._queue_bind,
    methods.QueueUnbind: AmqpChannel._queue_unbind,
    methods.QueuePurge: AmqpChannel._queue_purge,
    methods.QueueDelete: AmqpChannel._queue_delete,
    methods.BasicQos: AmqpChannel._qos,
    methods.BasicConsume: AmqpChannel._consume,
    methods.BasicCancel: AmqpChannel._cancel,
    methods.BasicCancelOk: AmqpChannel._ignore,
    methods.BasicGet: AmqpChannel._get,
    methods.BasicReject: AmqpChannel._reject,
    methods.BasicNack: AmqpChannel._nack,
    methods.BasicRecover: AmqpChannel._recover,
    methods.BasicRecoverAsync: AmqpChannel._recover_async,
    methods.ConfirmSelect: AmqpChannel._confirm_select,
    methods.TxSelect: AmqpChannel._tx_select,
    methods.TxCommit: AmqpChannel._tx_commit,
    methods.TxRollback: AmqpChannel._tx_rollback,
}
