"""Fixtures of the framework tests: an application of the test's own, on the broker of the interop suite.

Against another broker: LEVERET_TEST_AMQP_URL, as for the whole suite; tests that stop the broker are skipped
then.
"""

import os
import uuid
from collections.abc import Iterator

import pytest
from daemon import Daemon


@pytest.fixture(scope="session")
def broker_url(request: pytest.FixtureRequest) -> str:
    return os.environ.get("LEVERET_TEST_AMQP_URL") or str(request.getfixturevalue("shared_daemon").amqp_url)


@pytest.fixture(scope="module")
def prefix() -> str:
    """A name for what the application makes on the broker."""
    return f"app-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def own_daemon(daemon: Daemon) -> Iterator[Daemon]:
    """A broker that may be stopped."""
    if "LEVERET_TEST_AMQP_URL" in os.environ:
        pytest.skip("it stops the broker, and this one is not ours")
    return daemon
