"""Reconnecting under a test's control: an SDK connection to the fake server that waits for the test to let it
try again.
"""

import asyncio
from typing import Any

from fake_native_server import FakeNativeServer

from leveret import Connection, Reconnect


class Gate:
    """Takes the place of the sleep before each attempt: nobody passes while it is closed."""

    def __init__(self) -> None:
        self.delays: list[float] = []  # that were slept so far
        self._opened = asyncio.Event()
        self._opened.set()

    async def sleep(self, delay_s: float) -> None:
        self.delays.append(delay_s)
        await asyncio.sleep(0)
        await self._opened.wait()

    def close(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    def policy(self, **options: Any) -> Reconnect:
        """Without chance, and with this sleep."""
        return Reconnect(**{"sleep": self.sleep, "jitter": 0.0, **options})


async def turns(count: int = 5) -> None:
    """Let the loop run until everything that is on its way has arrived."""
    for _ in range(count):
        await asyncio.sleep(0)


async def lose(server: FakeNativeServer, connection: Connection) -> None:
    """Break the connection, and wait until it has noticed."""
    lost = asyncio.Event()
    connection.on_lost(lambda _error: lost.set())
    server.lose()
    await lost.wait()


async def lose_and_restore(server: FakeNativeServer, connection: Connection) -> None:
    """Break the connection, and wait until everything is restored."""
    await lose(server, connection)
    await connection.wait_connected()
