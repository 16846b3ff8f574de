"""Leveret's own SDK, over the native framing, behind the interop face."""

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TypeVar

import leveret

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


async def _translated(operation: Awaitable[T]) -> T:
    try:
        return await operation
    except leveret.Nacked as error:
        raise PublishRefused from error
    except leveret.BrokerError as error:
        raise ClosedByBroker("operation", error.reply_code, error.reply_text) from error
    except leveret.AuthenticationFailed as error:
        _, _, text = str(error).partition(": ")  # before it: which broker, which user
        raise ClosedByBroker("connection", 403, text) from error
    except leveret.ConnectionLost as error:
        raise ConnectionLost(str(error)) from error


class LeveretClient(Client):
    name = "leveret"
    # leveret.Message has no cluster_id, and always says whether it is persistent.
    unspeakable = frozenset({"cluster_id"})
    tells_absent_from_empty = False
    returns_without_confirms = False  # only logged
    counts_on_get = False
    # Messages are settled one by one, through the objects that arrived.
    acks_multiple = False
    nacks_multiple = False
    settles_by_tag = False
    errors_close = False

    def __init__(self, connection: leveret.Connection) -> None:
        self._connection = connection

    @classmethod
    def url(cls, amqp_url: str) -> str:
        return amqp_url.replace("amqp://", "leveret://")

    @classmethod
    async def connect(cls, url: str) -> "LeveretClient":
        return cls(await _translated(leveret.connect(url, reconnect=False)))

    @property
    def is_blocked(self) -> bool:
        return self._connection.is_blocked

    async def open_channel(self, *, confirms: bool = False) -> "LeveretChannel":
        return LeveretChannel(await _translated(self._connection.channel(publisher_confirms=confirms)))

    async def closed(self) -> ClosedByBroker:
        raise NotImplementedError("the SDK tells the operations that fail, not who waits")

    async def close(self) -> None:
        await self._connection.close()


def _message(body: bytes, properties: Properties) -> leveret.Message:
    sent_at = properties.timestamp
    return leveret.Message(
        body,
        headers=properties.headers,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=properties.delivery_mode or leveret.DeliveryMode.NOT_PERSISTENT,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=None if properties.expiration is None else int(properties.expiration) / 1000,
        message_id=properties.message_id,
        timestamp=None if sent_at is None else datetime.fromtimestamp(sent_at, UTC),
        type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def _delivery(message: leveret.IncomingMessage, message_count: int | None = None) -> Delivery:
    sent_at = message.timestamp
    return Delivery(
        body=message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        delivery_tag=message.delivery_tag,
        redelivered=message.redelivered,
        properties=Properties(
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.properties.headers,
            delivery_mode=message.delivery_mode,
            priority=message.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=message.properties.expiration,
            message_id=message.message_id,
            timestamp=None if sent_at is None else int(sent_at.timestamp()),
            type=message.type,
            user_id=message.user_id,
            app_id=message.app_id,
        ),
        message_count=message_count,
    )


class LeveretChannel(ClientChannel):
    def __init__(self, channel: leveret.Channel) -> None:
        super().__init__()
        self._channel = channel
        self._unsettled: dict[int, leveret.IncomingMessage] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}

    async def _queue(self, name: str) -> leveret.Queue:
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
                name,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        )
        return QueueState(queue.name, queue.message_count, queue.consumer_count)

    async def bind_queue(
        self, queue: str, exchange: str, binding_key: str = "", arguments: Arguments = None
    ) -> None:
        await _translated((await self._queue(queue)).bind(exchange, binding_key, arguments=arguments))

    async def unbind_queue(self, queue: str, exchange: str, binding_key: str = "") -> None:
        await _translated((await self._queue(queue)).unbind(exchange, binding_key))

    async def purge_queue(self, name: str) -> int:
        return await _translated((await self._queue(name)).purge())

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        return await _translated(self._channel.queue_delete(name, if_unused=if_unused, if_empty=if_empty))

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        message = _message(body, properties)
        try:
            await _translated(
                self._channel.publish(message, routing_key, exchange=exchange, mandatory=mandatory)
            )
        except leveret.Unroutable as error:
            self.returns.put_nowait(Returned(312, "NO_ROUTE", error.exchange, error.routing_key, body))

    async def qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        await _translated(self._channel.set_qos(prefetch_count, global_=global_))

    async def consume(
        self,
        queue: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments = None,
    ) -> Consumer:
        consumer = Consumer(tag="")
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        options = {"no_ack": no_ack, "exclusive": exclusive, "arguments": arguments}
        reader = asyncio.create_task(self._read(await self._queue(queue), consumer, started, options))
        consumer.tag = await _translated(started)
        self._readers[consumer.tag] = reader
        return consumer

    async def _read(
        self,
        queue: leveret.Queue,
        consumer: Consumer,
        started: asyncio.Future[str],
        options: dict[str, object],
    ) -> None:
        try:
            async with queue.iterator(**options) as messages:  # type: ignore[arg-type]
                started.set_result(messages.consumer_tag)
                async for message in messages:
                    self._unsettled[message.delivery_tag] = message
                    consumer.deliveries.put_nowait(_delivery(message))
        except leveret.ConsumerCancelled:
            consumer.cancelled.set()
        except leveret.LeveretError as error:
            if not started.done():
                started.set_exception(error)

    async def cancel(self, consumer: Consumer) -> None:
        reader = self._readers.pop(consumer.tag)
        reader.cancel()
        await asyncio.wait([reader])

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        message = await _translated((await self._queue(queue)).get(no_ack=no_ack, fail=False))
        if message is None:
            return None
        self._unsettled[message.delivery_tag] = message
        return _delivery(message)

    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        if multiple:
            raise NotImplementedError("the SDK settles message by message")
        await self._unsettled.pop(delivery_tag).ack()

    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if multiple:
            raise NotImplementedError("the SDK settles message by message")
        await self._unsettled.pop(delivery_tag).nack(requeue=requeue)

    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        await self._unsettled.pop(delivery_tag).reject(requeue=requeue)

    def transaction(self) -> AbstractAsyncContextManager[object]:
        return self._channel.transaction()

    async def closed(self) -> ClosedByBroker:
        raise NotImplementedError("the SDK tells the operations that fail, not who waits")

    async def close(self) -> None:
        await self._channel.close()
