"""What patterns call: an `async def` in the event loop, a `def` in a thread."""

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import thread as pools
from typing import Any

import pytest

from leveret.patterns.calling import awaitable

HERE = threading.get_ident()


async def here(argument: str) -> tuple[str, bool]:
    return argument, threading.get_ident() == HERE


def elsewhere(argument: str) -> tuple[str, bool]:
    return argument, threading.get_ident() == HERE


class Handler:
    """One with a state."""

    async def __call__(self, argument: str) -> tuple[str, bool]:
        return await here(argument)

    async def method(self, argument: str) -> tuple[str, bool]:
        return await here(argument)


@pytest.mark.parametrize("function", [here, Handler(), Handler().method, functools.partial(here)])
async def test_an_async_def_runs_in_the_loop(function: Any) -> None:
    assert await awaitable(function)("x") == ("x", True)


@pytest.mark.parametrize("function", [elsewhere, functools.partial(elsewhere)])
async def test_a_def_runs_in_a_thread(function: Any) -> None:
    assert await awaitable(function)("x") == ("x", False)


async def test_what_a_def_returns_is_awaited_in_the_loop() -> None:
    assert await awaitable(lambda argument: here(argument * 2))("x") == ("xx", True)


async def test_any_number_of_defs_run_at_once() -> None:
    everybody = threading.Barrier(40)
    await asyncio.gather(*map(awaitable(lambda _: everybody.wait(timeout=60)), range(40)))


async def test_a_def_knows_the_variables_of_its_caller() -> None:
    tenant = contextvars.ContextVar[str]("tenant")
    tenant.set("t1")
    assert await awaitable(lambda _: tenant.get())("x") == "t1"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(ValueError, ValueError), (StopIteration, RuntimeError)],
    ids=["any", "StopIteration"],
)
async def test_what_a_def_raises_is_raised(raised: type[Exception], seen: type[Exception]) -> None:
    def fail(argument: str) -> None:
        raise raised(argument)

    with pytest.raises(seen):
        await awaitable(fail)("x")


async def test_at_the_end_of_the_process_it_is_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """So what it was for did not fail, and goes back."""
    monkeypatch.setattr(pools, "_shutdown", True)
    with pytest.raises(asyncio.CancelledError):
        await awaitable(elsewhere)("x")


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="must be an `async def` or `def` function, not bytes"):
        awaitable(b"x")  # type: ignore[arg-type] # that is the mistake
