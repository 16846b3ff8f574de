"""A FastStream application: subscribers, publishers, requests over the direct reply-to, nacks and rejects."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from apps.patience import TIMEOUT_S
from apps.process import AppProcess
from apps.settings import Settings
from daemon import Daemon
from faststream.rabbit import RabbitBroker

READY = "FastStream app started successfully!"


def start(settings: Settings) -> AppProcess:
    return AppProcess(settings, sys.executable, "-m", "apps.faststream_app")


@pytest.fixture(scope="module")
def settings(broker_url: str, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(broker_url, prefix, str(tmp_path_factory.mktemp("faststream")))


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[AppProcess]:
    with start(settings) as app:
        yield app.wait_for(READY)


@pytest.fixture
async def broker(settings: Settings, app: AppProcess) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker(settings.url) as broker:
        yield broker


async def test_a_request_is_answered(settings: Settings, broker: RabbitBroker) -> None:
    answer = await broker.request("hare", f"{settings.prefix}.greet", timeout=TIMEOUT_S)
    assert await answer.decode() == "hello hare"


async def test_what_a_handler_returns_is_published(settings: Settings, broker: RabbitBroker) -> None:
    await broker.publish(21, f"{settings.prefix}.double")
    settings.journal.wait_for("doubled 42")


async def test_a_failing_message_comes_again(settings: Settings, broker: RabbitBroker) -> None:
    await broker.publish("job", f"{settings.prefix}.work")
    settings.journal.wait_for("job first", "job again")


async def test_a_rejected_message_is_a_dead_letter(settings: Settings, broker: RabbitBroker) -> None:
    await broker.publish("hopeless", f"{settings.prefix}.work")
    settings.journal.wait_for("hopeless first", "hopeless dead: rejected from .work")


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
async def test_it_survives_a_restart_of_the_broker(
    own_daemon: Daemon, prefix: str, tmp_path: Path, kill: bool
) -> None:
    settings = Settings(own_daemon.amqp_url, prefix, str(tmp_path))
    with start(settings) as app:
        app.wait_for(READY)
        async with RabbitBroker(own_daemon.amqp_url) as broker:
            await broker.publish(1, f"{prefix}.double")
            settings.journal.wait_for("doubled 2")

        own_daemon.restart(kill=kill)

        async with RabbitBroker(own_daemon.amqp_url) as broker:
            await broker.publish(2, f"{prefix}.double")
        settings.journal.wait_for("doubled 4")
