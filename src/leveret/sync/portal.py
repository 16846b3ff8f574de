"""The way from synchronous code into an event loop: calls that are done in the loop's thread.

Each connection of `leveret.sync` has a portal, shared by everything that the connection hands out. A call is
handed to the loop's thread, where it is done as a coroutine, while the calling thread waits. So any number of
threads may use one connection, nothing of the asynchronous client is ever touched by two threads at once,
and heartbeats, reconnects and deliveries go on whatever the calling threads do.

The loop ends with the connection's `close`; else when nothing of the connection is in use any more, or with
the process, and then it closes the connection itself.
"""

import asyncio
import atexit
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from leveret.client import ConnectionLost, WrongLoop
from leveret.client.opening import Closable

from .loop_thread import Call, LoopThread
from .timeout import next_deadline

T = TypeVar("T")
A = TypeVar("A")
F = TypeVar("F")
C = TypeVar("C", bound=Closable)


class Portal:
    """See the module's docstring. `work` makes what is awaited; it is called in the loop's thread."""

    def __init__(self) -> None:
        self._thread = LoopThread()
        weakref.finalize(self, self._thread.stop).atexit = False  # `_stop_all` waits for the end, too
        _portals.add(self)

    def stop(self) -> None:
        """End the loop; whoever waits for something gets ConnectionLost. Idempotent."""
        self._thread.stop()
        self._thread.join()

    # Calls that wait

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something in the loop, and return its result or raise its error.

        What interrupts the calling thread (Ctrl-C, or the end of a `timeout` block) cancels it.
        """
        self._check()
        deadline = next_deadline()
        if deadline is not None and not deadline.left_s():
            raise deadline.strike()
        call = Call(work)
        self._thread.start(call)
        try:
            call.result.exception(None if deadline is None else deadline.left_s())
        except BaseException:
            self._give_up(call)
            if deadline is None or deadline.left_s():
                raise
            if call.result.exception(0) is not None:
                raise deadline.strike() from None
        return call.result.result()

    def _give_up(self, call: Call[Any]) -> None:
        """Cancel a call and wait until it has ended: it should not go on behind the next one."""
        self._thread.cancel(call)
        call.result.exception()

    def call(self, work: Callable[[], T]) -> T:
        """Call a plain function in the loop's thread."""

        async def call() -> T:
            return work()

        return self.run(call)

    def iterate(
        self, start: Callable[[], AsyncIterator[A]], face: "Callable[[Portal, A], F]"
    ) -> Generator[F, None, None]:
        """Loop over something asynchronous; who leaves the loop ends it there, too."""
        items = self.call(start)
        try:
            while True:
                try:
                    item = self.run(lambda: anext(items))
                except StopAsyncIteration:
                    return
                yield face(self, item)
        finally:
            if isinstance(items, AsyncGenerator):
                self.end(items.aclose)

    @contextmanager
    def entered(self, make: Callable[[], Any]) -> Generator[Any, None, None]:
        """Be inside of an asynchronous context manager."""
        manager = self.call(make)
        value = self.run(manager.__aenter__)
        try:
            yield value
        except BaseException as raised:
            error = raised
            if not self.run(lambda: manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.run(lambda: manager.__aexit__(None, None, None))

    # Calls that need not wait

    def call_here(self, work: Callable[[], T]) -> T:
        """Call what every thread without a loop may call by itself, as to settle a message: it costs a
        hundredth of `call`.
        """
        self._check()
        return self.call(work) if _is_in_a_loop() else work()

    def run_here(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """`call_here`, of a coroutine that waits for nothing."""
        self._check()
        if _is_in_a_loop():
            return self.run(work)
        coroutine = work()
        try:
            coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError(f"{coroutine} waits for something")

    # Ends

    def end(self, work: Callable[[], Awaitable[object]]) -> None:
        """Await the end of something, such as `close`. After the end of everything there is nothing to do."""
        if self._thread.is_this:  # an iterator that is garbage now
            self._thread.spawn(work)
        elif not self._thread.has_ended and not self._thread.was_forked:
            with suppress(ConnectionLost):
                self.run(work)

    def close(self, work: Callable[[], Awaitable[object]]) -> None:
        """Await the end of the connection, then end the loop."""
        try:
            self.end(work)
        finally:
            self.stop()

    def _check(self) -> None:
        """Raise for a caller that would wait for ever."""
        if self._thread.was_forked:
            raise ConnectionLost(
                "this connection is that of the parent process: threads do not survive a fork; "
                "open a connection after it, in the child"
            )
        if self._thread.is_this:
            raise WrongLoop(
                "leveret.sync was called in the thread of its own event loop, which cannot wait for itself; "
                "what runs there uses the asynchronous leveret"
            )


_portals: "weakref.WeakSet[Portal]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for portal in list(_portals):
        portal.stop()


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def open_connection(connect: Callable[[], Awaitable[C]], face: Callable[[Portal, C], F]) -> F:
    """Connect in a loop of the connection's own."""
    portal = Portal()
    try:
        opened = portal.run(connect)
        portal._thread.opened = opened
        return face(portal, opened)
    except BaseException:
        portal.stop()
        raise
