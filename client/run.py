"""`leveret.run(main())`: `asyncio.run` on the faster event loop, where that is installed."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):  # not on Windows, and nobody has to have it
    import uvloop

    new_event_loop = uvloop.new_event_loop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a program's main coroutine to its end and return its result, as `asyncio.run` does.

    With uvloop when it is installed (it is no requirement of the SDK), else with asyncio's own event loop.
    Any other way to run a loop does as well.
    """
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)
