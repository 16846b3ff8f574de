"""A Dramatiq application, and its worker: `dramatiq apps.dramatiq_app:broker_of_worker`."""

import sys
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from .settings import Settings

WORKER_COMMAND = [
    *(sys.executable, "-m", "dramatiq", "apps.dramatiq_app:broker_of_worker"),
    *("--processes", "1", "--threads", "2"),
]
MAX_PRIORITY = 10


def broker_of_worker() -> RabbitmqBroker:
    return build(Settings.of_this_process())


def build(settings: Settings) -> RabbitmqBroker:
    broker = RabbitmqBroker(url=settings.url, confirm_delivery=True, max_priority=MAX_PRIORITY)
    dramatiq.set_broker(broker)
    journal = settings.journal

    @dramatiq.actor(queue_name=settings.prefix, max_retries=0)
    def note(text: str) -> None:
        journal.write(text)

    @dramatiq.actor(queue_name=settings.prefix, max_retries=3, min_backoff=200, max_backoff=200)
    def flaky(key: str, failures: int) -> None:
        attempt = len([event for event in journal.events() if event.startswith(f"{key} try")])
        journal.write(f"{key} try {attempt}")
        if attempt < failures:
            raise RuntimeError(f"{key} fails as it was told to")

    @dramatiq.actor(queue_name=settings.prefix, max_retries=0)
    def hold(key: str) -> None:
        """Runs until the test releases it."""
        journal.write(f"{key} started")
        while not settings.is_released(key):
            time.sleep(0.02)
        journal.write(f"{key} finished")

    return broker
