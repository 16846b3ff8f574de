"""A Celery application with a running worker: tasks, canvas, remote control, events."""

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from apps.celery_app import client, worker_command
from apps.journal import Journal
from apps.patience import TIMEOUT_S, wait_until
from apps.process import AppProcess
from apps.settings import Settings
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError

WORKER = "hare@localhost"
FROM_THE_WORKER: dict[str, Any] = {
    "destination": [WORKER],
    "reply": True,
    "limit": 1,  # do not wait for other workers' replies
    "timeout": TIMEOUT_S,
}


@pytest.fixture(scope="module")
def settings(broker_url: str, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(broker_url, prefix, str(tmp_path_factory.mktemp("celery")))


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[AppProcess]:
    command = worker_command("--hostname", WORKER, "--concurrency", "2", "--task-events")
    with AppProcess(settings, *command) as worker:
        yield worker.wait_for(" ready.")


@pytest.fixture
def app(settings: Settings, worker: AppProcess) -> Iterator[Celery]:
    with client(settings) as app:
        yield app


@pytest.fixture
def journal(settings: Settings) -> Journal:
    return settings.journal


@pytest.fixture
def key() -> str:
    """What this test's tasks are called in the journal."""
    return uuid.uuid4().hex[:8]


def waiting(app: Celery, queue: str) -> int:
    """How many messages of the queue nobody has been given yet."""
    with app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


def consumers(app: Celery, queue: str) -> int:
    """Of the queue."""
    with app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).consumer_count)


def test_a_task_returns_its_result(app: Celery) -> None:
    assert app.tasks["add"].delay(2, 3).get(TIMEOUT_S) == 5


def test_a_failed_task_returns_its_error(app: Celery) -> None:
    with pytest.raises(ZeroDivisionError):
        app.tasks["divide"].delay(1, 0).get(TIMEOUT_S)


def test_a_failing_task_is_retried_after_its_countdown(app: Celery, journal: Journal, key: str) -> None:
    assert app.tasks["flaky"].delay(key, failures=2, countdown=0.3).get(TIMEOUT_S) == 2

    tries = journal.wait_for(*(f"{key} try {number}" for number in range(3)))
    assert len(tries) == 3
    assert all(later.at - earlier.at >= 0.3 for earlier, later in itertools.pairwise(tries))


def test_a_chain_passes_results_on(app: Celery) -> None:
    add = app.tasks["add"]
    assert chain(add.s(1, 2), add.s(10), add.s(100)).apply_async().get(TIMEOUT_S) == 113


def test_a_group_collects_results_in_order(app: Celery) -> None:
    add = app.tasks["add"]
    assert group(add.s(number, number) for number in range(20))().get(TIMEOUT_S) == list(range(0, 40, 2))


def test_two_results_can_be_fetched_in_any_order(app: Celery) -> None:
    first, second = app.tasks["add"].delay(1, 1), app.tasks["add"].delay(2, 2)
    assert second.get(TIMEOUT_S) == 4
    assert first.get(TIMEOUT_S) == 2


def test_celery_has_no_chords_over_rpc_results(app: Celery) -> None:
    """A limit of the result backend, whatever the broker: test_celery_prefetch.py has chords."""
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord([app.tasks["add"].s(1, 1)])(app.tasks["total"].s())


def test_ping_reaches_the_worker(app: Celery) -> None:
    assert app.control.inspect([WORKER], timeout=TIMEOUT_S).ping() == {WORKER: {"ok": "pong"}}


def test_active_shows_the_running_task(settings: Settings, app: Celery, journal: Journal, key: str) -> None:
    result = app.tasks["hold"].delay(key)
    journal.wait_for(f"{key} started")

    active = app.control.inspect([WORKER], timeout=TIMEOUT_S).active()

    settings.release(key)
    assert [task["id"] for task in active[WORKER]] == [result.id]
    assert result.get(TIMEOUT_S) == key


def test_a_running_task_can_be_revoked(app: Celery, journal: Journal, key: str) -> None:
    result = app.tasks["hold"].delay(key)
    journal.wait_for(f"{key} started")

    app.control.revoke(result.id, terminate=True, **FROM_THE_WORKER)

    with pytest.raises(TaskRevokedError):
        result.get(TIMEOUT_S)


def test_a_waiting_task_can_be_revoked(app: Celery, journal: Journal, key: str) -> None:
    result = app.tasks["note"].apply_async((key,), countdown=1)

    app.control.revoke(result.id, **FROM_THE_WORKER)

    with pytest.raises(TaskRevokedError):
        result.get(TIMEOUT_S)
    assert key not in journal.events()


def test_a_broadcast_makes_the_worker_consume_a_further_queue(
    settings: Settings, app: Celery, key: str
) -> None:
    queue = f"{settings.prefix}.{key}"
    said = app.control.add_consumer(queue, **FROM_THE_WORKER)
    assert said == [{WORKER: {"ok": f"add consumer {queue}"}}]

    assert app.tasks["add"].apply_async((2, 2), queue=queue).get(TIMEOUT_S) == 4

    said = app.control.cancel_consumer(queue, **FROM_THE_WORKER)
    assert said == [{WORKER: {"ok": f"no longer consuming from {queue}"}}]
    # The worker says so first and does it then.
    wait_until(lambda: consumers(app, queue) == 0, lambda: f"{consumers(app, queue)} consumers of {queue}")
    app.tasks["add"].apply_async((2, 2), queue=queue)
    wait_until(lambda: waiting(app, queue) == 1, lambda: f"{waiting(app, queue)} in {queue}")


def test_the_event_receiver_sees_a_task_succeed(app: Celery) -> None:
    started: list[str] = []
    seen: list[str] = []

    def on_heartbeat(_: dict[str, Any]) -> None:  # the receiver is bound: from here on it misses nothing
        if not started:
            started.append(app.tasks["add"].delay(1, 1).id)

    def on_task(event: dict[str, Any]) -> None:
        if event["uuid"] in started:
            seen.append(event["type"])
            receiver.should_stop = event["type"] == "task-succeeded"

    handlers = {"worker-heartbeat": on_heartbeat}
    handlers |= dict.fromkeys(["task-received", "task-started", "task-succeeded"], on_task)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers=handlers)
        receiver.capture(timeout=TIMEOUT_S)

    assert seen == ["task-received", "task-started", "task-succeeded"]


def test_the_queue_is_empty_when_all_is_done(settings: Settings, app: Celery) -> None:
    for result in [app.tasks["add"].delay(number, 0) for number in range(50)]:
        result.get(TIMEOUT_S)

    wait_until(lambda: waiting(app, settings.prefix) == 0, lambda: f"{waiting(app, settings.prefix)} left")
