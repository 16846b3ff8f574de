"""pika.BlockingConnection behind the interop face, in a thread of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pika
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from . import pika_message
from .client_thread import PUMP_S, ClientThread
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

T = TypeVar("T")


class PikaBlockingClient(Client):
    name = "pika-blocking"
    unspeakable_headers = frozenset({float})

    def __init__(self) -> None:
        self._thread = ClientThread()
        self._connection: pika.BlockingConnection

    @classmethod
    async def connect(cls, url: str) -> "PikaBlockingClient":
        client = cls()

        def connect() -> None:
            client._connection = pika.BlockingConnection(pika.URLParameters(url))

        try:
            await client._thread.start(
                connect, lambda: client._connection.process_data_events(time_limit=PUMP_S)
            )
        except exceptions.AMQPError as error:
            raise pika_message.broker_said(error) from error
        return client

    async def open_channel(self, *, confirms: bool = False) -> "PikaBlockingChannel":
        channel = await self._thread.call(self._connection.channel)
        if confirms:
            await self._thread.call(channel.confirm_delivery)
        return PikaBlockingChannel(self._thread, channel, confirms=confirms)

    async def closed(self) -> ClosedByBroker:
        error = pika_message.broker_said(await self._thread.failure)
        if isinstance(error, ClosedByBroker):
            return error
        raise error

    async def close(self) -> None:
        def close() -> None:
            if self._connection.is_open:
                self._connection.close()

        if self._thread.stopped:
            return
        try:
            await self._thread.call(close)
        except exceptions.AMQPError:
            pass
        finally:
            await self._thread.stop()


class PikaBlockingChannel(ClientChannel):
    def __init__(self, thread: ClientThread, channel: BlockingChannel, *, confirms: bool) -> None:
        super().__init__()
        self._thread = thread
        self._channel = channel
        if not confirms:  # with confirms, publishing raises what came back, and the callback may come later
            channel.add_on_return_callback(self._on_return)
        self._consumers: dict[str, Consumer] = {}
        channel.add_on_cancel_callback(self._on_cancel)

    async def _call(self, method: Callable[..., T], *args: object, **kwargs: Any) -> T:
        try:
            return await self._thread.call(lambda: method(*args, **kwargs))
        except exceptions.AMQPError as error:
            raise pika_message.broker_said(error) from error

    def _on_return(self, _channel: object, method: Any, _properties: object, body: bytes) -> None:
        self._thread.post(self.returns.put_nowait, pika_message.returned(method, body))

    def _on_cancel(self, frame: Any) -> None:
        self._thread.post(self._consumers[frame.method.consumer_tag].cancelled.set)

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
        return (await self._call(self._channel.queue_purge, name)).method.message_count

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        frame = await self._call(self._channel.queue_delete, name, if_unused=if_unused, if_empty=if_empty)
        return frame.method.message_count

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        try:
            await self._call(
                self._channel.basic_publish,
                exchange,
                routing_key,
                body,
                properties=pika_message.to_pika(properties),
                mandatory=mandatory,
            )
        except exceptions.NackError as error:
            raise PublishRefused from error
        except exceptions.UnroutableError as error:
            for message in error.messages:
                self.returns.put_nowait(pika_message.returned(message.method, message.body))

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
            self._thread.post(consumer.deliveries.put_nowait, pika_message.delivery(method, properties, body))

        consumer.tag = await self._call(
            self._channel.basic_consume,
            queue,
            on_message,
            auto_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments,
        )
        self._consumers[consumer.tag] = consumer
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        await self._call(self._channel.basic_cancel, consumer.tag)

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        method, properties, body = await self._call(self._channel.basic_get, queue, auto_ack=no_ack)
        return None if method is None else pika_message.delivery(method, properties, body)

    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        await self._call(self._channel.basic_ack, delivery_tag, multiple=multiple)

    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        await self._call(self._channel.basic_nack, delivery_tag, multiple=multiple, requeue=requeue)

    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        await self._call(self._channel.basic_reject, delivery_tag, requeue=requeue)

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
        try:
            while True:
                # The same that start_consuming() does: it raises what the broker said about this channel.
                await self._call(self._channel._process_data_events, PUMP_S)
        except ClosedByBroker as closed:
            return closed

    async def close(self) -> None:
        await self._call(self._channel.close)
