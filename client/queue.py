"""A queue as the SDK hands it out: a name on a channel.

`async for message in queue` reads it; so do `iterator` (with options), `consume` (with a callback) and
`get` (one message).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.native.layouts import FrameType

from .consumer import Callback, Consumer
from .errors import QueueEmpty
from .exchange import Exchange
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

    async def __aiter__(self) -> AsyncGenerator[IncomingMessage, None]:
        """`async for message in queue`: for ever, or until the loop is left."""
        async with self.iterator() as messages:
            async for message in messages:
                yield message

    @asynccontextmanager
    async def iterator(
        self,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> AsyncIterator[Consumer]:
        """`async with queue.iterator() as messages: async for message in messages: ...`

        Leaving the block ends the consumer, and what arrived but was not taken goes back to the queue. With
        `no_ack` a message is done when it is taken. Raises ConsumerCancelled when the broker ends the
        consumer.
        """
        consumer = await self.channel.start_consumer(
            self.name, consumer_tag=consumer_tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments
        )
        try:
            yield consumer
        finally:
            await consumer.cancel()

    async def consume(
        self,
        callback: Callback,
        *,
        concurrency: int = 1,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Consumer:
        """Call back for each message, up to `concurrency` at a time; end it with the consumer's `cancel`."""
        if not callable(callback):
            raise TypeError(f"the callback is an `async def` function, not {type(callback).__name__}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        consumer = await self.channel.start_consumer(
            self.name, consumer_tag=consumer_tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments
        )
        consumer.start_workers(callback, concurrency)
        return consumer

    async def get(self, *, no_ack: bool = False, fail: bool = True) -> IncomingMessage | None:
        """Take one message. When there is none: raise QueueEmpty, or return None with `fail=False`."""
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
        await self.channel.request(type_, self.name, str(exchange), key, dict(arguments or {}))

    async def purge(self) -> int:
        """Drop what is ready; returns how many messages that was."""
        (message_count,) = await self.channel.request(FrameType.QUEUE_PURGE, self.name)
        return int(message_count)

    async def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue; returns how many messages went with it."""
        return await self.channel.queue_delete(self.name, if_unused=if_unused, if_empty=if_empty)
