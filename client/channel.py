"""A channel: where an application declares, publishes and consumes. Made by `Connection.channel`.

A refused operation raises the broker's error and leaves the channel open. Only `close`, the end of the
connection, or a CHANNEL_CLOSED of the broker end it; then everything that waits raises, and so does every
later use.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

from .consumer import Consumer, Subscription, check_prefetch_count
from .errors import Blocked, BrokerError, ChannelClosed, ConsumerCancelled, LeveretError
from .exchange import Exchange, ExchangeType
from .handler import Callback, Handler, Handlers, OnError
from .incoming import IncomingMessage
from .message import Message, check_names
from .publisher import Publisher
from .queue import Queue
from .settler import NO_REPLY, Settler
from .transaction import Transaction
from .transport import Transport

if TYPE_CHECKING:
    from .connection import Connection

F = TypeVar("F", bound=Callback)

log = logging.getLogger(__name__)

DEFAULT_PREFETCH_COUNT = 256  # keeps a quick reader busy, bounds the memory of a slow one


class Channel:
    """See the module's docstring."""

    def __init__(
        self, connection: "Connection", transport: Transport, number: int, *, publisher_confirms: bool
    ) -> None:
        self.number = number
        self.publisher_confirms = publisher_confirms
        self.default_exchange = Exchange(self, "")
        self._connection = connection
        self._transport = transport
        self._publisher = Publisher(self, transport, number, confirms=publisher_confirms)
        self.settler = Settler(self, transport, number)
        self._consumers: dict[int, Consumer] = {}
        self._handlers = Handlers(self)
        self._last_consumer = 0
        self.prefetch_count = DEFAULT_PREFETCH_COUNT  # of consumers that say nothing else
        self._closed: LeveretError | None = None  # why it cannot be used any more
        self._is_transactional = False  # the broker keeps everything until a commit
        self.current_transaction: Transaction | None = None  # until its end is answered

    def __repr__(self) -> str:
        return f"<Channel {self.number}, {'closed' if self.is_closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # The life of a channel

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def require_open(self) -> None:
        """Raise when the channel cannot be used any more."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)

    async def close(self) -> None:
        """Close it: unacked messages go back to their queues, unconfirmed publishes raise. Idempotent."""
        if self._closed is None:
            closing = self.abandon()
            if closing is not None:
                await self._transport.answered(closing)

    def abandon(self) -> asyncio.Future[list[Any]] | None:
        """`close` without waiting; the result is done when the broker has answered."""
        self.write_batches()
        self.ended(ChannelClosed("the channel was closed; open another one with connection.channel()"))
        return self._release_number()

    def _release_number(self) -> asyncio.Future[list[Any]] | None:
        """Close it at the broker; only when that has answered may the number be used again."""
        if self._connection.is_closed:
            return None
        closing = self._connection.start_request(FrameType.CHANNEL_CLOSE, self.number)
        closing.add_done_callback(self._number_released)
        return closing

    def _number_released(self, closing: asyncio.Future[list[Any]]) -> None:
        if not closing.cancelled() and closing.exception() is None:
            self._connection.forget_channel(self.number)

    def ended(self, error: LeveretError) -> None:
        """Nothing more comes for this channel."""
        if self._closed is not None:
            return
        self._closed = error
        self._publisher.ended(error)
        self.settler.end(error)
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.ended(error, keep_buffer=False)

    async def request(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a request behind everything that was published and acked before."""
        try:
            return await self.start_request(type_, *fields)
        except BrokerError as error:
            if self._closed is not None and error.reply_code == ReplyCode.CHANNEL_ERROR:
                raise self._closed.with_traceback(
                    None
                ) from None  # it was closed while the request was on its way
            raise

    def start_request(self, type_: FrameType, *fields: Any) -> asyncio.Future[list[Any]]:
        """`request` without waiting."""
        self.require_open()
        self.write_batches()
        return self._connection.start_request(type_, self.number, *fields)

    def send(self, type_: FrameType) -> None:
        """`request` of something that cannot fail."""
        self.write_batches()
        self._transport.send(type_, NO_REPLY, self.number)

    def write_batches(self) -> None:
        """Publishes first: who acks a message after publishing its result must not lose both."""
        published = self._publisher.write_batch()
        settled = self.settler.write_batches()
        if (published or settled) and self._is_transactional and not self._is_in_transaction:
            self._transport.send(FrameType.TX_COMMIT, NO_REPLY, self.number)

    # What the broker says

    def frame_received(self, frame: Sequence[Any]) -> None:
        """A frame for this channel, replies apart."""
        type_ = frame[0]
        if type_ == FrameType.DELIVER:
            self._delivered(frame[2])
        elif type_ == FrameType.CONFIRM:
            self._publisher.confirmed(frame[2])
        elif type_ == FrameType.REFUSE:
            self._publisher.refused(*frame[2:])
        elif type_ == FrameType.RETURN:
            self._publisher.returned(frame[2])
        elif type_ == FrameType.CONSUMER_CANCELLED:
            self._consumer_cancelled(frame[2])
        elif type_ == FrameType.CHANNEL_CLOSED and self._closed is None:
            closed = ChannelClosed(f"the broker closed the channel: {frame[2]} {frame[3]}")
            log.warning("%r: %s", self, closed)
            self.ended(closed)
            self._release_number()

    def _delivered(self, messages: list[list[Any]]) -> None:
        if self._closed is not None:
            return  # the broker requeues it
        consumers, settler = self._consumers, self.settler
        for number, delivery_tag, flags, exchange, routing_key, properties, body in messages:
            consumer = consumers.get(number)
            if consumer is None:
                # It was on its way when the consumer was cancelled.
                self.settler.settle(FrameType.NACK, delivery_tag, requeue=True, multiple=False)
            else:
                consumer.delivered(
                    IncomingMessage(settler, delivery_tag, flags, exchange, routing_key, properties, body)
                )

    def _consumer_cancelled(self, number: int) -> None:
        consumer = self._consumers.pop(number, None)
        if consumer is not None:
            text = (
                f"the broker cancelled consumer {consumer.consumer_tag}: was its queue deleted, "
                "or did it keep a message longer than the consumer timeout?"
            )
            consumer.ended(ConsumerCancelled(text), keep_buffer=True)

    # Exchanges and queues

    async def declare_exchange(
        self,
        name: str,
        type: str = ExchangeType.DIRECT,  # AMQP's name of it
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Exchange:
        """Make an exchange, or make sure that it is as described; `passive`: only that it exists."""
        await self.request(
            FrameType.EXCHANGE_DECLARE,
            name,
            str(type),
            passive,
            durable,
            auto_delete,
            internal,
            dict(arguments or {}),
        )
        return Exchange(self, name)

    async def get_exchange(self, name: str, *, ensure: bool = True) -> Exchange:
        """An exchange that exists; `ensure=False` does not ask the broker."""
        if ensure:
            return await self.declare_exchange(name, passive=True)
        return Exchange(self, name)

    async def exchange_delete(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange; that there is none is no error."""
        await self.request(FrameType.EXCHANGE_DELETE, name, if_unused)

    async def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Queue:
        """Make a queue, or make sure that it is as described; without a name, the broker picks one."""
        queue, message_count, consumer_count = await self.request(
            FrameType.QUEUE_DECLARE, name, passive, durable, exclusive, auto_delete, dict(arguments or {})
        )
        return Queue(self, queue, message_count, consumer_count)

    async def get_queue(self, name: str, *, ensure: bool = True) -> Queue:
        """A queue that exists; `ensure=False` does not ask the broker."""
        if ensure:
            return await self.declare_queue(name, passive=True)
        return Queue(self, name)

    async def queue_delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue; returns how many messages went with it."""
        (message_count,) = await self.request(FrameType.QUEUE_DELETE, name, if_unused, if_empty)
        return int(message_count)

    # Publishing

    async def publish(
        self,
        message: Message,
        routing_key: str,
        *,
        exchange: str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Publish, and return when the broker has confirmed: a persistent message in a durable queue is on
        the disk.

        Waits for a slot while too many publishes are under way. Raises Unroutable when `mandatory` and no
        queue is bound for the routing key, Nacked when a queue refused it, NotFound when there is no such
        exchange. ConnectionLost and ChannelClosed leave open whether it arrived. While the broker blocks
        publishers (it is low on memory or disk) it waits; when `timeout_s` is over it raises Blocked, or
        TimeoutError if there is no such reason.
        """
        self.require_open()
        if not isinstance(message, Message):
            raise TypeError(f"publish takes a leveret.Message, not {type(message).__name__}")
        check_names(exchange=exchange, routing_key=routing_key)
        if len(message.body) > self._connection.message_max_bytes:
            limit = self._connection.message_max_bytes
            raise ValueError(f"the body has {len(message.body)} bytes; the broker takes up to {limit}")
        if timeout_s is None:
            await self._publisher.publish(message, exchange, routing_key, mandatory)
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._publisher.publish(message, exchange, routing_key, mandatory)
        except TimeoutError:
            reason = self._connection.blocked_reason
            if reason is None:
                raise TimeoutError(f"no confirm within {timeout_s:g} s") from None
            raise Blocked(message, reason, timeout_s) from None

    # Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """`async with channel.transaction():` what the block publishes and settles happens as a whole: when
        it ends well, on the disk when it is left; when it raises, not at all.

        The channel must have no publisher confirms: in the block `publish` does not wait, and what it would
        raise is raised at the end. A publish that the broker refuses undoes everything; Unroutable and Nacked
        say that all the rest has happened. After a block that raised, its messages are to be settled again.

        Outside of the blocks everything still takes effect at once, only that a refused publish now closes
        the channel.
        """
        self.current_transaction = transaction = self._begin()
        try:
            yield
        except BaseException:
            transaction.roll_back()
            raise
        else:
            await transaction.commit()
        finally:
            self.current_transaction = None

    def _begin(self) -> Transaction:
        self.require_open()
        if self.publisher_confirms:
            raise LeveretError(
                "a channel with publisher confirms has no transactions; "
                "open one with connection.channel(publisher_confirms=False)"
            )
        if self.current_transaction is not None:
            raise LeveretError("this channel is in a transaction; let it end, or open another channel")
        if self._is_transactional:
            self.write_batches()
        else:
            self.send(FrameType.TX_SELECT)
            self._is_transactional = True
        return Transaction(self)

    @property
    def _is_in_transaction(self) -> bool:
        return self.current_transaction is not None and self.current_transaction.is_open

    # Consuming

    async def set_qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        """How many unacked messages each consumer started from now on may have (`global_`: all together)."""
        check_prefetch_count(prefetch_count)
        await self.request(FrameType.QOS, prefetch_count, global_)
        if not global_:
            self.prefetch_count = prefetch_count

    def handler(
        self,
        queue: Queue | str,
        *,
        concurrency: int = 1,
        prefetch_count: int | None = None,
        on_error: OnError = "reject",
        ack_on_return: bool = True,
        extend_every_s: float | None = None,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Callable[[F], F]:
        """Declare what handles the messages of a queue; `serve` or `start_handlers` begins with it:

            @channel.handler("orders", concurrency=10)
            async def place(message: leveret.IncomingMessage) -> None:
                ...

            await channel.serve()

        The function stays what it is. For the arguments, and what becomes of a message whose handler returns
        or raises, see `Queue.consume`.
        """
        subscription = Subscription(
            str(queue), consumer_tag, False, exclusive, prefetch_count, dict(arguments or {})
        )

        def declare(callback: F) -> F:
            self._handlers.add(
                Handler(callback, subscription, concurrency, on_error, ack_on_return, extend_every_s)
            )
            return callback

        return declare

    async def start_handlers(self) -> list[Consumer]:
        """Start the handlers that were declared and have not been started; returns the consumers of all."""
        return await self._handlers.start()

    async def serve(self, *, stop_timeout_s: float | None = 30.0) -> None:
        """Start the handlers that were declared, and stay with them until they have ended.

        Returns after `stop_consumers`. When the broker ends one of them (its queue was deleted), the others
        are stopped and ConsumerCancelled is raised; likewise ChannelClosed and ConnectionLost. When this is
        cancelled (with `asyncio.run` that is what Ctrl-C does), handlers that run have `stop_timeout_s` to
        finish; what was not begun goes back to the queue.
        """
        await self._handlers.serve(stop_timeout_s)

    async def stop_consumers(self, timeout_s: float | None = None) -> None:
        """Stop all consumers of this channel gracefully, see `Consumer.stop`."""
        await asyncio.gather(*(consumer.stop(timeout_s) for consumer in list(self._consumers.values())))

    async def start_consumer(self, subscription: Subscription) -> Consumer:
        """`Queue.iterator`, by name.

        With `no_ack` a message counts as done when the application takes it: it is acked then. The broker
        is not told to expect no acks, for without them nothing would bound what it sends.
        """
        self.require_open()
        self._last_consumer += 1
        consumer = Consumer(self, self._last_consumer, subscription)
        self._consumers[consumer.number] = consumer
        try:
            (consumer.consumer_tag,) = await self.request(
                FrameType.CONSUME,
                subscription.queue,
                consumer.number,
                subscription.consumer_tag,
                subscription.is_reply_to,
                subscription.exclusive,
                subscription.prefetch_count or self.prefetch_count,
                dict(subscription.arguments),
            )
        except asyncio.CancelledError:
            self._withdraw(consumer)
            raise
        except BaseException:
            self._consumers.pop(consumer.number, None)
            raise
        return consumer

    def _withdraw(self, consumer: Consumer) -> None:
        """Whoever asked for the consumer was cancelled before the answer came."""
        self._consumers.pop(consumer.number, None)
        if self._closed is None and not self._connection.is_closed:
            self._connection.start_request(FrameType.CANCEL, self.number, consumer.number)

    async def cancel_consumer(self, consumer: Consumer) -> None:
        """`Consumer.cancel`; deliveries still on their way go back."""
        if self._consumers.pop(consumer.number, None) is not None and self._closed is None:
            await self._transport.answered(self.start_request(FrameType.CANCEL, consumer.number))

    async def get(self, queue: str, *, no_ack: bool = False) -> IncomingMessage | None:
        """`Queue.get`, by name; None when the queue is empty."""
        delivery_tag, *fields = await self.request(FrameType.GET, queue, no_ack)
        if delivery_tag is None:
            return None
        message = IncomingMessage(self.settler, delivery_tag, *fields)
        if no_ack:
            message.settled_by_delivery()
        return message
