"""A thread that does the blocking work of one event loop.

An engine owns its workers. Jobs are handed over through a `SimpleQueue`; whatever is waiting when the thread
comes round goes into one call of `run` (so group commit emerges without a timer), and one wake-up of the loop
resolves all futures of that call. Every job given to `submit` before `stop` is run.

The loop is woken through an eventfd of our own: writing it lets go of the interpreter, which the loop's
thread wants at once. `call_soon_threadsafe` holds on to it: the loop's thread wakes up, finds it taken and
sleeps again, which took 15 to 30 us of every commit.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

Job = Callable[..., Any]
Run = Callable[[Sequence[Job]], Sequence[object]]

BATCH_MAX = 64
"""Jobs in one call of `run`; bounds what one transaction can hold up."""


class Worker:
    """Runs jobs in order on its own thread and answers on the loop that made it."""

    def __init__(self, name: str, run: Run) -> None:
        """`run` answers jobs, one answer each, in order; an answer that is an exception is raised."""
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Job, asyncio.Future[Any]] | None] = SimpleQueue()
        self._answered: SimpleQueue[tuple[list[asyncio.Future[Any]], Sequence[object]]] = SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung when something was answered
        self._loop.add_reader(self._bell, self._on_bell)
        self._unanswered = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, future: "asyncio.Future[Any] | None" = None) -> "asyncio.Future[Any]":
        """Hand over a job. It answers by this future, or a new one, and is run even if that is cancelled."""
        if future is None:
            future = self._loop.create_future()
        self._unanswered += 1
        self._queue.put((job, future))
        return future

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted is answered."""
        return not self._unanswered

    async def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        if not self._loop.is_closed():  # else nobody is left to answer
            self._loop.remove_reader(self._bell)
            self._resolve_answered()
        os.close(self._bell)

    # On the thread

    def _work(self) -> None:
        running = True
        while running:
            entries = [self._queue.get()]
            try:
                while len(entries) < BATCH_MAX:
                    entries.append(self._queue.get_nowait())
            except Empty:
                pass
            running = None not in entries
            batch = [entry for entry in entries if entry is not None]
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[tuple[Job, asyncio.Future[Any]]]) -> None:
        jobs = [job for job, _ in batch]
        try:
            answers = self._run(jobs)
        except Exception as error:
            answers = [error] * len(jobs)
        self._answered.put(([future for _, future in batch], answers))
        os.eventfd_write(self._bell, 1)

    # On the loop

    def _on_bell(self) -> None:
        os.eventfd_read(self._bell)
        self._resolve_answered()

    def _resolve_answered(self) -> None:
        while not self._answered.empty():
            futures, answers = self._answered.get()
            self._unanswered -= len(futures)
            _resolve(futures, answers)


def run_each(jobs: Sequence[Job]) -> list[object]:
    """A `run` for jobs that are independent calls."""
    answers: list[object] = []
    for job in jobs:
        try:
            answers.append(job())
        except Exception as error:
            answers.append(error)
    return answers


def _resolve(futures: "list[asyncio.Future[Any]]", answers: Sequence[object]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # cancelled by the caller
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
