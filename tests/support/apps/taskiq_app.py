"""A taskiq application (on aio-pika), and its worker: `taskiq worker apps.taskiq_app:broker_of_worker`."""

import sys

from taskiq import SimpleRetryMiddleware
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from .settings import Settings

WORKER_COMMAND = [
    *(sys.executable, "-m", "taskiq", "worker", "apps.taskiq_app:broker_of_worker"),
    *("--workers", "1", "--ack-type", "when_executed"),
]


def broker_of_worker() -> AioPikaBroker:
    return build(Settings.of_this_process())


def build(settings: Settings) -> AioPikaBroker:
    """`conf` says of which type the queues are."""
    prefix, type_ = settings.prefix, QueueType(settings.conf["queue_type"])
    broker = AioPikaBroker(
        settings.url,
        exchange=Exchange(name=prefix),
        task_queues=[Queue(name=prefix, type=type_)],
        delay_queue=Queue(name=f"{prefix}.delay", type=type_),
        dead_letter_queue=Queue(name=f"{prefix}.dead", type=type_),
    ).with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
    journal = settings.journal

    @broker.task("note")
    async def note(text: str) -> None:
        journal.write(text)

    @broker.task("flaky", retry_on_error=True)
    async def flaky(key: str, failures: int) -> None:
        attempt = len([event for event in journal.events() if event.startswith(f"{key} try")])
        journal.write(f"{key} try {attempt}")
        if attempt < failures:
            raise RuntimeError(f"{key} fails as it was told to")

    return broker
