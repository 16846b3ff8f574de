"""A queue as the SDK hands it out: a name on a channel.

`async for message in queue` reads it; so do `iterator` (with options), `consume` (with a callback) and
`get` (one message).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.native.layouts import FrameType

from .consumer import Consumer, Subscription
from .errors import QueueEmpty
from .exchange import Exchange, exchange_name
from .handler import Callback, Handler, OnError
from .incoming import IncomingMessage

if TYPE_CHECKING:
    from .channel import Channel


class Queue:
    """Made by `Channel.declare_queue`. The counts are of that moment."""

    def __init__(
        self, channel: "Channel", name: str, message_count: int = 0, consumer_count: int = 0
    ) -> None:
        self.channel = channel
        self.name = name
        self.message_count = message_count
        self.consumer_count = consumer_count

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    def __str__(self) -> str:
        return self.name

    # Reading

    def __aiter__(self) -> AsyncIterator[IncomingMessage]:
        """`async for message in queue`: for ever, or until the loop is left."""
        return aiter(self.iterator())

    def iterator(
        self,
        *,
        prefetch_count: int | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> "Iteration":
        """Read the queue in a loop:

            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        ...

        Leaving the block ends the consumer, and what arrived but was not taken goes back to the queue.
        Raises ConsumerCancelled when the broker ends the consumer (the queue was deleted).

        Args:
            prefetch_count: how many unsettled messages this consumer may have; else what `set_qos` said.
            no_ack: a message is done when the loop takes it.
            exclusive: be the only consumer, or raise AccessRefused.
            consumer_tag: a name for operators; the broker picks one.
            arguments: such as `{"x-priority": 10}`, or `{"x-consumer-timeout": 60_000}` (milliseconds).
        """
        subscription = Subscription(
            self.name, consumer_tag, no_ack, exclusive, prefetch_count, dict(arguments or {})
        )
        return Iteration(lambda: self.channel.start_consumer(subscription))

    async def consume(
        self,
        callback: Callback,
        *,
        concurrency: int = 1,
        prefetch_count: int | None = None,
        on_error: OnError = "reject",
        ack_on_return: bool = True,
        extend_every_s: float | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Consumer:
        """Have a function called for each message, until `consumer.stop()` or `cancel()`:

            async def work(message: leveret.IncomingMessage) -> None:
                order = message.decode()
                ...

            consumer = await queue.consume(work, concurrency=10)

        A message is acked when the function returns, and rejected (dead-lettered, if the queue has a
        dead-letter exchange) when it raises. The function may settle it itself; `async with
        message.process():` does that, too.

        An `async def` runs in the event loop and must not block it. A `def` runs in a thread, of which there
        are as many as the concurrency, and may block for as long as it likes: heartbeats go on. It may settle
        its message, but must leave everything else of the connection to the loop.

        Args:
            callback: what to call.
            concurrency: how many messages may be handled at the same time.
            prefetch_count: how many unsettled messages the consumer may have, those that are handled
                included; else what `set_qos` said, but at least the concurrency. Few for long work, so that
                other consumers get their share; more than the concurrency for short work, so that handlers
                need not wait for the network.
            on_error: what happens to a message whose function raises, if it is not settled by then.
                "reject": it is dead-lettered or dropped, for it would only fail again. "requeue": it comes
                again, at once, for ever (unless the queue has a delivery limit). "requeue_once": it comes
                again, and is rejected when it was redelivered and fails. Or a function (`def` or `async
                def`) of the message and the error, which may settle it in any way; what it leaves is
                rejected.
            ack_on_return: with False, a message that was not settled when the function returns waits for
                somebody else to do that, to whom the function has given it.
            extend_every_s: extend all that this consumer holds every so often (see
                `IncomingMessage.extend`), so that handlers may take longer than the broker's consumer
                timeout. Not on by default: the timeout is what finds a handler that hangs.
            no_ack, exclusive, consumer_tag, arguments: see `iterator`.

        When the connection breaks, handlers that run go on; their message comes again. When the broker ends
        the consumer, that is logged; `consumer.wait()` raises it.
        """
        subscription = Subscription(
            self.name, consumer_tag, no_ack, exclusive, prefetch_count, dict(arguments or {})
        )
        handler = Handler(callback, subscription, concurrency, on_error, ack_on_return, extend_every_s)
        return await handler.start(self.channel)

    @overload
    async def get(self, *, no_ack: bool = False, fail: Literal[True] = True) -> IncomingMessage: ...

    @overload
    async def get(self, *, no_ack: bool = False, fail: bool) -> IncomingMessage | None: ...

    async def get(self, *, no_ack: bool = False, fail: bool = True) -> IncomingMessage | None:
        """Take one message; its `message_count` says how many more are ready. When there is none: raise
        QueueEmpty, or return None with `fail=False`.

        This is one round trip for each message: a loop over the queue is many times faster.
        """
        message = await self.channel.get(self.name, no_ack=no_ack)
        if message is None and fail:
            raise QueueEmpty(f"queue '{self.name}' is empty")
        return message

    # The queue itself

    async def bind(
        self,
        exchange: Exchange | str,
        binding_key: str | None = None,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Have messages of an exchange come here; without a binding key, the queue's name is the key."""
        await self._change_binding(FrameType.QUEUE_BIND, exchange, binding_key, arguments)

    async def unbind(
        self,
        exchange: Exchange | str,
        binding_key: str | None = None,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Undo `bind`; that there is no such binding is no error."""
        await self._change_binding(FrameType.QUEUE_UNBIND, exchange, binding_key, arguments)

    async def _change_binding(
        self,
        type_: FrameType,
        exchange: Exchange | str,
        binding_key: str | None,
        arguments: Mapping[str, FieldValue] | None,
    ) -> None:
        key = self.name if binding_key is None else binding_key
        await self.channel.request(type_, self.name, exchange_name(exchange), key, dict(arguments or {}))

    async def purge(self) -> int:
        """Drop what is ready; returns how many messages that was."""
        (message_count,) = await self.channel.request(FrameType.QUEUE_PURGE, self.name)
        return int(message_count)

    async def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue; returns how many messages went with it."""
        return await self.channel.queue_delete(self.name, if_unused=if_unused, if_empty=if_empty)


class Iteration:
    """What `Queue.iterator` returns: `async with` it for a `Consumer`, or loop over it."""

    def __init__(self, start: Callable[[], Awaitable[Consumer]]) -> None:
        self._start = start
        self._consumer: Consumer | None = None

    async def __aenter__(self) -> Consumer:
        self._consumer = await self._start()
        return self._consumer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._consumer is not None:
            await self._consumer.cancel()

    async def __aiter__(self) -> AsyncGenerator[IncomingMessage, None]:
        async with self as messages:
            async for message in messages:
                yield message


def queue_name(queue: Queue | str) -> str:
    """The name of what a handler is for. Raises TypeError for, above all, the handler itself."""
    if not isinstance(queue, Queue | str):
        kind = type(queue).__name__
        raise TypeError(f'a handler is for a queue or its name, as in @channel.handler("orders"), not {kind}')
    return str(queue)
