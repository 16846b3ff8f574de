"""Celery workers in trouble: killed in the middle of a task, without a broker for a moment, with more to do
than they take (which is when priorities show).
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from apps.celery_app import ALONE, client, worker_command
from apps.patience import TIMEOUT_S
from apps.process import AppProcess
from apps.settings import Settings
from celery import Celery
from daemon import Daemon

StartWorker = Callable[[Settings], AppProcess]


@pytest.fixture
def settings(broker_url: str, prefix: str, tmp_path: Path) -> Settings:
    return Settings(broker_url, prefix, str(tmp_path))


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with client(settings) as app:
        yield app


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start a worker that does one task at a time, and wait until it is ready."""
    with ExitStack() as running:
        names = iter(["first", "second"])

        def start(settings: Settings) -> AppProcess:
            name = next(names)
            command = worker_command(
                *ALONE, "--hostname", name, "--concurrency", "1", "--prefetch-multiplier", "1"
            )
            worker = running.enter_context(AppProcess(settings, *command, name=name))
            return worker.wait_for(" ready.")

        yield start


def test_a_killed_workers_task_runs_again_on_another(
    settings: Settings, app: Celery, start_worker: StartWorker
) -> None:
    victim = start_worker(settings)
    result = app.tasks["hold"].delay("late")
    settings.journal.wait_for("late started")
    start_worker(settings)

    victim.kill()

    first, second = settings.journal.wait_for("late started", "late started")
    assert first.pid != second.pid
    settings.release("late")
    assert result.get(TIMEOUT_S) == "late"


def test_a_task_is_handed_back_when_its_process_is_killed(
    settings: Settings, start_worker: StartWorker
) -> None:
    """The worker lives on, and rejects the message: again, please."""
    settings = replace(settings, prefix=f"{settings.prefix}.lost", conf={"task_reject_on_worker_lost": True})
    with client(settings) as app:
        start_worker(settings)
        result = app.tasks["hold"].delay("lost")
        (started,) = settings.journal.wait_for("lost started")

        os.kill(started.pid, signal.SIGKILL)

        first, second = settings.journal.wait_for("lost started", "lost started")
        assert first.pid != second.pid
        settings.release("lost")
        assert result.get(TIMEOUT_S) == "lost"


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_a_worker_survives_a_restart_of_the_broker(
    own_daemon: Daemon, prefix: str, tmp_path: Path, start_worker: StartWorker, kill: bool
) -> None:
    conf = {"broker_transport_options": {"confirm_publish": True}}  # unconfirmed tasks may be lost
    settings = Settings(own_daemon.amqp_url, prefix, str(tmp_path), conf)
    journal = settings.journal
    worker = start_worker(settings)
    with client(settings) as app:
        app.tasks["hold"].delay("running")
        journal.wait_for("running started")
        app.tasks["note"].delay("waiting")

        own_daemon.restart(kill=kill)
        worker.wait_for("Connection to broker lost")
        settings.release("running")

        journal.wait_for("running finished", "waiting")
        app.tasks["note"].delay("new")
        journal.wait_for("new")
        assert app.tasks["add"].delay(1, 1).get(TIMEOUT_S) == 2


def test_urgent_tasks_overtake(settings: Settings, start_worker: StartWorker) -> None:
    conf = {"task_queue_max_priority": 10, "task_default_priority": 1}
    settings = replace(settings, prefix=f"{settings.prefix}.priority", conf=conf)
    priorities = [1, 9, 5, 9, 0, 5]
    with client(settings) as app:
        for number, priority in enumerate(priorities):
            app.tasks["note"].apply_async((f"{priority} {number}",), priority=priority)

    start_worker(settings)

    expected = ["9 1", "9 3", "5 2", "5 5", "1 0", "0 4"]
    settings.journal.wait_for(*expected)
    assert settings.journal.events() == expected
