"""A channel: where an application declares, publishes and consumes. Made by `Connection.channel`.

A refused operation raises the broker's error and leaves the channel open. Only `close`, the end of the
connection, or a CHANNEL_CLOSED of the broker end it; then everything that waits raises, and so does every
later use.

A channel outlives the link that it was opened on: the connection opens it again on the next one, under the
same number. Between links requests and publishes wait.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

from .consumer import Consumer, Subscription, check_prefetch_count
from .errors import (
    BrokerError,
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryLost,
    LeveretError,
    PublishFailed,
)
from .exchange import Exchange, ExchangeType
from .handler import Callback, Handler, Handlers, OnError
from .incoming import IncomingMessage
from .link import Link
from .message import Message
from .publisher import Publisher
from .queue import Queue, queue_name
from .settler import NO_REPLY, Settler
from .transaction import Transaction

if TYPE_CHECKING:
    from .connection import Connection

F = TypeVar("F", bound=Callback)

log = logging.getLogger(__name__)

PRODUCER_BYTES = 16  # of a producer's id, which is random: nobody else may ever have the same
DEFAULT_PREFETCH_COUNT = 256  # keeps a quick reader busy, bounds the memory of a slow one


class Channel:
    """See the module's docstring."""

    settler: Settler  # of the present link, or the last

    def __init__(self, connection: "Connection", number: int, *, publisher_confirms: bool) -> None:
        self.number = number
        self.publisher_confirms = publisher_confirms
        self.default_exchange = Exchange(self, "")
        self.was_opened = False  # so it is opened again on the next link
        self._connection = connection
        self._link: Link | None = None  # None between links
        self._openings = 0  # so far: the broker knows by it which of them is the last
        producer = os.urandom(PRODUCER_BYTES) if publisher_confirms and connection.survives else b""
        self._publisher = Publisher(self, confirms=publisher_confirms, producer=producer)
        self._consumers: dict[int, Consumer] = {}
        self._handlers = Handlers(self)
        self._last_consumer = 0
        self.prefetch_count = DEFAULT_PREFETCH_COUNT  # of consumers that say nothing else
        self._global_prefetch_count: int | None = None  # of all consumers together
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
            link = self._link
            closing = self.abandon()
            if link is not None and closing is not None:
                await link.transport.answered(closing)

    def abandon(self) -> asyncio.Future[list[Any]] | None:
        """`close` without waiting; the result is done when the broker has answered."""
        self.write_batches()
        self.ended(ChannelClosed("the channel was closed; open another one with connection.channel()"))
        return self._release_number()

    def _release_number(self) -> asyncio.Future[list[Any]] | None:
        """Close it at the broker; only when that has answered may the number be used again."""
        if self._link is None or not self._link.is_open:
            self._connection.forget_channel(self.number)
            return None
        closing = self._link.start_request(FrameType.CHANNEL_CLOSE, self.number)
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
        if self.was_opened:
            self.settler.end(error)
        self._connection.topology.channel_gone(self)
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.ended(error, keep_buffer=False)

    # Its links

    async def open(self, link: Link) -> int:
        """Open it on a link, for the first time or again. Returns the last publish tag that the broker knows;
        `resume` goes on from there.
        """
        self._link = link
        self._openings += 1
        self.settler = Settler(self, link.transport, self.number)
        self._publisher.attach(link.transport)
        link.channels[self.number] = self
        values = await link.request(
            FrameType.CHANNEL_OPEN,
            self.number,
            self.publisher_confirms,
            self._publisher.producer,
            self._openings,
        )
        self.was_opened = True
        if self._global_prefetch_count is not None:
            await link.request(FrameType.QOS, self.number, self._global_prefetch_count, True)
        return int(values[0]) if values else 0

    def resume(self, last_tag: int) -> None:
        """Everything else is restored: publishes go on, first those that the broker has not confirmed."""
        if self._link is not None and self._closed is None:
            self._publisher.resume(self._link.transport, last_tag)

    def suspend(self) -> None:
        """The link is gone, and with it what the broker kept for the channel."""
        self._link = None
        self._is_transactional = False
        if not self.was_opened:
            return
        self.settler.end(
            DeliveryLost("the connection broke after this message came: the broker delivers it again")
        )
        if self.current_transaction is not None:
            self._publisher.refuse(self.current_transaction.interrupted())
        self._publisher.suspend()
        for consumer in self._consumers.values():
            consumer.link_lost()

    def consumer_restored(self, number: int, outcome: str | LeveretError) -> None:
        """The consumer was started again under this tag, or could not be."""
        consumer = self._consumers.get(number)
        if consumer is None:
            return
        if isinstance(outcome, str):
            consumer.consumer_tag = outcome
        else:
            del self._consumers[number]
            consumer.ended(outcome, keep_buffer=False)

    def writable(self) -> None:
        """The socket takes more."""
        self._publisher.pump()

    # Requests

    async def request(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a request behind everything that was published and acked before.

        When the connection breaks before the answer, it is sent again on the next link: to declare, bind,
        delete or consume twice is no different from doing it once. `get` without acks and the end of a
        transaction raise ConnectionLost instead.
        """
        return (await self._exchange(type_, fields))[1]

    async def _exchange(self, type_: FrameType, fields: tuple[Any, ...]) -> tuple[Settler, list[Any]]:
        """The reply, and the settler of the link that it came over."""
        topology = self._connection.topology
        settler = self.settler
        while True:
            await self._ready()
            if type_ is FrameType.EXTEND and settler.error is not None:
                raise settler.error.with_traceback(None)  # its tags are those of a link that is gone
            fields = topology.renamed(fields)
            settler = self.settler
            try:
                values = await self.start_request(type_, *fields)
            except BrokerError as error:
                if self._closed is not None and error.reply_code == ReplyCode.CHANNEL_ERROR:
                    # It was closed while the request was on its way.
                    raise self._closed.with_traceback(None) from None
                raise
            except ConnectionLost as lost:
                if type_ is FrameType.GET and fields[1]:
                    text = f"{lost}; a message may have been taken without acks, and be lost"
                    raise ConnectionLost(text) from None
            else:
                topology.note(self, type_, fields, values)
                return settler, values

    async def _ready(self) -> None:
        """Wait for a link."""
        self.require_open()
        if not self._connection.is_connected:
            await self._connection.wait_connected()
            self.require_open()

    def start_request(self, type_: FrameType, *fields: Any) -> asyncio.Future[list[Any]]:
        """`request` without waiting, and only on this link."""
        self.require_open()
        self._connection.require_open()
        if self._link is None:
            raise ConnectionLost("the connection is broken and not restored yet")
        self.write_batches()
        return self._link.start_request(type_, self.number, *fields)

    def send(self, type_: FrameType) -> None:
        """`request` of something that cannot fail; without a link there is no need for it."""
        self.write_batches()
        if self._link is not None:
            self._link.transport.send(type_, NO_REPLY, self.number)

    def write_batches(self) -> None:
        """Publishes first: who acks a message after publishing its result must not lose both."""
        if self._link is None:
            return
        published = self._publisher.write_batch()
        settled = self.settler.write_batches()
        if (published or settled) and self._is_transactional and not self._is_in_transaction:
            self._link.transport.send(FrameType.TX_COMMIT, NO_REPLY, self.number)

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
            self._consumer_cancelled(*frame[2:])
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

    def _consumer_cancelled(self, number: int, queue_is_gone: bool) -> None:
        consumer = self._consumers.pop(number, None)
        self._connection.topology.consumer_gone(self, number, with_queue=queue_is_gone)
        if consumer is not None:
            late = "it kept a message longer than the consumer timeout; see IncomingMessage.extend"
            why = "its queue was deleted" if queue_is_gone else late
            text = f"the broker cancelled consumer {consumer.consumer_tag}: {why}"
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
        options = (passive, durable, auto_delete, internal, dict(arguments or {}))
        await self.request(FrameType.EXCHANGE_DECLARE, name, str(type), *options)
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
        """Make a queue, or make sure that it is as described; without a name, the broker picks one.

        When the connection breaks it is declared again, like exchanges and bindings. If the broker picked its
        name and the queue is gone, it picks another one then, and `Queue.name` changes.
        """
        queue, message_count, consumer_count = await self.request(
            FrameType.QUEUE_DECLARE, name, passive, durable, exclusive, auto_delete, dict(arguments or {})
        )
        return self._queue(queue, message_count, consumer_count)

    async def get_queue(self, name: str, *, ensure: bool = True) -> Queue:
        """A queue that exists; `ensure=False` does not ask the broker."""
        if ensure:
            return await self.declare_queue(name, passive=True)
        return self._queue(name)

    def _queue(self, name: str, message_count: int = 0, consumer_count: int = 0) -> Queue:
        queue = Queue(self, name, message_count, consumer_count)
        self._connection.topology.follow(queue)
        return queue

    async def queue_delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue; returns how many messages went with it."""
        (message_count,) = await self.request(FrameType.QUEUE_DELETE, name, if_unused, if_empty)
        return int(message_count)

    # Publishing

    async def publish(
        self,
        message: Message,
        routing_key: Queue | str,
        *,
        exchange: Exchange | str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Publish, and return when the broker has confirmed: a persistent message in a durable queue is on
        the disk.

        Waits while too many publishes are under way, while the broker blocks publishers (it is low on memory
        or disk), and while the connection is broken: what was not confirmed is sent again then, and the
        broker sees to it that it is not doubled. When `timeout_s` is over it raises PublishTimeout, or
        Blocked if that is the reason.

        Raises Unroutable when `mandatory` and no queue is bound for the routing key, Nacked when a queue
        refused it, NotFound when there is no such exchange. ConnectionLost and ChannelClosed leave open
        whether it arrived. Each of these has the message as `message`.
        """
        try:
            outcome = self._publisher.start(message, exchange, routing_key, mandatory)
            if timeout_s is None:
                error = await outcome
            else:
                async with asyncio.timeout(timeout_s):
                    error = await outcome
        except asyncio.CancelledError:
            self._publisher.withdraw(outcome)
            raise
        except TimeoutError:
            assert timeout_s is not None
            raise self._publisher.timed_out(outcome, message, timeout_s) from None
        except RuntimeError:
            self._publisher.require_loop()  # it was the loop, or the future: they say less of what to do
            raise
        if error is not None:
            raise error

    async def publish_many(
        self,
        messages: Iterable[Message],
        routing_key: Queue | str,
        *,
        exchange: Exchange | str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Publish many messages in their order, and return when the broker has confirmed them all.

        As `publish` for each of them, at a fraction of its cost. When one makes no sense (ValueError,
        TypeError), none is published. When some fail, the others are published nevertheless, and
        PublishFailed is raised, an ExceptionGroup with an error for each that failed; that goes for those,
        too, that are not confirmed when `timeout_s` is over.
        """
        published = list(messages)
        errors = await self._publisher.publish_all(published, exchange, routing_key, mandatory, timeout_s)
        if errors:
            text = f"{len(errors)} of {len(published)} messages were not published; the first: {errors[0]}"
            raise PublishFailed(text, errors)

    # Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """`async with channel.transaction():` what the block publishes and settles happens as a whole: when
        it ends well, on the disk when it is left; when it raises, not at all.

        The channel must have no publisher confirms: in the block `publish` does not wait. What the first one
        that fails would raise (Unroutable, Nacked ...) is raised at the end, with those after it in `others`,
        and nothing has happened. After a block that raised, its messages are to be settled again.

        Outside of the blocks everything still takes effect at once, only that a refused publish now closes
        the channel.

        When the connection breaks in the block, ConnectionLost is raised and nothing has happened; when it
        breaks while the end is under way, ConnectionLost leaves open which of both.
        """
        await self._ready()
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
            self._publisher.refuse(self._closed)

    def _begin(self) -> Transaction:
        self.require_open()
        transaction = Transaction(self)
        if self._is_transactional:
            self.write_batches()
        else:
            self.send(FrameType.TX_SELECT)
            self._is_transactional = True
        return transaction

    @property
    def _is_in_transaction(self) -> bool:
        return self.current_transaction is not None and self.current_transaction.is_open

    # Consuming

    async def set_qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        """How many unacked messages each consumer started from now on may have (`global_`: all together)."""
        check_prefetch_count(prefetch_count)
        await self.request(FrameType.QOS, prefetch_count, global_)
        if global_:
            self._global_prefetch_count = prefetch_count
        else:
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
            queue_name(queue), consumer_tag, False, exclusive, prefetch_count, dict(arguments or {})
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
        if consumer.number not in self._consumers:  # it was ended before this task could go on
            self._connection.topology.consumer_gone(self, consumer.number)
        return consumer

    def _withdraw(self, consumer: Consumer) -> None:
        """Whoever asked for the consumer was cancelled before the answer came."""
        self._consumers.pop(consumer.number, None)
        if self._closed is None and self._link is not None and self._link.is_open:
            self._link.start_request(FrameType.CANCEL, self.number, consumer.number)

    async def cancel_consumer(self, consumer: Consumer) -> None:
        """`Consumer.cancel`; deliveries still on their way go back."""
        self._connection.topology.consumer_gone(self, consumer.number)
        if self._consumers.pop(consumer.number, None) is None or self._closed is not None:
            return
        if self._link is not None and self._link.is_open:
            await self._link.transport.answered(self.start_request(FrameType.CANCEL, consumer.number))

    async def get(self, queue: str, *, no_ack: bool = False) -> IncomingMessage | None:
        """`Queue.get`, by name; None when the queue is empty."""
        settler, (delivery_tag, *fields) = await self._exchange(FrameType.GET, (queue, no_ack))
        if delivery_tag is None:
            return None
        message = IncomingMessage(settler, delivery_tag, *fields)
        if no_ack:
            message.settled_by_delivery()
        return message
