"""The six tutorials of the README do what it says, as programs against a real broker."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from daemon import TIMEOUT_FACTOR, Daemon

import leveret

TUTORIALS = Path(__file__).parents[2] / "examples" / "tutorials"
PATIENCE_S = 60 * TIMEOUT_FACTOR  # programs start slowly on a loaded machine
pytestmark = pytest.mark.timeout(240 * TIMEOUT_FACTOR)


class Program:
    """A tutorial's script that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self, *lines: str) -> None:
        """Its next lines are these."""
        assert self._process.stdout is not None
        said = []
        async with asyncio.timeout(PATIENCE_S):
            while len(said) < len(lines):
                line = await self._process.stdout.readline()
                if not line:
                    break
                said.append(line.decode().rstrip("\n"))
        assert said == list(lines)

    async def interrupt(self) -> None:
        """Ctrl-C: it says nothing more and ends well."""
        self._process.send_signal(signal.SIGINT)
        await self.ends()

    async def ends(self, *, exit_code: int = 0) -> None:
        """It says nothing more."""
        async with asyncio.timeout(PATIENCE_S):
            rest, _ = await self._process.communicate()
        assert (self._process.returncode, rest.decode()) == (exit_code, "")

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


class Start(Protocol):
    """`async with start("hello_send.py", "argument") as program:`"""

    def __call__(self, name: str, *arguments: str) -> AbstractAsyncContextManager[Program]: ...


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Its own: the tutorials take what names they like."""
    with Daemon(tmp_path_factory.mktemp("tutorials") / "data") as daemon:
        yield daemon


@pytest.fixture
def start(broker: Daemon) -> Start:
    return partial(_start, broker.leveret_url)


@asynccontextmanager
async def _start(url: str, name: str, *arguments: str) -> AsyncIterator[Program]:
    env = {**os.environ, "LEVERET_URL": url, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(TUTORIALS / name), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=env)
    program = Program(process)
    try:
        yield program
    finally:
        program.kill()
        await process.communicate()


async def run(start: Start, name: str, *arguments: str, says: list[str]) -> None:
    """A script that ends by itself."""
    async with start(name, *arguments) as program:
        await program.says(*says)
        await program.ends()


async def test_hello(start: Start) -> None:
    await run(start, "hello_send.py", says=["sent"])
    async with start("hello_receive.py") as receiver:
        await receiver.says("waiting", "received: Good morning!")
        await run(start, "hello_send.py", says=["sent"])
        await receiver.says("received: Good morning!")
        await receiver.interrupt()


async def test_jobs_survive_and_are_shared(start: Start, broker: Daemon) -> None:
    await run(start, "jobs_send.py", "stay-busy 600", says=["stored: stay-busy 600"])
    broker.restart(kill=True)
    async with AsyncExitStack() as programs:
        busy = await programs.enter_async_context(start("jobs_worker.py"))
        await busy.says("waiting")
        await jobs_waiting(broker, 0)
        other = await programs.enter_async_context(start("jobs_worker.py"))
        await other.says("waiting")
        jobs = ["a", "b 0.01", "c"]
        await run(start, "jobs_send.py", *jobs, says=[f"stored: {job}" for job in jobs])
        await other.says("done: a", "done: b", "done: c")
        await other.interrupt()
        await busy.interrupt()
    await jobs_waiting(broker, 1)  # the one that was not done


async def jobs_waiting(broker: Daemon, count: int) -> None:
    """Until so many jobs are with no worker."""
    async with asyncio.timeout(PATIENCE_S), leveret.connect(broker.leveret_url) as connection:
        channel = await connection.channel()
        while (await channel.get_queue("jobs")).message_count != count:  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.01)


async def test_news_reach_everybody_who_is_there(start: Start) -> None:
    await run(start, "news_send.py", "too", "early", says=["told"])
    async with start("news_receive.py") as one, start("news_receive.py") as other:
        for receiver in (one, other):
            await receiver.says("waiting")
        await run(start, "news_send.py", "the", "lift", "works", says=["told"])
        for receiver in (one, other):
            await receiver.says("news: the lift works")
            await receiver.interrupt()


async def test_alerts_go_by_severity(start: Start) -> None:
    async with (
        start("alerts_receive.py", "error") as errors,
        start("alerts_receive.py", "info", "error") as both,
    ):
        for receiver in (errors, both):
            await receiver.says("waiting")
        await run(start, "alerts_send.py", "debug", "x", says=["nobody listens for debug"])
        await run(start, "alerts_send.py", "info", "all is well", says=["sent"])
        await run(start, "alerts_send.py", "error", "disk is full", says=["sent"])
        await both.says("info: all is well", "error: disk is full")
        await errors.says("error: disk is full")


async def test_weather_goes_by_pattern(start: Start) -> None:
    async with start("weather_receive.py", "europe.*.rain", "#.storm") as receiver:
        await receiver.says("waiting")
        for topic in ("europe.rome.sun", "europe.rome.rain", "asia.rain", "asia.pacific.coast.storm"):
            await run(start, "weather_send.py", topic, "look out", says=["reported"])
        await receiver.says("europe.rome.rain: look out", "asia.pacific.coast.storm: look out")
        await receiver.interrupt()


USAGES = {
    "alerts_receive.py": "SEVERITY...",
    "alerts_send.py": "SEVERITY TEXT",
    "jobs_send.py": "JOB...",
    "news_send.py": "NEWS",
    "rpc_client.py": "DATE",
    "weather_receive.py": "PATTERN...",
    "weather_send.py": "PLACE TEXT",
}


@pytest.mark.parametrize("name", USAGES)
async def test_without_its_arguments_it_says_what_it_takes(start: Start, name: str) -> None:
    async with start(name) as program:
        await program.says(f"usage: python {name} {USAGES[name]}")
        await program.ends(exit_code=1)


async def test_a_call_has_an_answer_or_an_error(start: Start) -> None:
    async with start("rpc_server.py") as server:
        await server.says("waiting")
        await run(start, "rpc_client.py", "1969-07-20", says=["Sunday"])
        complaint = "the server says: ValueError: Invalid isoformat string: 'tomorrow'"
        await run(start, "rpc_client.py", "tomorrow", says=[complaint])
        await server.interrupt()
