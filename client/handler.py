"""A handler: a function for the messages of a queue, and how it is to be called.

`Queue.consume` starts one at once; `Channel.handler` keeps it in the channel's `Handlers` until
`Channel.start_handlers` or `Channel.serve`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .consumer import Consumer, Subscription
from .errors import LeveretError
from .incoming import IncomingMessage
from .workers import Workers

if TYPE_CHECKING:
    from .channel import Channel

CONCURRENCY_MAX = 65_535  # no more messages can be under way, see PREFETCH_COUNT_MAX

Callback = Callable[[IncomingMessage], object]
"""What handles a message: an `async def` runs in the event loop, a `def` in a thread."""

AsyncCallback = Callable[[IncomingMessage], Awaitable[object]]

ErrorPolicy = Literal["reject", "requeue", "requeue_once"]
OnError = ErrorPolicy | Callable[[IncomingMessage, Exception], object]
"""See `Queue.consume`."""


@dataclass(frozen=True, slots=True)
class Handler:
    """The arguments of `Queue.consume`. Raises TypeError and ValueError for what makes no sense."""

    callback: Callback
    subscription: Subscription
    concurrency: int = 1
    on_error: OnError = "reject"
    ack_on_return: bool = True
    extend_every_s: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.callback):
            kind = type(self.callback).__name__
            raise TypeError(f"the callback must be an `async def` or `def` function, not {kind}")
        if not isinstance(self.concurrency, int):
            raise TypeError(f"concurrency must be a whole number, not {type(self.concurrency).__name__}")
        if not 1 <= self.concurrency <= CONCURRENCY_MAX:
            raise ValueError(f"concurrency must be at least 1, at most {CONCURRENCY_MAX}: {self.concurrency}")
        prefetch_count = self.subscription.prefetch_count
        if prefetch_count is not None and prefetch_count < self.concurrency:
            raise ValueError(
                f"with prefetch_count={prefetch_count} no more than that many of "
                f"concurrency={self.concurrency} could ever be used"
            )
        if not callable(self.on_error) and self.on_error not in ("reject", "requeue", "requeue_once"):
            raise ValueError(
                "on_error must be 'reject', 'requeue', 'requeue_once' or a function of message and error, "
                f"not {self.on_error!r}"
            )
        if self.extend_every_s is not None and self.extend_every_s <= 0:
            raise ValueError(f"extend_every_s must be positive, not {self.extend_every_s}")

    async def start(self, channel: "Channel") -> Consumer:
        """Consume."""
        subscription = self.subscription
        if subscription.prefetch_count is None:
            subscription = replace(subscription, prefetch_count=max(channel.prefetch_count, self.concurrency))
        consumer = await channel.start_consumer(subscription)
        consumer.workers = Workers(consumer, self)
        return consumer


class Handlers:
    """Those of one channel that were declared with `Channel.handler`."""

    def __init__(self, channel: "Channel") -> None:
        self._channel = channel
        self._waiting: list[Handler] = []  # for `start`
        self._started: list[Consumer] = []

    def add(self, handler: Handler) -> None:
        """Start it with the others."""
        self._waiting.append(handler)

    async def start(self) -> list[Consumer]:
        """See `Channel.start_handlers`."""
        while self._waiting:
            self._started.append(await self._waiting[0].start(self._channel))
            del self._waiting[0]
        return list(self._started)

    async def serve(self, stop_timeout_s: float | None) -> None:
        """See `Channel.serve`."""
        if not self._waiting and not self._started:
            raise LeveretError(
                "there is no handler to serve: decorate a function with @channel.handler(queue) first"
            )
        try:
            await self.start()
            await asyncio.gather(*(consumer.wait() for consumer in self._started))
        finally:
            started, self._started = self._started, []
            await asyncio.gather(*(consumer.stop(stop_timeout_s) for consumer in started))
