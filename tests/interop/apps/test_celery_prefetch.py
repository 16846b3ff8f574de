"""Celery workers of every prefetch mode: tasks for later never keep the worker from tasks for now.

A worker keeps an ETA task unacknowledged until its time and raises its prefetch count for it, with a
channel-wide `basic.qos` while it consumes. With quorum queues it leaves its prefetch count alone, and the
broker delays the message: through exchanges and queues with a TTL that dead-letter from one to the next.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from apps.celery_app import ALONE, client, worker_command
from apps.patience import TIMEOUT_S
from apps.process import AppProcess
from apps.settings import Settings
from celery import Celery, chord

CONCURRENCY = 2
LATER_TASKS = 10  # more than any of these workers prefetches at first
AN_HOUR_S = 3600


@dataclass(frozen=True)
class Mode:
    name: str
    multiplier: int
    options: tuple[str, ...] = ()
    conf: dict[str, Any] = field(default_factory=dict)
    file_results: bool = False
    quorum: bool = False


MODES = [
    Mode("multiplier 1", 1),
    Mode("multiplier 4", 4, conf={"worker_enable_remote_control": False}, file_results=True),
    Mode(
        "quorum queues",
        4,
        conf={
            "task_default_queue_type": "quorum",
            "task_default_exchange_type": "topic",
            "worker_detect_quorum_queues": True,
            "broker_transport_options": {"confirm_publish": True},
        },
        quorum=True,
    ),
]
WITH_CHORDS = [mode for mode in MODES if mode.file_results]  # celery has none over rpc:// results


@pytest.fixture(scope="module", params=MODES, ids=[mode.name for mode in MODES])
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture(scope="module")
def settings(mode: Mode, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("celery")
    conf = dict(mode.conf)
    if mode.file_results:
        (folder / "results").mkdir()
        conf["result_backend"] = f"file://{folder}/results"
    return Settings(broker_url, f"app-{uuid.uuid4().hex[:8]}", str(folder), conf)


@pytest.fixture(scope="module")
def worker(mode: Mode, settings: Settings) -> Iterator[AppProcess]:
    command = worker_command(
        *ALONE, "--concurrency", str(CONCURRENCY), "--prefetch-multiplier", str(mode.multiplier)
    )
    with AppProcess(settings, *command) as worker:
        yield worker.wait_for(" ready.")


@pytest.fixture
def app(settings: Settings, worker: AppProcess) -> Iterator[Celery]:
    with client(settings) as app:
        yield app


def test_tasks_for_later_do_not_keep_tasks_for_now_waiting(app: Celery) -> None:
    for _ in range(LATER_TASKS):
        app.tasks["note"].apply_async(("too early",), countdown=AN_HOUR_S)

    results = [app.tasks["add"].delay(number, 1) for number in range(LATER_TASKS)]

    assert [result.get(TIMEOUT_S) for result in results] == list(range(1, LATER_TASKS + 1))


def test_a_task_runs_when_its_time_has_come(settings: Settings, app: Celery) -> None:
    due = time.time() + 2
    app.tasks["note"].apply_async(("due",), countdown=2)

    (entry,) = settings.journal.wait_for("due")

    assert entry.at >= due - 1  # the time travels in whole seconds


def test_a_failing_task_is_retried_after_its_countdown(settings: Settings, app: Celery) -> None:
    assert app.tasks["flaky"].delay("again", failures=1, countdown=1).get(TIMEOUT_S) == 1

    first, second = settings.journal.wait_for("again try 0", "again try 1")
    assert second.at - first.at >= 0.9  # a quorum queue's TTL runs from the publish, not from the failure


def test_the_worker_chose_the_prefetch_that_the_broker_calls_for(mode: Mode, worker: AppProcess) -> None:
    assert ("Global QoS is disabled" in worker.output) == mode.quorum


@pytest.mark.parametrize("mode", WITH_CHORDS, ids=[mode.name for mode in WITH_CHORDS], indirect=True)
def test_a_chord_joins_its_group(app: Celery) -> None:
    add = app.tasks["add"]

    joined = chord([add.s(number, number) for number in range(10)])(app.tasks["total"].s())

    assert joined.get(TIMEOUT_S) == 90
