"""Worker processes for the tests of patterns to kill: `python pattern_workers.py <which> <url> ...`.

A worker prints a line for each thing that it begins, so that a test knows when to kill it.
"""

import asyncio
import sys

import leveret
from leveret import IncomingMessage, Message
from leveret.patterns.failures import PermanentError
from leveret.patterns.retry import Backoff, Retry
from leveret.patterns.rpc import RpcServer
from leveret.patterns.saga import Run, Saga, Step
from leveret.patterns.worker import Worker


async def retry(url: str) -> int:
    """Fails every message of `jobs`."""
    policy = Retry("jobs", attempts=4, backoff=Backoff(first_s=0.01, cap_s=0.05))

    async def fail(message: IncomingMessage) -> None:
        print(message.body.decode(), flush=True)
        raise TimeoutError("as always")

    async with leveret.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await policy.declare(channel)
        return await Worker(queue, policy.guard(channel, fail), concurrency=5).run()


async def work(url: str, source: str, results: str) -> int:
    """Passes messages on, one at a time; what is `slow` takes as long as the signal needs to arrive."""
    told = asyncio.Event()

    async with leveret.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(source)

        async def handle(message: IncomingMessage) -> None:
            print(message.body.decode(), flush=True)
            if message.body == b"slow":
                await told.wait()
            await channel.publish(Message(message.body), results)

        worker = Worker(queue, handle, concurrency=1)
        stop = worker.stop
        worker.stop = lambda: (stop(), told.set())  # type: ignore[assignment,method-assign] # only here
        return await worker.run()


async def serve(url: str, queue: str) -> int:
    """Takes requests and never answers."""

    async def hang(request: IncomingMessage) -> bytes:
        print("asked", flush=True)
        await asyncio.Event().wait()
        return b""

    async with leveret.connect(url) as connection, RpcServer(connection, queue, hang) as server:
        print("ready", flush=True)
        await server.wait()
    return 0


async def trip(url: str, ledger: str) -> int:
    """Books and cancels by writing keys into a file; for every third customer there is no car."""

    async def note(run: Run) -> None:
        print(run.key, flush=True)
        await asyncio.to_thread(append, ledger, f"{run.key}\n")

    async def book_car(run: Run) -> None:
        if run.data["number"] % 3 == 0:
            raise PermanentError("no car")
        await note(run)

    saga = Saga("trip", [Step("flight", note, note), Step("hotel", note, note), Step("car", book_car)])
    async with leveret.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await saga.declare(channel)
        return await Worker(queue, saga.handler(channel), concurrency=5).run()


def append(file: str, line: str) -> None:
    with open(file, "a", encoding="utf-8") as ledger:
        ledger.write(line)


WORKERS = {"trip": trip, "serve": serve, "retry": retry, "work": work}

if __name__ == "__main__":
    sys.exit(asyncio.run(WORKERS[sys.argv[1]](*sys.argv[2:])))
