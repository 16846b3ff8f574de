"""Consume, process, produce: each input gives its outputs exactly once.

A worker that publishes its result and then acks its input does the work twice when it dies in between. Here
the outputs and the ack are one transaction of the broker: after a crash of either side both are there, or the
input is back in its queue and none of its outputs is anywhere.

    async def enrich(message: leveret.IncomingMessage) -> list[Output]:
        order = message.decode()
        return [Output(leveret.Message.json(price(order)), "orders.priced")]

    await Pipeline(connection, "orders", enrich).run()      # until `await pipeline.stop()`

Exactly once is what the queues show. The handler itself may run again for an input whose worker died, so its
own effects elsewhere have to bear that (see `inbox`).

Inputs that have arrived meanwhile, up to `batch_size`, are handled at the same time and committed together: a
commit waits for the disk, and this shares the wait. Outputs leave in the order of the inputs.

- An input whose handler raises is rejected in the same commit: dead-lettered, if its queue says so. With
  `requeue` it comes again; give its queue a delivery limit then.
- When an output cannot arrive (there is no such exchange; no queue for it; or one that rejects publishes has
  no room for the batch), nothing of the batch has happened, and `run` raises: NotFound, Unroutable or Nacked.
- When the connection breaks, the pipeline goes on with the next one, if the connection reconnects.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from leveret.client import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionLost,
    Consumer,
    DeliveryLost,
    IncomingMessage,
    Message,
)

from .calling import awaitable

log = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 32
RETRY_S = 0.2  # until the next channel, when one was lost


@dataclass(frozen=True, slots=True)
class Output:
    """A message to publish, and where."""

    message: Message
    routing_key: str
    exchange: str = ""


Outputs = Iterable[Output] | None
Handler = Callable[[IncomingMessage], Awaitable[Outputs] | Outputs]


class Pipeline:
    """See the module's docstring.

    Args:
        connection: to the broker; the pipeline opens a channel of its own on it.
        queue: the name of the inputs' queue, which exists.
        handler: returns the outputs of one input, or None. It does not settle the input. A `def` runs in a
            thread.
        batch_size: how many inputs are handled and committed together at most. 1: one after the other.
        requeue: what a handler could not process comes again, instead of being rejected.
    """

    def __init__(
        self,
        connection: Connection,
        queue: str,
        handler: Handler,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        requeue: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._connection = connection
        self._queue = queue
        self._handler = awaitable(handler)
        self._batch_size = batch_size
        self._requeue = requeue
        self._consumer: Consumer | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Work until `stop`. Raises what the module's docstring says, and ConnectionLost at the very end."""
        while not self._is_stopping:
            try:
                await self._run_on_a_channel()
            except (ConnectionLost, ChannelClosed, DeliveryLost) as error:
                if self._connection.is_closed:
                    raise
                log.warning("the pipeline from '%s' opens another channel: %s", self._queue, error)
                await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        """Have `run` return when the batch that it works on is committed; the rest is back in the queue."""
        self._is_stopping = True
        if self._consumer is not None:
            await self._consumer.stop()

    async def _run_on_a_channel(self) -> None:
        async with self._connection.channel(publisher_confirms=False) as channel:
            queue = await channel.get_queue(self._queue, ensure=False)
            async with queue.iterator(prefetch_count=2 * self._batch_size) as consumer:
                self._consumer = consumer
                try:
                    async for message in consumer:
                        if self._is_stopping:
                            break
                        await self._process(channel, [message, *await self._more(consumer)])
                finally:
                    self._consumer = None

    async def _more(self, consumer: Consumer) -> list[IncomingMessage]:
        """What else has arrived, without waiting."""
        count = min(len(consumer.waiting), self._batch_size - 1)
        return [await anext(consumer) for _ in range(count)]

    async def _process(self, channel: Channel, batch: Sequence[IncomingMessage]) -> None:
        results = await asyncio.gather(*(self._outputs(message) for message in batch))
        async with channel.transaction():
            for message, outputs in zip(batch, results, strict=True):
                if outputs is None:
                    await message.reject(requeue=self._requeue)
                    continue
                for output in outputs:
                    await channel.publish(output.message, output.routing_key, exchange=output.exchange)
                await message.ack()

    async def _outputs(self, message: IncomingMessage) -> Sequence[Output] | None:
        """None: the handler failed."""
        try:
            return list(await self._handler(message) or ())
        except Exception:
            log.exception("%r cannot be processed", message)
            return None
