import asyncio
import os
import threading
from collections.abc import Sequence

import pytest

from leveret.storage.worker import BATCH_MAX, Job, Worker, run_each


async def test_jobs_run_in_order_on_another_thread() -> None:
    worker = Worker("test", run_each)
    threads = [await worker.submit(threading.current_thread) for _ in range(2)]
    assert threads[0] is threads[1] is not threading.current_thread()
    ran: list[int] = []
    await asyncio.gather(*(worker.submit(lambda n=n: ran.append(n)) for n in range(200)))
    assert ran == list(range(200))
    await worker.stop()


async def test_what_waits_is_run_together() -> None:
    batches: list[int] = []
    may_go = threading.Event()

    def run(jobs: Sequence[Job]) -> list[object]:
        may_go.wait()
        batches.append(len(jobs))
        return [job() for job in jobs]

    worker = Worker("test", run)
    futures = [worker.submit(lambda n=n: n) for n in range(BATCH_MAX + 11)]
    may_go.set()
    assert await asyncio.gather(*futures) == list(range(BATCH_MAX + 11))
    assert sum(batches) == BATCH_MAX + 11
    assert max(batches) <= BATCH_MAX
    assert len(batches) <= 3
    await worker.stop()


async def test_an_exception_reaches_only_its_own_caller() -> None:
    worker = Worker("test", run_each)

    def fail() -> None:
        raise KeyError("mine")

    failing, fine = worker.submit(fail), worker.submit(lambda: "fine")
    with pytest.raises(KeyError, match="mine"):
        await failing
    assert await fine == "fine"
    await worker.stop()


async def test_a_run_that_breaks_down_reaches_all_callers() -> None:
    def run(jobs: Sequence[Job]) -> list[object]:
        raise MemoryError

    worker = Worker("test", run)
    with pytest.raises(MemoryError):
        await worker.submit(lambda: None)
    await worker.stop()


async def test_stopping_runs_what_was_submitted() -> None:
    worker = Worker("test", run_each)
    ran: list[int] = []
    futures = [worker.submit(lambda n=n: ran.append(n)) for n in range(500)]
    await worker.stop()
    assert ran == list(range(500))
    await asyncio.gather(*futures)


async def test_stopping_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    worker = Worker("test", run_each)
    await worker.submit(lambda: None)
    await worker.stop()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cancelled_caller_is_not_answered() -> None:
    worker = Worker("test", run_each)
    ran = threading.Event()
    worker.submit(ran.set).cancel()
    assert await worker.submit(lambda: "next") == "next"
    assert ran.is_set()
    await worker.stop()


def test_a_closed_loop_ends_the_work_quietly() -> None:
    may_go, worker_of = threading.Event(), []

    async def begin() -> None:
        worker_of.append(Worker("test", run_each))
        worker_of[0].submit(may_go.wait)

    asyncio.run(begin())
    may_go.set()
    asyncio.run(_stop(worker_of[0]))


async def _stop(worker: Worker) -> None:
    await worker.stop()
