"""A service is down; the worker stops asking it, and goes on when it is back.

    python examples/patterns/circuit_breaker.py

After three failures in a row the breaker opens, and the worker pauses: it takes no message that would only
fail. When the time is over one message tries. Each job must be done once, and none may have used up more
than a few attempts on a service that was known to be down. Exits with 1 if it ends otherwise.
"""

import asyncio
import sys
from collections import Counter

import leveret
from leveret.patterns.circuit_breaker import CircuitBreaker
from leveret.patterns.retry import Backoff, Retry
from leveret.patterns.worker import Worker

JOBS = 100
DOWN_S = 1.0


class Service:
    """Down for a second, then well."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()  # by how they ended
        self.all_done = asyncio.Event()
        self._up_at_s = asyncio.get_running_loop().time() + DOWN_S

    async def work(self) -> None:
        await asyncio.sleep(0.01)
        if asyncio.get_running_loop().time() < self._up_at_s:
            self.calls["failed"] += 1
            raise ConnectionRefusedError("the service is down")
        self.calls["done"] += 1
        if self.calls["done"] == JOBS:
            self.all_done.set()


async def main() -> int:
    service = Service()
    breaker = CircuitBreaker(
        "service",
        failures_max=3,  # 5 and
        open_s=0.25,  # 30 s unless told otherwise
        on_change=lambda old, new: print(f"{old.name} -> {new.name} after {dict(service.calls)}"),
    )

    async def handle(message: leveret.IncomingMessage) -> None:
        async with breaker.call():
            await service.work()

    retry = Retry("example.service", attempts=5, backoff=Backoff(first_s=0.05))
    async with leveret.connect() as connection:
        consuming = await connection.channel(publisher_confirms=False)
        queue = await retry.declare(consuming)
        channel = await connection.channel()
        for number in range(JOBS):
            await channel.publish(leveret.Message(b"%d" % number), retry.queue)

        worker = Worker(queue, retry.guard(consuming, handle), concurrency=4, gate=breaker.ready)
        working = asyncio.create_task(worker.run())
        await asyncio.wait(
            (working, asyncio.create_task(service.all_done.wait())), return_when="FIRST_COMPLETED"
        )
        worker.stop()
        await working
        given_up = (await channel.get_queue(retry.dead_queue)).message_count
        for name in (retry.queue, retry.delay_queue, retry.dead_queue):
            await channel.queue_delete(name)
    done, failed = service.calls["done"], service.calls["failed"]
    print(f"{done} of {JOBS} jobs done, {given_up} given up, {failed} calls failed")
    return 0 if done == JOBS and given_up == 0 and failed < JOBS else 1


sys.exit(asyncio.run(main()))
