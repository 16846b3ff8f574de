"""Waiting for what another process does: ask until it is so, up to a deadline."""

import time
from collections.abc import Callable

from daemon import TIMEOUT_FACTOR

TIMEOUT_S = 30 * TIMEOUT_FACTOR
"""How long anything may take. Nothing here takes long unless it failed."""

_PAUSE_S = 0.02


def wait_until(holds: Callable[[], bool], told: Callable[[], str]) -> None:
    """Ask `holds` until it is true; after TIMEOUT_S fail with what `told` has to say."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(_PAUSE_S)
