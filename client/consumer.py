"""A consumer's client half: deliveries wait here until somebody takes them. Made by `Channel.start_consumer`.

The buffer is bounded by the prefetch count: the broker sends no more than so many unacked messages. A
consumer outlives the link that it was started on: the channel starts it again on the next one, and what was
buffered of the old one is dropped, for the broker sends it again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from leveret.protocol.amqp.field_table import FieldValue

from .errors import ChannelClosed, ConnectionLost, ConsumerCancelled, LeveretError, WrongLoop
from .incoming import IncomingMessage

if TYPE_CHECKING:
    from .channel import Channel
    from .workers import Workers

log = logging.getLogger(__name__)

PREFETCH_COUNT_MAX = 65_535
REPLY_TO_QUEUE = "amq.rabbitmq.reply-to"  # a pseudo queue that can be read only without acks


def check_prefetch_count(prefetch_count: int) -> None:
    """Raise TypeError for what is no number, ValueError for one that is no limit."""
    if not isinstance(prefetch_count, int):
        raise TypeError(f"prefetch_count must be a whole number, not {type(prefetch_count).__name__}")
    if not 1 <= prefetch_count <= PREFETCH_COUNT_MAX:
        raise ValueError(
            f"prefetch_count must be 1 to {PREFETCH_COUNT_MAX}, not {prefetch_count}: "
            "it is what bounds this client's memory"
        )


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer asks of the broker, on each link again."""

    queue: str
    consumer_tag: str = ""  # "": the broker picks one
    no_ack: bool = False
    exclusive: bool = False
    prefetch_count: int | None = None  # None: the channel's
    arguments: Mapping[str, FieldValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prefetch_count is not None:
            check_prefetch_count(self.prefetch_count)

    @property
    def is_reply_to(self) -> bool:
        """The broker is told to expect no acks. Elsewhere `no_ack` is done with acks: without them nothing
        would bound what the broker sends.
        """
        return self.no_ack and self.queue == REPLY_TO_QUEUE


class Consumer:
    """An iterator of messages, or what feeds a handler. End it with `stop` or `cancel`, or use it as an async
    context manager.

    Several tasks may iterate over one consumer; each message goes to one of them.
    """

    def __init__(self, channel: "Channel", number: int, subscription: Subscription) -> None:
        self.channel = channel
        self.number = number
        self.subscription = subscription
        self.consumer_tag: str = subscription.consumer_tag  # the broker's, when it has answered
        self.workers: Workers | None = None  # of a consumer that has a handler
        self._loop = asyncio.get_running_loop()
        self._ack_on_arrival = subscription.no_ack and not subscription.is_reply_to
        self._buffer: deque[IncomingMessage] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._error: LeveretError | None = None  # raised once the buffer is empty
        self._is_stopped = False  # by the application: nothing more is handed out
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Consumer {self.consumer_tag!r} of queue {self.subscription.queue!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> IncomingMessage:
        if self._loop is not asyncio.get_running_loop():
            raise WrongLoop(
                f"{self!r} belongs to another event loop: iterate over it there, or open a connection here"
            )
        while not self._buffer or self._is_stopped:
            if self._is_stopped:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error.with_traceback(None)
            await self._arrival()
        message = self._buffer.popleft()
        if self._ack_on_arrival:
            message.ack_taken()
        elif self.subscription.no_ack:
            message.settled_by_delivery()
        return message

    async def _arrival(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
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

    @property
    def waiting(self) -> tuple[IncomingMessage, ...]:
        """What has arrived and was not taken yet."""
        return tuple(self._buffer)

    # What the channel calls

    def delivered(self, message: IncomingMessage) -> None:
        """A message arrived."""
        self._buffer.append(message)
        if self._waiters:
            self._wake_one()

    def link_lost(self) -> None:
        """The connection broke and will be made anew: the broker sends again what nobody has settled."""
        if not self.subscription.is_reply_to:
            self._buffer.clear()

    def ended(self, error: LeveretError, *, keep_buffer: bool) -> None:
        """The broker ended the consumer, or the channel is gone: then nothing can be settled any more."""
        if not keep_buffer:
            self._buffer.clear()
        self._error = error
        self._wake_all()
        self._ended.set()
        if self.workers is not None and isinstance(error, ConsumerCancelled):
            log.warning("%r has no work any more: %s", self, error)

    # What the application calls

    async def stop(self, timeout_s: float | None = None) -> None:
        """End it gracefully: no more is sent, handlers that run finish, the rest goes back to the queue.

        Handlers that have not finished after `timeout_s` are cancelled; their messages go back, too. (A `def`
        handler cannot be cancelled: its thread goes on, but what it returns does not count.) Without a
        timeout it waits for them as long as it takes; `cancel`, called meanwhile, ends that.

        A loop over the consumer ends when it asks for the next message. A handler may stop its own consumer:
        it is not waited for, and without a timeout does not wait for the others (`wait` does). May be called
        any number of times.
        """
        if not self._is_stopped:
            self._is_stopped = True
            self._wake_all()
            try:
                if self._error is None:
                    with suppress(ChannelClosed, ConnectionLost):  # which end it, too
                        await self.channel.cancel_consumer(self)
            finally:
                self._give_back()
                self._ended.set()
        if self.workers is not None:
            await self.workers.finish(timeout_s)

    async def cancel(self) -> None:
        """End it at once: as `stop`, but handlers that run are cancelled (not the one that calls this)."""
        await self.stop(timeout_s=0)

    async def wait(self) -> None:
        """Wait until it has ended and its handlers have finished.

        Returns after `stop` or `cancel`. Raises ConsumerCancelled when the broker ended it (its queue was
        deleted), ChannelClosed or ConnectionLost when there is nothing left to consume from.
        """
        await self._ended.wait()
        if self.workers is not None:
            await self.workers.finish(None)
        if self._error is not None and not self._is_stopped:
            raise self._error.with_traceback(None)

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, deque()
        if not self.subscription.is_reply_to:
            for message in buffer:
                message.give_back()
