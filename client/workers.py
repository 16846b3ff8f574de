"""Handlers at work: the tasks that take messages from a consumer and call a function for each.

Made by `Handler.start`; owned by the consumer, which ends them. There are as many
tasks as the handler's concurrency, for as long as the consumer lives; so no more messages than that are in
the hands of handlers, and none costs a task of its own.
"""

import asyncio
import contextvars
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from .errors import LeveretError
from .incoming import IncomingMessage

if TYPE_CHECKING:
    from .consumer import Consumer
    from .handler import AsyncCallback, Callback, Handler

log = logging.getLogger(__name__)

_worker: contextvars.ContextVar["asyncio.Task[None] | None"] = contextvars.ContextVar("_worker", default=None)
"""The task that a handler runs in; known as well to the tasks and calls that the handler makes."""


class Workers:
    """See the module's docstring."""

    def __init__(self, consumer: "Consumer", handler: "Handler") -> None:
        self._consumer = consumer
        self._handler = handler
        self._running: set[IncomingMessage] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._call = cast("AsyncCallback", handler.callback)
        if not _is_async(handler.callback):
            self._call = self._call_in_thread
        self._loop = asyncio.get_running_loop()
        self._tasks = {self._loop.create_task(self._work()) for _ in range(handler.concurrency)}
        self._extending: asyncio.Task[None] | None = None
        if handler.extend_every_s is not None:
            self._extending = self._loop.create_task(self._extend(handler.extend_every_s))
        for task in self._tasks:
            task.add_done_callback(self._task_done)

    async def finish(self, timeout_s: float | None) -> None:
        """Wait for what runs, then cancel what still does. A handler that calls this is not waited for, and
        waits for others only with a timeout: two that do it would wait for each other.
        """
        others = self._tasks - {_worker.get()}
        if not others or (len(others) < len(self._tasks) and timeout_s is None):
            return
        unfinished: set[asyncio.Task[None]] = others
        if timeout_s != 0:
            _, unfinished = await asyncio.wait(others, timeout=timeout_s)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._tasks:
            return
        if self._extending is not None:
            self._extending.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    # One message after the other

    async def _work(self) -> None:
        _worker.set(asyncio.current_task())
        call, running, ack_on_return = self._call, self._running, self._handler.ack_on_return
        try:
            async for message in self._consumer:
                running.add(message)
                try:
                    await call(message)
                    if ack_on_return and not message.is_settled:
                        message.ack_returned()
                except BaseException as error:
                    await self._failed(message, error)
                finally:
                    running.discard(message)
        except LeveretError:
            pass  # the consumer ended: it tells whoever waits for that

    async def _call_in_thread(self, message: IncomingMessage) -> None:
        if self._threads is None:
            name = f"leveret-{self._consumer.subscription.queue}"
            self._threads = ThreadPoolExecutor(self._handler.concurrency, thread_name_prefix=name)
        run = contextvars.copy_context().run
        try:
            running = self._loop.run_in_executor(
                self._threads, run, _call_function, self._handler.callback, message
            )
        except RuntimeError:  # the process ends, and starts no more threads: the message goes back
            for task in self._tasks:
                task.cancel()
            raise asyncio.CancelledError from None
        result = await running
        if inspect.isawaitable(result):  # such as a lambda that calls an `async def`
            await result

    # When it fails

    async def _failed(self, message: IncomingMessage, error: BaseException) -> None:
        """Do what `on_error` says. Raises only what ends the worker: that it is cancelled, for one."""
        if isinstance(error, asyncio.CancelledError) and not _is_being_cancelled():
            error = LeveretError("what the handler waited for was cancelled")
        if not isinstance(error, Exception):
            message.give_back()
            raise error
        if message.is_lost and not message.is_settled:
            if not isinstance(error, LeveretError):
                log.error("a handler of %r failed", self._consumer, exc_info=error)
            log.warning("message %d of %r comes again: %s", message.delivery_tag, self._consumer, error)
            return
        try:
            requeue = await self._decide(message, error)
            if not message.is_settled:
                message.reject(requeue=requeue)
        except asyncio.CancelledError:
            message.give_back()
            raise
        except LeveretError as lost:
            log.warning("message %d of %r comes again: %s", message.delivery_tag, self._consumer, lost)

    async def _decide(self, message: IncomingMessage, error: Exception) -> bool:
        """Whether a message whose handler failed is requeued."""
        policy = self._handler.on_error
        if not callable(policy):
            outcome = "its message was settled before" if message.is_settled else policy
            log.error("a handler of %r failed (%s)", self._consumer, outcome, exc_info=error)
            return policy == "requeue" or (policy == "requeue_once" and not message.redelivered)
        try:
            result = policy(message, error)
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("on_error of %r failed for message %d", self._consumer, message.delivery_tag)
        return False

    # Lease extension

    async def _extend(self, every_s: float) -> None:
        """Extend what runs and what waits for a handler: the broker's clock runs for both."""
        while True:
            await asyncio.sleep(every_s)
            messages = [
                message
                for message in (*self._running, *self._consumer.waiting)
                if not message.is_settled and not message.is_lost
            ]
            if messages:
                try:
                    await self._consumer.channel.settler.extend(message.delivery_tag for message in messages)
                except LeveretError as error:
                    log.warning("messages of %r could not be extended: %s", self._consumer, error)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_async(callback: "Callback") -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _call_function(callback: "Callback", message: IncomingMessage) -> object:
    try:
        return callback(message)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error  # no future can hold that one
