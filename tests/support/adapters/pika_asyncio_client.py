"""pika's asyncio connection behind the interop face: its callbacks become futures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

from . import pika_message
from .face import (
    NO_PROPERTIES,
    Arguments,
    Client,
    ClientChannel,
    ClosedByBroker,
    Consumer,
    Delivery,
    Properties,
    PublishRefused,
    QueueState,
)


class PikaAsyncioClient(Client):
    name = "pika-asyncio"
    unspeakable_headers = frozenset({float})

    def __init__(self) -> None:
        self.is_blocked = False  # by connection.blocked
        self._connection: AsyncioConnection
        self._closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, url: str) -> "PikaAsyncioClient":
        client = cls()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client._connection = AsyncioConnection(
            pika.URLParameters(url),
            on_open_callback=lambda _connection: opened.set_result(None),
            on_open_error_callback=lambda _connection, error: opened.set_exception(
                pika_message.broker_said(error)
            ),
            on_close_callback=lambda _connection, error: client._closed.set_result(error),
        )
        await opened
        client._connection.add_on_connection_blocked_callback(lambda *_: client._set_blocked(True))
        client._connection.add_on_connection_unblocked_callback(lambda *_: client._set_blocked(False))
        return client

    def _set_blocked(self, is_blocked: bool) -> None:
        self.is_blocked = is_blocked

    async def open_channel(self, *, confirms: bool = False) -> "PikaAsyncioChannel":
        opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._connection.channel(on_open_callback=opened.set_result)
        channel = PikaAsyncioChannel(await opened)
        if confirms:
            await channel.select_confirms()
        return channel

    async def closed(self) -> ClosedByBroker:
        error = pika_message.broker_said(await asyncio.shield(self._closed))
        if isinstance(error, ClosedByBroker):
            return error
        raise error

    async def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        await self._closed


class PikaAsyncioChannel(ClientChannel):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._closed: asyncio.Future[BaseException] = self._loop.create_future()
        self._consumers: dict[str, Consumer] = {}
        self._unconfirmed: dict[int, asyncio.Future[None]] | None = None
        self._publish_tag = 0
        self._get: asyncio.Future[Delivery | None] | None = None
        channel.add_on_close_callback(lambda _channel, error: self._on_close(error))
        channel.add_on_cancel_callback(self._on_cancel)
        channel.add_on_return_callback(self._on_return)
        channel.add_callback(self._on_get_empty, [pika.spec.Basic.GetEmpty], one_shot=False)

    async def select_confirms(self) -> None:
        self._unconfirmed = {}
        await self._call(self._channel.confirm_delivery, self._on_confirm)

    async def _call(self, method: Callable[..., object], *args: object, **kwargs: object) -> Any:
        """Call a method that answers through `callback`; a closing channel answers for all."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        try:
            method(*args, callback=answered.set_result, **kwargs)
        except exceptions.ChannelWrongStateError:
            raise await self.closed() from None
        await asyncio.wait([answered, self._closed], return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        raise pika_message.broker_said(self._closed.result())

    def _on_close(self, error: BaseException) -> None:
        self._closed.set_result(error)
        waiting = [*(self._unconfirmed or {}).values(), *([self._get] if self._get else [])]
        for future in waiting:
            if not future.done():
                future.set_exception(pika_message.broker_said(error))

    def _on_cancel(self, frame: Any) -> None:
        self._consumers[frame.method.consumer_tag].cancelled.set()

    def _on_return(self, _channel: object, method: Any, _properties: object, body: bytes) -> None:
        self.returns.put_nowait(pika_message.returned(method, body))

    def _on_confirm(self, frame: Any) -> None:
        assert self._unconfirmed is not None
        tag = frame.method.delivery_tag
        settled = [t for t in self._unconfirmed if t <= tag] if frame.method.multiple else [tag]
        for publish_tag in settled:
            future = self._unconfirmed.pop(publish_tag)
            if isinstance(frame.method, pika.spec.Basic.Ack):
                future.set_result(None)
            else:
                future.set_exception(PublishRefused())

    def _on_get_empty(self, _frame: object) -> None:
        if self._get is not None:
            self._get.set_result(None)

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
        await self._call(
            self._channel.exchange_declare,
            name,
            type_,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        await self._call(self._channel.exchange_delete, name, if_unused=if_unused)

    async def bind_exchange(self, destination: str, source: str, binding_key: str = "") -> None:
        await self._call(self._channel.exchange_bind, destination, source, routing_key=binding_key)

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
        frame = await self._call(
            self._channel.queue_declare,
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )
        return QueueState(frame.method.queue, frame.method.message_count, frame.method.consumer_count)

    async def bind_queue(
        self, queue: str, exchange: str, binding_key: str = "", arguments: Arguments = None
    ) -> None:
        await self._call(
            self._channel.queue_bind, queue, exchange, routing_key=binding_key, arguments=arguments
        )

    async def unbind_queue(self, queue: str, exchange: str, binding_key: str = "") -> None:
        await self._call(self._channel.queue_unbind, queue, exchange, routing_key=binding_key)

    async def purge_queue(self, name: str) -> int:
        return int((await self._call(self._channel.queue_purge, name)).method.message_count)

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        frame = await self._call(self._channel.queue_delete, name, if_unused=if_unused, if_empty=if_empty)
        return int(frame.method.message_count)

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        confirmed: asyncio.Future[None] = self._loop.create_future()
        if self._unconfirmed is None:
            confirmed.set_result(None)
        else:
            self._publish_tag += 1
            self._unconfirmed[self._publish_tag] = confirmed
        self._channel.basic_publish(
            exchange, routing_key, body, pika_message.to_pika(properties), mandatory=mandatory
        )
        await confirmed

    async def qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        await self._call(self._channel.basic_qos, prefetch_count=prefetch_count, global_qos=global_)

    async def consume(
        self,
        queue: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments = None,
    ) -> Consumer:
        consumer = Consumer(tag="")

        def on_message(_channel: object, method: Any, properties: Any, body: bytes) -> None:
            consumer.deliveries.put_nowait(pika_message.delivery(method, properties, body))

        frame = await self._call(
            self._channel.basic_consume,
            queue,
            on_message,
            auto_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments,
        )
        consumer.tag = frame.method.consumer_tag
        self._consumers[consumer.tag] = consumer
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        await self._call(self._channel.basic_cancel, consumer.tag)

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        answered: asyncio.Future[Delivery | None] = self._loop.create_future()
        self._get = answered

        def on_message(_channel: object, method: Any, properties: Any, body: bytes) -> None:
            answered.set_result(pika_message.delivery(method, properties, body))

        self._channel.basic_get(queue, on_message, auto_ack=no_ack)
        return await answered

    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        self._channel.basic_ack(delivery_tag, multiple=multiple)

    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self._channel.basic_nack(delivery_tag, multiple=multiple, requeue=requeue)

    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        self._channel.basic_reject(delivery_tag, requeue=requeue)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        await self._call(self._channel.tx_select)
        try:
            yield
        except BaseException:
            await self._call(self._channel.tx_rollback)
            raise
        await self._call(self._channel.tx_commit)

    async def closed(self) -> ClosedByBroker:
        error = pika_message.broker_said(await asyncio.shield(self._closed))
        if isinstance(error, ClosedByBroker):
            return error
        raise error

    async def close(self) -> None:
        self._channel.close()
        await asyncio.shield(self._closed)
