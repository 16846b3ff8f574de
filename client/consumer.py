"""A consumer's client half: deliveries wait here until somebody takes them. Made by `Channel.start_consumer`.

The buffer is bounded by the prefetch count: the broker sends no more than so many unacked messages.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .errors import LeveretError
from .incoming import IncomingMessage

if TYPE_CHECKING:
    from .channel import Channel

log = logging.getLogger(__name__)

Callback = Callable[[IncomingMessage], Awaitable[object]]


class Consumer:
    """An iterator of messages. Leave it with `cancel`, or use it as an async context manager.

    Several tasks may iterate over one consumer; each message goes to one of them.
    """

    def __init__(self, channel: "Channel", number: int, *, ack_on_arrival: bool, no_ack: bool) -> None:
        self.consumer_tag = ""  # set when the broker has answered
        self.number = number
        self._channel = channel
        self._ack_on_arrival = ack_on_arrival
        self._no_ack = no_ack
        self._buffer: deque[IncomingMessage] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._error: LeveretError | None = None  # raised once the buffer is empty
        self._is_cancelled = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> IncomingMessage:
        while not self._buffer:
            if self._is_cancelled:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error.with_traceback(None)
            await self._arrival()
        message = self._buffer.popleft()
        if self._ack_on_arrival:
            self._channel.settle_later(message.delivery_tag)
        if self._no_ack:
            message.settled_by_delivery()
        return message

    async def _arrival(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_one()  # it was meant for this task: pass it on
            raise

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiters:
            self._wake_one()

    # What the channel calls

    def delivered(self, message: IncomingMessage) -> None:
        """A message arrived."""
        self._buffer.append(message)
        if self._waiters:
            self._wake_one()

    def ended(self, error: LeveretError, *, keep_buffer: bool) -> None:
        """The broker ended the consumer, or the channel is gone: then nothing can be settled any more."""
        if not keep_buffer:
            self._buffer.clear()
        self._error = error
        self._wake_all()

    # What the application calls

    async def cancel(self) -> None:
        """End it: no more is sent, and what nobody has taken yet goes back to the queue. Idempotent.

        Callbacks that are under way are cancelled (but not the one that calls this).
        """
        if self._is_cancelled:
            return
        self._is_cancelled = True
        others = [worker for worker in self._workers if worker is not asyncio.current_task()]
        for worker in others:
            worker.cancel()
        if others:
            await asyncio.wait(others)
        if self._error is None:
            await self._channel.cancel_consumer(self)
        if not self._channel.is_closed:
            self._give_back()
        self._buffer.clear()
        self._wake_all()

    def _give_back(self) -> None:
        if not self._no_ack or self._ack_on_arrival:
            for message in self._buffer:
                self._channel.nack_later(message.delivery_tag, True)

    def start_workers(self, callback: Callback, concurrency: int) -> None:
        """Run the callback for each message, in so many tasks."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work(callback)) for _ in range(concurrency)]

    async def _work(self, callback: Callback) -> None:
        try:
            async for message in self:
                await self._call(callback, message)
        except LeveretError as error:
            log.warning("consumer %s ended: %s", self.consumer_tag, error)

    async def _call(self, callback: Callback, message: IncomingMessage) -> None:
        try:
            await callback(message)
        except Exception:
            # Settling it here would be a guess; `message.process()` in the callback says what to do.
            state = "is settled" if message.is_settled else "stays unacked until the channel closes"
            log.exception("the callback of consumer %s failed; its message %s", self.consumer_tag, state)
