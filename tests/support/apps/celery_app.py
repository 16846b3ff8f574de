"""A Celery application, and its worker: `python -m apps.celery_app worker OPTION ...`.

The test builds the same application from the same settings and sends tasks.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import kombu.pools
from celery import Celery, Task

from .settings import Settings

ALONE = ("--without-gossip", "--without-mingle")
"""Options of a worker that does not look for others when it starts; it starts a second sooner."""


def worker_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "apps.celery_app", "worker", "--loglevel", "info", *options]


def build(settings: Settings) -> Celery:
    app = Celery(settings.prefix, broker=settings.url, backend="rpc://", set_as_current=False)
    app.conf.update(
        task_default_queue=settings.prefix,
        control_exchange=settings.prefix,
        event_exchange=f"{settings.prefix}.ev",
        event_queue_prefix=f"{settings.prefix}.ev",
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        **settings.conf,
    )
    _add_arithmetic(app)
    _add_stories(app, settings)
    return app


@contextmanager
def client(settings: Settings) -> Iterator[Celery]:
    """The application as a process has it that only sends tasks; its connections are closed at the end."""
    with build(settings) as app:
        try:
            yield app
        finally:
            results = getattr(app.backend, "result_consumer", None)
            if results is not None and results._consumer is not None:  # else stop() trips over it
                results.stop()
            kombu.pools.reset()


def _add_arithmetic(app: Celery) -> None:
    @app.task(shared=False, name="add")
    def add(left: int, right: int) -> int:
        return left + right

    @app.task(shared=False, name="total")
    def total(numbers: Iterable[int]) -> int:
        return sum(numbers)

    @app.task(shared=False, name="divide")
    def divide(left: int, right: int) -> float:
        return left / right


def _add_stories(app: Celery, settings: Settings) -> None:
    journal = settings.journal

    @app.task(shared=False, name="note")
    def note(text: str) -> None:
        journal.write(text)

    @app.task(shared=False, name="flaky", bind=True, max_retries=5)
    def flaky(self: Task, key: str, failures: int, countdown: float) -> int:
        """Fails that many times, then succeeds; returns the number of the try."""
        attempt: int = self.request.retries
        journal.write(f"{key} try {attempt}")
        if attempt < failures:
            raise self.retry(countdown=countdown)
        return attempt

    @app.task(shared=False, name="hold", acks_late=True)
    def hold(key: str) -> str:
        """Runs until the test releases it."""
        journal.write(f"{key} started")
        while not settings.is_released(key):
            time.sleep(0.02)
        journal.write(f"{key} finished")
        return key


if __name__ == "__main__":
    build(Settings.of_this_process()).worker_main(sys.argv[1:])
