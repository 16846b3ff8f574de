"""Whatever happens at the same time, and whenever the process ends: nothing is lost, doubled, overtaken."""

import pytest
from storm import Storm

from leveret.broker.durability import checkpointer, cleaner, spiller


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that checkpoints take many commits, and cleaning and spilling never rest."""
    monkeypatch.setattr(checkpointer, "SLICE_S", -1)
    monkeypatch.setattr(checkpointer, "STEP_BLOBS", 3)
    monkeypatch.setattr(checkpointer, "LOG_PER_CHECKPOINT", 0)
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 0)
    monkeypatch.setattr(cleaner, "LOG_PER_LIVE_BYTE", 1.0)
    monkeypatch.setattr(spiller, "BLOB_BYTES", 1000)
    monkeypatch.setattr(spiller, "RETRY_S", 0)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("seed", range(10))
async def test_a_storm(seed: int) -> None:
    await Storm(seed).rage()
