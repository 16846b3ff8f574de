"""A thread that owns one connection of a blocking client library.

Such libraries are not thread-safe, and read the socket only when asked to. So all happens in one thread:
it runs the calls that come in, and pumps the library's events in between. Adapters create and stop it.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

# How long one pump may sit in the socket before the next call is looked at.
PUMP_S = 0.005


class ClientThread:
    """Runs calls, and between them `pump`, which reads events for up to PUMP_S seconds, until it raises."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pumping = False  # only the thread looks at it
        self.stopped = False
        self.failure: asyncio.Future[BaseException] = self._loop.create_future()

    async def start(self, connect: Callable[[], None], pump: Callable[[], None]) -> None:
        """Connect in the new thread; raises what `connect` raises."""
        self._thread = threading.Thread(target=self._run, args=(pump,), daemon=True)
        self._thread.start()
        try:
            await self.call(connect)
        except BaseException:
            await self.stop()
            raise
        await self.call(self._begin_pumping)

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the thread and wait for what it returns or raises."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return await asyncio.wrap_future(future)

    def post(self, function: Callable[..., None], *args: object) -> None:
        """Called in the thread: run `function` on the event loop."""
        self._loop.call_soon_threadsafe(function, *args)

    async def stop(self) -> None:
        """Wait for the calls that were made before, then end the thread. It is fine to stop it twice."""
        self._calls.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self.stopped = True

    def _begin_pumping(self) -> None:
        self._pumping = True

    def _run(self, pump: Callable[[], None]) -> None:
        while True:
            try:
                call = self._calls.get(block=not self._pumping)
            except queue.Empty:
                self._pump_once(pump)
                continue
            if call is None:
                return
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue  # the caller timed out
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _pump_once(self, pump: Callable[[], None]) -> None:
        try:
            pump()
        except Exception as error:
            self._pumping = False
            self.post(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_result(error)
