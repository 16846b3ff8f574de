"""A thread that runs an event loop, and the calls into it. Made and owned by a `Portal`.

It refers to nothing that a user holds, and so can be told to stop when they have let go of everything.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from leveret.client import ConnectionLost
from leveret.client.opening import Closable
from leveret.client.run import new_event_loop

GOODBYE_S = 1.0  # to close what nobody has closed

T = TypeVar("T")


class Call(Generic[T]):
    """Something to be awaited in the loop, for a thread that waits for the result."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self.result: Future[T] = Future()
        self._work = work
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        """In the loop."""
        self._task = asyncio.get_running_loop().create_task(self._await())
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """In the loop, after `start`."""
        if self._task is not None:
            self._task.cancel()

    async def _await(self) -> T:
        return await self._work()

    def _done(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self.abandon()
            return
        error = task.exception()
        if error is None:
            self.result.set_result(task.result())
        else:
            self.result.set_exception(error)

    def abandon(self) -> None:
        """The loop has ended, or the caller has given up."""
        if not self.result.done():
            self.result.set_exception(closed())


class LoopThread:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.opened: Closable | None = None  # what to close at the end
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._calls: set[Call[Any]] = set()
        self._lock = threading.Lock()  # of the next two: a call that comes at the end must not wait for ever
        self._has_ended = False
        self._pid = os.getpid()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="leveret-sync", daemon=True)
        self._thread.start()
        self._started.result()

    @property
    def is_this(self) -> bool:
        """Whether the caller runs in it."""
        return threading.current_thread() is self._thread

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    @property
    def was_forked(self) -> bool:
        """The caller is a child process: threads stay with the parent."""
        return os.getpid() != self._pid

    def start(self, call: Call[Any]) -> None:
        """Begin a call. Raises ConnectionLost when the loop has ended."""
        # The context goes along, so that the client knows which handler a call comes from.
        context = contextvars.copy_context()
        with self._lock:
            if self._has_ended:
                raise closed()
            self._calls.add(call)
            self._loop.call_soon_threadsafe(call.start, context=context)
        call.result.add_done_callback(lambda _: self._calls.discard(call))

    def cancel(self, call: Call[Any]) -> None:
        """End a call early; its result says when it has ended."""
        with self._lock:
            if not self._has_ended:
                self._loop.call_soon_threadsafe(call.cancel)

    def spawn(self, work: Callable[[], Awaitable[object]]) -> None:
        """In the loop: begin something that nobody waits for."""
        Call(work).start()

    def stop(self) -> None:
        """Let it end, and do not wait for that. Idempotent."""
        if not self.was_forked:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Wait for the end."""
        if not self.is_this and not self.was_forked:
            self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._until_stopped())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)  # out of file descriptors, say
        finally:
            with self._lock:
                self._has_ended = True
            for call in list(self._calls):
                call.abandon()

    async def _until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set_result(None)
        await self._stop.wait()
        if self.opened is not None:
            with suppress(Exception):
                async with asyncio.timeout(GOODBYE_S):
                    await self.opened.close()


def closed() -> ConnectionLost:
    """What those get who use something after its end."""
    return ConnectionLost("the connection was closed; open another one with leveret.sync.connect()")
