"""What several files here begin with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_kits import LmdbKit


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[LmdbKit]:
    kit = LmdbKit(tmp_path)
    yield kit
    await kit.finish()
