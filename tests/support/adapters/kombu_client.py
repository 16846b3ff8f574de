"""kombu (on py-amqp, as Celery uses it) behind the interop face, in a thread of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import amqp
import kombu
from amqp.exceptions import ChannelError, MessageNacked

from .client_thread import PUMP_S, ClientThread
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

# The properties that kombu hands to py-amqp as they are; three others have parameters of their own.
_OTHERS = [
    name
    for name in Properties.__dataclass_fields__
    if name not in {"headers", "priority", "content_type", "content_encoding"}
]


def broker_said(error: BaseException) -> BaseException:
    if isinstance(error, ChannelError):
        return ClosedByBroker("channel", error.reply_code, error.reply_text)
    if isinstance(error, amqp.AMQPError) and error.reply_code:
        return ClosedByBroker("connection", error.reply_code, error.reply_text)
    if isinstance(error, OSError | amqp.AMQPError):
        return ConnectionLost(str(error))
    return error


class KombuClient(Client):
    name = "kombu"
    # py-amqp lacks basic.nack and the internal bit of exchange.declare.
    nacks_multiple = False
    declares_internal = False

    def __init__(self) -> None:
        self._thread = ClientThread()
        self._connection: kombu.Connection
        self.channel_errors: asyncio.Queue[ClosedByBroker] = asyncio.Queue()

    @classmethod
    async def connect(cls, url: str) -> "KombuClient":
        client = cls()

        def connect() -> None:
            client._connection = kombu.Connection(url, heartbeat=0, transport_options={"max_retries": 1})
            client._connection.connect()

        try:
            await client._thread.start(connect, client._pump)
        except (amqp.AMQPError, OSError) as error:
            raise broker_said(error) from error
        return client

    def _pump(self) -> None:
        try:
            self._connection.drain_events(timeout=PUMP_S)
        except TimeoutError:
            pass
        except ChannelError as error:
            # py-amqp opens the channel again at once, and does not say which one it was.
            self._thread.post(self.channel_errors.put_nowait, broker_said(error))

    async def open_channel(self, *, confirms: bool = False) -> "KombuChannel":
        def channel() -> Any:
            # What the transport option `confirm_publish` does for every channel of a connection.
            self._connection.connection.confirm_publish = confirms
            return self._connection.channel()

        return KombuChannel(self, self._thread, await self._thread.call(channel))

    async def closed(self) -> ClosedByBroker:
        error = broker_said(await asyncio.shield(self._thread.failure))
        if isinstance(error, ClosedByBroker):
            return error
        raise error

    async def close(self) -> None:
        if self._thread.stopped:
            return
        try:
            await self._thread.call(self._connection.release)
        except (amqp.AMQPError, OSError):
            pass
        finally:
            await self._thread.stop()


def _to_kombu(properties: Properties) -> dict[str, Any]:
    others = {name: getattr(properties, name) for name in _OTHERS}
    return {
        "priority": properties.priority,
        "content_type": properties.content_type,
        "content_encoding": properties.content_encoding,
        "headers": properties.headers,
        "properties": {name: value for name, value in others.items() if value is not None},
    }


def _aware(value: Any) -> Any:
    """py-amqp reads timestamps as naive UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if isinstance(value, dict):
        return {key: _aware(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_aware(item) for item in value]
    return value


def _delivery(message: Any) -> Delivery:
    fields = dict(message.properties)
    headers = fields.pop("application_headers", None)
    info = message.delivery_info
    body = message.body
    return Delivery(
        body=body.encode() if isinstance(body, str) else bytes(body),
        exchange=info["exchange"],
        routing_key=info["routing_key"],
        delivery_tag=message.delivery_tag,
        redelivered=bool(info["redelivered"]),
        properties=Properties(headers=_aware(headers), **fields),
        message_count=info.get("message_count"),
    )


class KombuChannel(ClientChannel):
    def __init__(self, client: KombuClient, thread: ClientThread, channel: Any) -> None:
        super().__init__()
        self._client = client
        self._thread = thread
        self._channel = channel
        channel.events["basic_return"].add(self._on_return)

    async def _call(self, method: Callable[..., T], *args: object, **kwargs: object) -> T:
        try:
            return await self._thread.call(lambda: method(*args, **kwargs))
        except MessageNacked as error:
            raise PublishRefused from error
        except (amqp.AMQPError, OSError) as error:
            raise broker_said(error) from error

    def _on_return(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        returned = Returned(error.reply_code, error.reply_text, exchange, routing_key, body)
        self._thread.post(self.returns.put_nowait, returned)

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
        if internal:
            raise NotImplementedError("py-amqp cannot declare internal exchanges")
        await self._call(
            self._channel.exchange_declare,
            name,
            type_,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
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
        answer = await self._call(
            self._channel.queue_declare,
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )
        return QueueState(answer.queue, answer.message_count, answer.consumer_count)

    async def bind_queue(
        self, queue: str, exchange: str, binding_key: str = "", arguments: Arguments = None
    ) -> None:
        await self._call(
            self._channel.queue_bind, queue, exchange, routing_key=binding_key, arguments=arguments
        )

    async def unbind_queue(self, queue: str, exchange: str, binding_key: str = "") -> None:
        await self._call(self._channel.queue_unbind, queue, exchange, routing_key=binding_key)

    async def purge_queue(self, name: str) -> int:
        return int(await self._call(self._channel.queue_purge, name))

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        return int(await self._call(self._channel.queue_delete, name, if_unused=if_unused, if_empty=if_empty))

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = NO_PROPERTIES,
        mandatory: bool = False,
    ) -> None:
        message = self._channel.prepare_message(body, **_to_kombu(properties))
        await self._call(
            self._channel.basic_publish,
            message,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
        )

    async def qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        await self._call(self._channel.basic_qos, 0, prefetch_count, global_)

    async def consume(
        self,
        queue: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments = None,
    ) -> Consumer:
        consumer = Consumer(tag="")

        def on_message(raw: Any) -> None:
            delivery = _delivery(self._channel.message_to_python(raw))
            self._thread.post(consumer.deliveries.put_nowait, delivery)

        consumer.tag = await self._call(
            self._channel.basic_consume,
            queue,
            no_ack=no_ack,
            exclusive=exclusive,
            callback=on_message,
            on_cancel=lambda _tag: self._thread.post(consumer.cancelled.set),
            arguments=arguments,
        )
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        await self._call(self._channel.basic_cancel, consumer.tag)

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        raw = await self._call(self._channel.basic_get, queue, no_ack=no_ack)
        return None if raw is None else _delivery(self._channel.message_to_python(raw))

    async def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        await self._call(self._channel.basic_ack, delivery_tag, multiple=multiple)

    async def nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if multiple:
            raise NotImplementedError("py-amqp has no basic.nack, and reject cannot say it")
        await self.reject(delivery_tag, requeue=requeue)

    async def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        await self._call(self._channel.basic_reject, delivery_tag, requeue)

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
        return await self._client.channel_errors.get()

    async def close(self) -> None:
        await self._call(self._channel.close)
