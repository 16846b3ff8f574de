"""The functions that patterns are given: an `async def` runs in the event loop, a `def` in a thread.

A pattern makes one kind of both when it is made, so that what cannot be called fails there. A `def` may block
for as long as it likes, but cannot be stopped: whoever is cancelled while it waits for one goes on at once,
and the thread when the function returns.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

THREADS_MAX = 65_535  # no more messages can be under way; there are as many as are called at once

A = TypeVar("A")
R = TypeVar("R")


def awaitable(function: Callable[[A], Awaitable[R] | R]) -> Callable[[A], Awaitable[R]]:
    """The function as an `async def`. Raises TypeError for what is none."""
    if not callable(function):
        kind = type(function).__name__
        raise TypeError(f"what handles messages must be an `async def` or `def` function, not {kind}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return cast("Callable[[A], Awaitable[R]]", function)
    threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="leveret-pattern")  # end with their owner

    async def in_thread(argument: A) -> R:
        run = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(threads, run, _call, function, argument)
        except RuntimeError:  # the process ends, and starts no more threads: the message goes back
            raise asyncio.CancelledError from None
        result = await running
        if inspect.isawaitable(result):  # such as a lambda that calls an `async def`
            result = await result
        return cast("R", result)

    return in_thread


def _call(function: Callable[[A], R], argument: A) -> R:
    try:
        return function(argument)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error  # no future can hold that one
