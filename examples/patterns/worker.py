"""A worker that ends in good order: what it has begun is finished, the rest is there for the next one.

    python examples/patterns/worker.py

The worker gets SIGTERM in the middle of ten jobs (try Ctrl-C, too). Done and left must be ten together.
Exits with the worker's exit code, or with 1 if a job is missing.
"""

import asyncio
import os
import signal
import sys

import leveret
from leveret.patterns.worker import Worker

JOBS = 10
begun: list[str] = []
done: list[str] = []


async def work(message: leveret.IncomingMessage) -> None:
    job = message.body.decode()
    begun.append(job)
    if len(begun) == JOBS // 2:
        print("SIGTERM comes")
        os.kill(os.getpid(), signal.SIGTERM)  # usually somebody else does that
    await asyncio.sleep(0.2)
    done.append(job)
    print(job, "is done")


async def main() -> int:
    async with leveret.connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("example.work", durable=True)
        for number in range(JOBS):
            await channel.publish(leveret.Message(b"job %d" % number), queue.name)

        exit_code = await Worker(queue, work, concurrency=2, grace_s=5).run()

        left = await queue.delete()
        print(f"{len(begun)} begun, {len(done)} done, {left} left in the queue; exit code {exit_code}")
    return exit_code if done and sorted(begun) == sorted(done) and len(done) + left == JOBS else 1


sys.exit(asyncio.run(main()))
