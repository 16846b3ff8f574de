"""Fixtures of the whole suite."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Daemon
from hypothesis import settings
from postgresql import PostgreSQL

# This suite runs on small and busy machines: that an example took long says nothing about the code.
settings.register_profile("leveret", deadline=None)
settings.load_profile("leveret")

# A shell starts what runs in the background deaf to Ctrl-C, and so would be every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A broker of this test's own, on an empty data directory."""
    with Daemon(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A broker that the whole session shares: use your own names for queues and exchanges, never stop it."""
    with Daemon(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL that the whole session shares: use your own names for tables."""
    reason = PostgreSQL.why_not()
    if reason is not None:
        pytest.skip(reason)
    with PostgreSQL() as running:
        yield running
