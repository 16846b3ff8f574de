"""What tests of several wires and sessions begin with."""

from collections.abc import AsyncIterator

import pytest
from whole_broker import WholeBroker

from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def house() -> AsyncIterator[WholeBroker]:
    """A whole broker on an engine in memory."""
    engine = MemoryEngine()
    await engine.open()
    yield await WholeBroker(engine).start()
    await engine.close()
