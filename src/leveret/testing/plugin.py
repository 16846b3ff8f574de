"""The pytest plugin; installing Leveret is enough to have it.

- `leveret_broker`: a `leveret.testing.Broker` of this test's own. To start one takes a few milliseconds, so
  nothing is shared between tests that could leak from one to the other. A mark says what else it should be:
  `@pytest.mark.leveret_broker(storage="disk", heartbeat_s=1)`.
- `leveret_connection`: a `leveret.Connection` to it, for asynchronous tests; pytest-asyncio in either mode
  makes it, or anyio.

For a broker that many tests share, make a fixture of your own: `with leveret.testing.Broker() as broker`.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import leveret

from .broker import Broker

async_fixture: Callable[..., Any] = pytest.fixture  # anyio's plugin takes a plain one
with suppress(ImportError):
    import pytest_asyncio

    async_fixture = pytest_asyncio.fixture

MARK = "leveret_broker(storage='memory', http=False, **options): how to make this test's leveret_broker"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)


@pytest.fixture
def leveret_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of this test's own, empty, in this process."""
    mark = request.node.get_closest_marker("leveret_broker")
    with Broker() if mark is None else Broker(*mark.args, **mark.kwargs) as broker:
        yield broker


@async_fixture
async def leveret_connection(leveret_broker: Broker) -> AsyncIterator[leveret.Connection]:
    """A connection of the SDK to `leveret_broker`."""
    async with leveret.connect(leveret_broker.url, name="pytest") as connection:
        yield connection
