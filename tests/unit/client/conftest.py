"""Fixtures of the unit tests of the SDK: a broker in memory, and a channel to it."""

from collections.abc import AsyncIterator

import pytest
from fake_native_server import FakeNativeServer

from leveret import Channel


@pytest.fixture
async def server() -> FakeNativeServer:
    return FakeNativeServer()


@pytest.fixture
async def channel(server: FakeNativeServer) -> AsyncIterator[Channel]:
    async with server.connect() as connection, connection.channel() as channel:
        yield channel
