"""Functions that a user of `leveret.sync` gives away: what they are called with, and where.

All of them run in threads, where they may block, and may use everything of the connection: even close it,
which is why none of these threads is one that the end of the loop would wait for.
"""

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from leveret.client import handler as aio
from leveret.client.incoming import IncomingMessage as AsyncMessage

from . import incoming as _incoming
from .portal import Portal

Callback = Callable[["_incoming.IncomingMessage"], object]
"""What handles a message."""

F = TypeVar("F", bound=Callback)

OnError = aio.ErrorPolicy | Callable[["_incoming.IncomingMessage", Exception], object]
"""See `Queue.consume`."""


def handler(portal: Portal, callback: Callback) -> aio.Callback:
    """Run by the client's own threads, of which there are as many as the concurrency."""
    _check(callback)
    if not callable(callback):
        return cast("aio.Callback", callback)  # for the client to refuse

    @functools.wraps(callback)
    def call(message: AsyncMessage) -> object:
        return callback(_incoming.IncomingMessage(portal, message))

    return call


def decorator(portal: Portal, make: Callable[[], Callable[[aio.Callback], object]]) -> Callable[[F], F]:
    """What `make` decorates functions with, for synchronous ones; they stay what they are."""
    decorate = portal.call(make)  # at once: it refuses arguments that make no sense

    def declare(callback: F) -> F:
        portal.call(lambda: decorate(handler(portal, callback)))
        return callback

    return declare


def on_error(portal: Portal, policy: OnError) -> aio.OnError:
    """The client would call it in the loop."""
    _check(policy)
    if not callable(policy):
        return policy

    @functools.wraps(policy)
    async def call(message: AsyncMessage, error: Exception) -> object:
        return await _in_a_thread(policy, _incoming.IncomingMessage(portal, message), error)

    return call


def told(callback: Callable[..., object]) -> Callable[..., object]:
    """The client tells it of something and waits for nothing."""
    _check(callback)

    @functools.wraps(callback)
    def call(*arguments: object) -> None:
        _in_a_thread(callback, *arguments)

    return call


def _in_a_thread(function: Callable[..., object], *arguments: object) -> "asyncio.Future[object]":
    """Call it in a thread of its own; errors that nobody waits for are logged by asyncio."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()

    def run() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:
            _settle(loop, done.set_exception, error)
        else:
            _settle(loop, done.set_result, result)

    threading.Thread(target=run, name="leveret-sync-callback", daemon=True).start()
    return done


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[Any], object], outcome: object) -> None:
    with suppress(RuntimeError):  # the loop has ended, perhaps by this very function
        loop.call_soon_threadsafe(settle, outcome)


def _check(callback: Any) -> None:
    if inspect.iscoroutinefunction(callback):
        raise TypeError(f"leveret.sync calls `def` functions; {callback!r} is an `async def`")
