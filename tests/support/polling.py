"""Wait for what nobody announces: ask again until it holds, or fail when the patience is over."""

import asyncio
from collections.abc import Awaitable, Callable

from daemon import TIMEOUT_FACTOR

PATIENCE_S = 20 * TIMEOUT_FACTOR
STEP_S = 0.01


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Fails with what was waited for."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():  # noqa: ASYNC110 # what is waited for is in another process
                await asyncio.sleep(STEP_S)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s") from None
