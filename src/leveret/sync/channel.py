"""`Channel` for synchronous code.

Written by generate.py from leveret.client.channel: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from leveret.client import channel as aio
from leveret.client.exchange import ExchangeType
from leveret.client.message import Message
from leveret.protocol.amqp.field_table import FieldValue

from . import callbacks
from . import consumer as _consumer
from . import exchange as _exchange
from . import queue as _queue
from .face import Face, bare


class Channel(Face[aio.Channel]):
    """A channel: where an application declares, publishes and consumes. Made by `Connection.channel`.

    A refused operation raises the broker's error and leaves the channel open. Only `close`, the end of the
    connection, or a CHANNEL_CLOSED of the broker end it; then everything that waits raises, and so does every
    later use.

    A channel outlives the link that it was opened on: the connection opens it again on the next one, under
    the same number. Between links requests and publishes wait.
    """

    __slots__ = ()

    @property
    def number(self) -> int:
        return self._async.number

    @property
    def publisher_confirms(self) -> bool:
        return self._async.publisher_confirms

    @property
    def default_exchange(self) -> _exchange.Exchange:
        return _exchange.Exchange(self._portal, self._async.default_exchange)

    @property
    def prefetch_count(self) -> int:
        return self._async.prefetch_count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.end(lambda: self._async.__aexit__(kind, error, traceback))

    @property
    def is_closed(self) -> bool:
        return self._async.is_closed

    def close(self) -> None:
        """Close it: unacked messages go back to their queues, unconfirmed publishes raise. Idempotent."""
        self._portal.end(self._async.close)

    def declare_exchange(
        self,
        name: str,
        type: str = ExchangeType.DIRECT,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> _exchange.Exchange:
        """Make an exchange, or make sure that it is as described; `passive`: only that it exists."""
        return _exchange.Exchange(
            self._portal,
            self._portal.run(
                lambda: self._async.declare_exchange(
                    name,
                    type,
                    durable=durable,
                    auto_delete=auto_delete,
                    internal=internal,
                    passive=passive,
                    arguments=arguments,
                )
            ),
        )

    def get_exchange(self, name: str, *, ensure: bool = True) -> _exchange.Exchange:
        """An exchange that exists; `ensure=False` does not ask the broker."""
        return _exchange.Exchange(
            self._portal, self._portal.run(lambda: self._async.get_exchange(name, ensure=ensure))
        )

    def exchange_delete(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange; that there is none is no error."""
        self._portal.run(lambda: self._async.exchange_delete(name, if_unused=if_unused))

    def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> _queue.Queue:
        """Make a queue, or make sure that it is as described; without a name, the broker picks one.

        When the connection breaks it is declared again, like exchanges and bindings. If the broker picked its
        name and the queue is gone, it picks another one then, and `Queue.name` changes.
        """
        return _queue.Queue(
            self._portal,
            self._portal.run(
                lambda: self._async.declare_queue(
                    name,
                    durable=durable,
                    exclusive=exclusive,
                    auto_delete=auto_delete,
                    passive=passive,
                    arguments=arguments,
                )
            ),
        )

    def get_queue(self, name: str, *, ensure: bool = True) -> _queue.Queue:
        """A queue that exists; `ensure=False` does not ask the broker."""
        return _queue.Queue(
            self._portal, self._portal.run(lambda: self._async.get_queue(name, ensure=ensure))
        )

    def queue_delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue; returns how many messages went with it."""
        return self._portal.run(
            lambda: self._async.queue_delete(name, if_unused=if_unused, if_empty=if_empty)
        )

    def publish(
        self,
        message: Message,
        routing_key: _queue.Queue | str,
        *,
        exchange: _exchange.Exchange | str = "",
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
        self._portal.run(
            lambda: self._async.publish(
                message, bare(routing_key), exchange=bare(exchange), mandatory=mandatory, timeout_s=timeout_s
            )
        )

    def publish_many(
        self,
        messages: Iterable[Message],
        routing_key: _queue.Queue | str,
        *,
        exchange: _exchange.Exchange | str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Publish many messages in their order, and return when the broker has confirmed them all.

        As `publish` for each of them, at a fraction of its cost. When one makes no sense (ValueError,
        TypeError), none is published. When some fail, the others are published nevertheless, and
        PublishFailed is raised, an ExceptionGroup with an error for each that failed; that goes for those,
        too, that are not confirmed when `timeout_s` is over.
        """
        messages = list(messages)  # in this thread
        self._portal.run(
            lambda: self._async.publish_many(
                messages, bare(routing_key), exchange=bare(exchange), mandatory=mandatory, timeout_s=timeout_s
            )
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """`with channel.transaction():` what the block publishes and settles happens as a whole: when
        it ends well, on the disk when it is left; when it raises, not at all.

        The channel must have no publisher confirms: in the block `publish` does not wait. What the first one
        that fails would raise (Unroutable, Nacked ...) is raised at the end, with those after it in `others`,
        and nothing has happened. After a block that raised, its messages are to be settled again.

        Outside of the blocks everything still takes effect at once, only that a refused publish now closes
        the channel.

        When the connection breaks in the block, ConnectionLost is raised and nothing has happened; when it
        breaks while the end is under way, ConnectionLost leaves open which of both.
        """
        with self._portal.entered(self._async.transaction):
            yield

    def set_qos(self, prefetch_count: int, *, global_: bool = False) -> None:
        """How many unacked messages each consumer started from now on may have (`global_`: all together)."""
        self._portal.run(lambda: self._async.set_qos(prefetch_count, global_=global_))

    def handler(
        self,
        queue: _queue.Queue | str,
        *,
        concurrency: int = 1,
        prefetch_count: int | None = None,
        on_error: callbacks.OnError = "reject",
        ack_on_return: bool = True,
        extend_every_s: float | None = None,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Callable[[callbacks.F], callbacks.F]:
        """Declare what handles the messages of a queue; `serve` or `start_handlers` begins with it:

            @channel.handler("orders", concurrency=10)
            def place(message: leveret.sync.IncomingMessage) -> None:
                ...

            channel.serve()

        The function stays what it is. For the arguments, and what becomes of a message whose handler returns
        or raises, see `Queue.consume`.
        """
        return callbacks.decorator(
            self._portal,
            lambda: self._async.handler(
                bare(queue),
                concurrency=concurrency,
                prefetch_count=prefetch_count,
                on_error=callbacks.on_error(self._portal, on_error),
                ack_on_return=ack_on_return,
                extend_every_s=extend_every_s,
                exclusive=exclusive,
                consumer_tag=consumer_tag,
                arguments=arguments,
            ),
        )

    def start_handlers(self) -> list[_consumer.Consumer]:
        """Start the handlers that were declared and have not been started; returns the consumers of all."""
        return [_consumer.Consumer(self._portal, one) for one in self._portal.run(self._async.start_handlers)]

    def serve(self, *, stop_timeout_s: float | None = 30.0) -> None:
        """Start the handlers that were declared, and stay with them until they have ended.

        Returns after `stop_consumers`. When the broker ends one of them (its queue was deleted), the others
        are stopped and ConsumerCancelled is raised; likewise ChannelClosed and ConnectionLost. On Ctrl-C,
        handlers that run have `stop_timeout_s` to finish; what was not begun goes back to the queue.
        """
        self._portal.run(lambda: self._async.serve(stop_timeout_s=stop_timeout_s))

    def stop_consumers(self, timeout_s: float | None = None) -> None:
        """Stop all consumers of this channel gracefully, see `Consumer.stop`."""
        self._portal.run(lambda: self._async.stop_consumers(timeout_s))
