"""A taskiq application: quorum queues by default, delays through a queue that expires into the exchange."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from apps.process import AppProcess
from apps.settings import Settings
from apps.taskiq_app import WORKER_COMMAND, build
from taskiq import AsyncTaskiqDecoratedTask
from taskiq_aio_pika import AioPikaBroker


@pytest.fixture(scope="module", params=["quorum", "classic"])
def settings(
    broker_url: str, prefix: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Settings:
    folder = str(tmp_path_factory.mktemp("taskiq"))
    return Settings(broker_url, f"{prefix}.{request.param}", folder, {"queue_type": request.param})


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[AppProcess]:
    with AppProcess(settings, *WORKER_COMMAND) as worker:
        yield worker.wait_for("Listening started.")


@pytest.fixture
async def broker(settings: Settings, worker: AppProcess) -> AsyncIterator[AioPikaBroker]:
    broker = build(settings)
    await broker.startup()
    yield broker
    await broker.shutdown()


def task(broker: AioPikaBroker, name: str) -> AsyncTaskiqDecoratedTask[Any, Any]:
    found = broker.find_task(name)
    assert found is not None
    return found


async def test_a_task_runs(settings: Settings, broker: AioPikaBroker) -> None:
    await task(broker, "note").kiq("hello")
    settings.journal.wait_for("hello")


async def test_a_failing_task_is_retried(settings: Settings, broker: AioPikaBroker) -> None:
    await task(broker, "flaky").kiq("again", 2)
    settings.journal.wait_for("again try 0", "again try 1", "again try 2")


async def test_a_delayed_task_runs_later(settings: Settings, broker: AioPikaBroker) -> None:
    sent_at = time.time()
    await task(broker, "note").kicker().with_labels(delay=0.7).kiq("later")
    await task(broker, "note").kiq("now")

    now, later = settings.journal.wait_for("now", "later")

    assert (now.event, later.event) == ("now", "later")
    assert later.at - sent_at >= 0.7
