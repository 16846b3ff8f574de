"""aio-pika (the plain, not the robust connection) behind the interop face."""

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq import exceptions

from .face import (
    NO_PROPERTIES,
    Arguments,
    Client,
    ClientChannel,
    ClosedByBroker,
    ConnectionLost,
    Consumer,
    Delivery,
    Properties,
    PublishRefused,
    QueueState,
    Returned,
)

T = TypeVar("T")

# aiormq keeps the reply text and says the code by the class of the exception.
_CODES: dict[type[BaseException], int] = {
    exceptions.ChannelAccessRefused: 403,
    exceptions.ChannelNotFoundEntity: 404,
    exceptions.ChannelLockedResource: 405,
    exceptions.ChannelPreconditionFailed: 406,
    exceptions.ConnectionFrameError: 501,
    exceptions.ConnectionSyntaxError: 502,
    exceptions.ConnectionCommandInvalid: 503,
    exceptions.ConnectionChannelError: 504,
    exceptions.ConnectionUnexpectedFrame: 505,
    exceptions.ConnectionResourceError: 506,
    exceptions.ConnectionNotAllowed: 530,
    exceptions.ConnectionNotImplemented: 540,
    exceptions.ConnectionInternalError: 541,
}


def broker_said(error: BaseException) -> BaseException:
    scope = "channel" if isinstance(error, exceptions.AMQPChannelError) else "connection"
    if type(error) in _CODES:
        return ClosedByBroker(scope, _CODES[type(error)], str(error.args[0]))
    if isinstance(error, exceptions.ProbableAuthenticationError):
        # Raised for the broker's 403 while logging in; the text is all that is kept.
        return ClosedByBroker("connection", 403, str(error.args[0]))
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed) and len(error.args) == 2:
        return ClosedByBroker(scope, *error.args)
    if isinstance(error, ConnectionError):
        return ConnectionLost(str(error))
    return error


async def _translated(operation: Awaitable[T]) -> T:
    try:
        return await operation
    except exceptions.DeliveryError as error:
        raise PublishRefused from error
    except (exceptions.AMQPError, ConnectionError) as error:
        raise broker_said(error) from error


class AioPikaClient(Client):
    name = "aio-pika"
    # aio_pika.Message has no cluster_id, and always sends a delivery mode, a priority and a header table.
    unspeakable = frozenset({"cluster_id"})
    tells_absent_from_empty = False
    unspeakable_headers = frozenset({bytes})
    allows_any_name = False
    tells_why_open_failed = False
    # Returned messages are only matched with publishes that wait for a confirm.
    returns_without_confirms = False

    def __init__(self, connection: aio_pika.abc.AbstractConnection) -> None:
        self._connection = connection
        self._closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        connection.close_callbacks.add(lambda _connection, error: _note(self._closed, error))

    @classmethod
    async def connect(cls, url: str) -> "AioPikaClient":
        return cls(await _translated(aio_pika.connect(url)))

    async def open_channel(self, *, confirms: bool = False) -> "AioPikaChannel":
        channel = self._connection.channel(publisher_confirms=confirms)
        await _translated(channel.initialize())
        wrapped = AioPikaChannel(channel)
        await wrapped.watch_cancels()
        return wrapped

    async def closed(self) -> ClosedByBroker:
        return await _reason(self._closed)

    async def close(self) -> None:
        await self._connection.close()


def _note(closed: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not closed.done():
        closed.set_result(error)


async def _reason(closed: asyncio.Future[BaseException | None]) -> ClosedByBroker:
    error = await asyncio.shield(closed)
    said = broker_said(error) if error is not None else ConnectionLost()
    if isinstance(said, ClosedByBroker):
        return said
    raise said


def _message(body: bytes, properties: Properties) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        headers=properties.headers,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=None if properties.expiration is None else int(properties.expiration) / 1000,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def _seconds(timestamp: object) -> int | None:
    return int(timestamp.replace(tzinfo=UTC).timestamp()) if isinstance(timestamp, datetime) else None


def _delivery(message: AbstractIncomingMessage) -> Delivery:
    expiration = message.expiration
    return Delivery(
        body=message.body,
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        delivery_tag=message.delivery_tag or 0,
        redelivered=bool(message.redelivered),
        properties=Properties(
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            delivery_mode=message.delivery_mode,
            priority=message.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=f"{expiration * 1000:.0f}" if isinstance(expiration, float) else None,
            message_id=message.message_id,
            timestamp=_seconds(message.timestamp),
            type=message.type,
            user_id=message.user_id,
            app_id=message.app_id,
        ),
        message_count=message.message_count,
    )


class AioPikaChannel(ClientChannel):
    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        super().__init__()
        self._channel = channel
        self._consumers: dict[str, Consumer] = {}
        self._closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        channel.return_callbacks.add(self._on_return)
        channel.close_callbacks.add(lambda _channel, error: _note(self._closed, error))

    async def watch_cancels(self) -> None:
        """aio-pika itself does not pass on the broker's basic.cancel; the layer below it does."""
        underlay = await self._channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(self._on_cancel)

    def _on_cancel(self, frame: Any) -> None:
        self._consumers[frame.consumer_tag].cancelled.set()

    def _on_return(self, _channel: object, message: AbstractIncomingMessage) -> None:
        # aio-pika drops code and text of basic.return: the broker knows only this one.
        self.returns.put_nowait(
            Returned(312, "NO_ROUTE", message.exchange or "", message.routing_key or "", message.body)
        )

    async def _queue(self, name: str) -> aio_pika.abc.AbstractQueue:
        return await self._channel.get_queue(name, ensure=False)

    async def declare_exchange(
        self,
        name: str,
        type_: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments = None,
    ) -> None:
        await _translated(
            self._channel.declare_exchange(
                name,
                type_,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            )
        )

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        await _translated(self._channel.exchange_delete(name, if_unused=if_unused))

    async def bind_exchange(self, destination: str, source: str, binding_key: str = "") -> None:
        exchange = await self._channel.get_exchange(destination, ensure=False)
        await _translated(exchange.bind(source, binding_key))

    async def declare_queue(
        self,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
    ) -> QueueState:
        queue = await _translated(
            self._channel.declare_queue(
                name or None,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        )
        result = queue.declaration_result
        return QueueState(queue.name, result.message_count or 0, result.consumer_count or 0)

    async def bind_queue(
        self, queue: str, exchange: str, binding_key: str = "", arguments: Arguments = None
    ) -> None:
        await _translated((await self._queue(queue)).bind(exchange, binding_key, arguments=arguments))

    async def unbind_queue(self, queue: str, exchange: str, binding_key: str = "") -> None:
        await _translated((await self._queue(queue)).unbind(exchange, binding_key))

    async def purge_queue(self, name: str) -> int:
        return (await _translated((await self._queue(name)).purge())).message_count or 0

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        answer = await _translated(self._channel.queue_delete(name, if_unused=if_unused, if_empty=if_empty))
        return answer.message_count or 0

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        target = (
            await self._channel.get_exchange(exchange, ensure=False)
            if exchange
            else self._channel.default_exchange
        )
        await _translated(target.publish(_message(body, properties), routing_key, mandatory=mandatory))

    async def qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        await _translated(self._channel.set_qos(prefetch_count=prefetch_count, global_=global_))

    async def consume(
        self,
        queue: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments = None,
    ) -> Consumer:
        consumer = Consumer(tag="")

        async def on_message(message: AbstractIncomingMessage) -> None:
            consumer.deliveries.put_nowait(_delivery(message))

        consumer.tag = await _translated(
            (await self._queue(queue)).consume(
                on_message, no_ack=no_ack, exclusive=exclusive, arguments=arguments
            )
        )
        self._consumers[consumer.tag] = consumer
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        underlay = await self._channel.get_underlay_channel()
        await _translated(underlay.basic_cancel(consumer.tag))

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        message = await _translated((await self._queue(queue)).get(no_ack=no_ack, fail=False))
        return None if message is None else _delivery(message)

    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        underlay = await self._channel.get_underlay_channel()
        await _translated(underlay.basic_ack(delivery_tag, multiple=multiple))

    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        underlay = await self._channel.get_underlay_channel()
        await _translated(underlay.basic_nack(delivery_tag, multiple=multiple, requeue=requeue))

    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        underlay = await self._channel.get_underlay_channel()
        await _translated(underlay.basic_reject(delivery_tag, requeue=requeue))

    def transaction(self) -> AbstractAsyncContextManager[object]:
        return self._channel.transaction()

    async def closed(self) -> ClosedByBroker:
        return await _reason(self._closed)

    async def close(self) -> None:
        await self._channel.close()
