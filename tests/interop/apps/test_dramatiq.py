"""A Dramatiq application (on pika): retries and delays through its `.DQ` queue, dead letters in `.XQ`."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dramatiq
import pytest
from apps.dramatiq_app import WORKER_COMMAND, build
from apps.patience import wait_until
from apps.process import AppProcess
from apps.settings import Settings
from daemon import Daemon
from dramatiq.brokers.rabbitmq import RabbitmqBroker

PREFETCHED = 4  # by the worker: two for each of its threads
READY = "Worker process is ready for action."


@pytest.fixture(scope="module")
def settings(broker_url: str, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(broker_url, prefix, str(tmp_path_factory.mktemp("dramatiq")))


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[AppProcess]:
    with AppProcess(settings, *WORKER_COMMAND) as worker:
        yield worker.wait_for(READY)


@pytest.fixture
def broker(settings: Settings, worker: AppProcess) -> Iterator[RabbitmqBroker]:
    broker = build(settings)
    broker.flush(settings.prefix)
    yield broker
    broker.close()


def actor(broker: RabbitmqBroker, name: str) -> dramatiq.Actor:
    return broker.get_actor(name)


def test_a_message_is_processed(settings: Settings, broker: RabbitmqBroker) -> None:
    actor(broker, "note").send("hello")
    settings.journal.wait_for("hello")


def test_a_failing_message_is_retried(settings: Settings, broker: RabbitmqBroker) -> None:
    actor(broker, "flaky").send("again", 2)

    first, second, third = settings.journal.wait_for("again try 0", "again try 1", "again try 2")

    assert second.at - first.at >= 0.1
    assert third.at - second.at >= 0.1
    broker.join(settings.prefix, min_successes=1, timeout=10_000)
    assert broker.get_queue_message_counts(settings.prefix) == (0, 0, 0)


def test_a_message_that_fails_for_good_is_a_dead_letter(settings: Settings, broker: RabbitmqBroker) -> None:
    actor(broker, "flaky").send_with_options(args=("doomed", 100), max_retries=1)

    settings.journal.wait_for("doomed try 0", "doomed try 1")
    wait_until(
        lambda: broker.get_queue_message_counts(settings.prefix) == (0, 0, 1),
        lambda: str(broker.get_queue_message_counts(settings.prefix)),
    )


def test_a_delayed_message_comes_later(settings: Settings, broker: RabbitmqBroker) -> None:
    sent_at = time.time()
    actor(broker, "note").send_with_options(args=("later",), delay=700)
    actor(broker, "note").send("now")

    now, later = settings.journal.wait_for("now", "later")

    assert (now.event, later.event) == ("now", "later")
    assert later.at - sent_at >= 0.7


def test_an_urgent_message_overtakes(tmp_path: Path, settings: Settings) -> None:
    settings = Settings(settings.url, f"{settings.prefix}-priority", str(tmp_path))
    broker = build(settings)
    for number in range(20):
        actor(broker, "note").send_with_options(args=(f"dull {number}",))
    actor(broker, "note").send_with_options(args=("urgent",), broker_priority=9)
    broker.close()

    with AppProcess(settings, *WORKER_COMMAND):
        settings.journal.wait_for("urgent", *(f"dull {number}" for number in range(20)))

    assert settings.journal.events().index("urgent") < PREFETCHED  # these may pass each other


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_a_worker_survives_a_restart_of_the_broker(
    own_daemon: Daemon, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    monkeypatch.setenv("dramatiq_restart_delay", "200")  # milliseconds; 3 s by default
    settings = Settings(own_daemon.amqp_url, prefix, str(tmp_path))
    with ExitStack() as running:
        broker = build(settings)
        running.callback(broker.close)
        worker = running.enter_context(AppProcess(settings, *WORKER_COMMAND)).wait_for(READY)
        actor(broker, "hold").send("running")
        settings.journal.wait_for("running started")

        own_daemon.restart(kill=kill)
        worker.wait_for("Consumer encountered a connection error")
        settings.release("running")

        settings.journal.wait_for("running finished")
        actor(broker, "note").send("new")
        settings.journal.wait_for("new")
        wait_until(
            lambda: broker.get_queue_message_counts(prefix) == (0, 0, 0),
            lambda: str(broker.get_queue_message_counts(prefix)),
        )


def test_a_killed_workers_message_is_processed_by_another(tmp_path: Path, settings: Settings) -> None:
    settings = Settings(settings.url, f"{settings.prefix}-killed", str(tmp_path))
    with ExitStack() as running:
        broker = build(settings)
        running.callback(broker.close)
        victim = running.enter_context(AppProcess(settings, *WORKER_COMMAND, name="victim"))
        actor(broker, "hold").send("late")
        settings.journal.wait_for("late started")

        victim.kill()
        running.enter_context(AppProcess(settings, *WORKER_COMMAND, name="heir"))

        first, second = settings.journal.wait_for("late started", "late started")
        assert first.pid != second.pid
        settings.release("late")
        settings.journal.wait_for("late finished")
