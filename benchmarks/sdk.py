"""Leveret's SDK on Leveret beside aio-pika on RabbitMQ: what a Python program gets, from end to end.

    python -m benchmarks.sdk --at-least 10

One program publishes and one consumes; both libraries have the same names for what they do, so it is the same
code for either. A number of tasks publish persistent messages into a durable queue, each waiting for its
confirm; the consumer acks each message. The rate is what was received and acked, from the first publish to
the answer that follows the last ack.
"""

import argparse
import asyncio
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from .brokers import Leveret, OwnBroker, RabbitMQ

QUEUE = "bench.sdk"
END = b"end"
"""The last body: everything was published and confirmed before it."""
PATIENCE_S = 60
EXIT_TOO_SLOW = 1
EXIT_NOT_COMPARED = 2

HEADINGS = (
    f"{'us of CPU time a message':>81}\n"
    f"{'':22}{'msg/s':>9} {'(spread)':>17}{'publisher':>12}{'broker':>10}{'consumer':>10}"
)


@dataclass(frozen=True)
class Contestant:
    """A client library on a broker."""

    name: str
    library: str  # the module
    scheme: str
    broker: type[OwnBroker]


RABBITMQ = Contestant("aio-pika on RabbitMQ", "aio_pika", "amqp", RabbitMQ)
LEVERET = Contestant("leveret on Leveret", "leveret", "leveret", Leveret)
CONTESTANTS = (RABBITMQ, LEVERET, Contestant("aio-pika on Leveret", "aio_pika", "amqp", Leveret))


@dataclass(frozen=True)
class Task:
    """What the two processes are to do."""

    library: str
    url: str
    seconds: float  # how long it publishes; what waits then is still consumed
    size: int
    in_flight: int
    prefetch: int


@dataclass(frozen=True)
class Count:
    """What one process did, from when to when (on the monotonic clock of the system)."""

    messages: int
    begin: float
    end: float
    cpu_seconds: float


@dataclass(frozen=True)
class Run:
    """One contestant, once."""

    contestant: str
    messages: int
    rate: float  # received and acked, per second
    publisher_us: float  # CPU time per message, here and below
    consumer_us: float
    broker_us: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(arguments)
    contestants = [one for one in CONTESTANTS if _can_run(one, leveret_only=options.leveret_only)]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="leveret-bench-", dir=options.directory) as name:
        for number in range(options.rounds):
            for contestant in contestants:
                directory = Path(name) / f"{contestant.library}-{contestant.broker.name}-{number}"
                runs.append(measure(contestant, directory, options))
                print(f"round {number + 1}: {_row(runs[-1:])}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    print(
        f"{options.size} bytes a message, {options.in_flight} in flight, prefetch {options.prefetch}, "
        f"{options.rounds} rounds of {options.seconds:g} s; medians"
    )
    return _report(runs, contestants, options.at_least)


def measure(
    contestant: Contestant, directory: Path, options: argparse.Namespace, env: Mapping[str, str] = {}
) -> Run:
    """Start a broker (`env` is added to its environment), put the load on it."""
    with contestant.broker(directory, dict(env)) as broker:
        task = Task(
            contestant.library,
            f"{contestant.scheme}://guest:guest@127.0.0.1:{broker.port}/",
            options.seconds,
            options.size,
            options.in_flight,
            options.prefetch,
        )
        before = broker.usage().cpu_seconds
        spawn = get_context("spawn")
        with ProcessPoolExecutor(
            2, mp_context=spawn, initializer=_meet_at, initargs=(spawn.Barrier(2),)
        ) as pool:
            consuming = pool.submit(_run_consumer, task)
            published, consumed = pool.submit(_run_publisher, task).result(), consuming.result()
        broker_s = broker.usage().cpu_seconds - before
    if consumed.messages != published.messages:
        raise RuntimeError(f"{published.messages} were published, {consumed.messages} came")
    messages = consumed.messages
    return Run(
        contestant.name,
        messages,
        rate=messages / (consumed.end - published.begin),
        publisher_us=published.cpu_seconds / messages * 1e6,
        consumer_us=consumed.cpu_seconds / messages * 1e6,
        broker_us=broker_s / messages * 1e6,
    )


# In the processes

_start: Barrier
"""Both processes are connected: they begin."""


def _meet_at(barrier: Barrier) -> None:
    global _start  # noqa: PLW0603 -- how a pool hands something to its processes
    _start = barrier


def _run_publisher(task: Task) -> Count:
    return _run(publish(task, importlib.import_module(task.library)))


def _run_consumer(task: Task) -> Count:
    return _run(consume(task, importlib.import_module(task.library)))


def _run(load: Coroutine[Any, Any, Count]) -> Count:
    try:
        count: Count = uvloop.run(load)
        return count
    except BaseException:
        _start.abort()
        raise


async def publish(task: Task, library: Any) -> Count:
    """Publish from so many tasks, each of which waits for its confirms."""
    async with await library.connect(task.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True)
        exchange = channel.default_exchange
        body = bytes(task.size)
        published = 0

        async def publish_one(content: bytes) -> None:
            await exchange.publish(
                library.Message(content, delivery_mode=library.DeliveryMode.PERSISTENT), routing_key=QUEUE
            )

        async def publish_until(end: float) -> None:
            nonlocal published
            while time.monotonic() < end:
                await publish_one(body)
                published += 1

        await asyncio.to_thread(_start.wait, PATIENCE_S)
        cpu, begin = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(task.in_flight):
                tasks.create_task(publish_until(begin + task.seconds))
        await publish_one(END)
        return Count(published, begin, time.monotonic(), time.process_time() - cpu)


async def consume(task: Task, library: Any) -> Count:
    """Ack every message until the last one."""
    async with await library.connect(task.url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=task.prefetch)
        queue = await channel.declare_queue(QUEUE, durable=True)
        received = 0
        async with queue.iterator() as messages:
            await asyncio.to_thread(_start.wait, PATIENCE_S)
            cpu, begin = time.process_time(), time.monotonic()
            async for message in messages:
                await message.ack()
                if message.body == END:
                    break
                received += 1
        await channel.close()  # whose answer says that the acks have arrived
        return Count(received, begin, time.monotonic(), time.process_time() - cpu)


# The command line


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdk", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="how long is published")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a body")
    parser.add_argument("--in-flight", type=int, default=500, help="tasks that publish")
    parser.add_argument("--prefetch", type=int, default=500, help="messages that the consumer may hold")
    parser.add_argument("--at-least", type=float, help="fail if the ratio is lower")
    parser.add_argument("--leveret-only", action="store_true", help="do not run RabbitMQ")
    parser.add_argument("--directory", type=Path, help="where the brokers keep their data (a real disk)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    return parser.parse_args(arguments)


def _can_run(contestant: Contestant, *, leveret_only: bool) -> bool:
    if contestant.broker is not RabbitMQ or leveret_only:
        return not leveret_only or contestant is LEVERET
    if not RabbitMQ.is_installed():
        print("NOT COMPARED: RabbitMQ is not installed (apt-get install rabbitmq-server)", file=sys.stderr)
        return False
    return True


def _report(runs: list[Run], contestants: list[Contestant], at_least: float | None) -> int:
    """Print the table; the exit code says whether the wanted ratio was reached."""
    print(HEADINGS)
    for contestant in contestants:
        print(_row([run for run in runs if run.contestant == contestant.name]))
    if RABBITMQ not in contestants:
        return EXIT_NOT_COMPARED if at_least is not None else 0
    leveret, rabbitmq = (
        median(run.rate for run in runs if run.contestant == one.name) for one in (LEVERET, RABBITMQ)
    )
    print(f"{'ratio':22}{leveret / rabbitmq:9.2f}")
    return EXIT_TOO_SLOW if at_least is not None and leveret < at_least * rabbitmq else 0


def _row(runs: list[Run]) -> str:
    def of(name: str) -> float:
        return float(median(getattr(run, name) for run in runs))

    rates = [run.rate for run in runs]
    return (
        f"{runs[0].contestant:22}{of('rate'):9.0f} {f'({min(rates):.0f}-{max(rates):.0f})':>17}"
        f"{of('publisher_us'):12.1f}{of('broker_us'):10.1f}{of('consumer_us'):10.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
