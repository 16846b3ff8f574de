"""`leveret queues` and what may be behind a URL: a broker with many queues, one that starts, none at all."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pika
import pytest
from aiohttp import web
from daemon import START_TIMEOUT_S, Daemon
from fake_broker import FakeBroker, FakeQueue, FakeServer

from leveret.broker.daemon.http import HttpServer
from leveret.broker.queue_report import Row, Unavailable, WrongAddress, ask


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
async def url(broker: FakeBroker, server: FakeServer) -> AsyncIterator[str]:
    http = HttpServer("127.0.0.1", 0, broker, server)
    await http.start()
    yield f"http://127.0.0.1:{http.port}"
    await http.stop()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound, so that nobody else gets it, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def report(url: str) -> list[Row]:
    return await asyncio.to_thread(ask, url)


async def test_many_queues_come_sorted_and_whole(broker: FakeBroker, url: str) -> None:
    for number in reversed(range(2000)):
        broker.vhosts["/"].add(FakeQueue(f"q{number:04}", number))
    found = [(row["name"], row["ready"]) for row in await report(url + "/")]
    assert found == [(f"q{number:04}", number) for number in range(2000)]


async def test_a_broker_that_starts_or_stops_is_worth_another_try(server: FakeServer, url: str) -> None:
    server.is_ready = False
    with pytest.raises(Unavailable, match="is starting or stopping"):
        await report(url)


async def test_so_is_a_port_where_nobody_listens(closed_port: int) -> None:
    with pytest.raises(Unavailable, match=f"no broker answers at http://127.0.0.1:{closed_port}: .*refused"):
        await report(f"http://127.0.0.1:{closed_port}")


@pytest.mark.parametrize("answer", ["<html>", "{}", "[1]", '[{"name": "q"}]', '{"queues": []}', "3"])
async def test_another_web_server_is_no_broker(answer: str) -> None:
    async def anything(_: web.BaseRequest) -> web.Response:
        return web.Response(text=answer)

    runner = web.ServerRunner(web.Server(anything))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with pytest.raises(WrongAddress, match="is not the HTTP port of Leveret"):
            await report(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


async def test_a_path_that_is_not_there_is_no_broker(url: str) -> None:
    with pytest.raises(WrongAddress, match="is not Leveret: it says 404 to /queues"):
        await report(f"{url}/management")


class TestCommand:
    """With a broker that is a process."""

    @pytest.fixture
    def queues(self, daemon: Daemon) -> Iterator[list[str]]:
        """The command; the broker has a queue with three messages, one of them unacked."""
        with pika.BlockingConnection(pika.URLParameters(daemon.amqp_url)) as connection:
            channel = connection.channel()
            channel.queue_declare("jobs")
            for _ in range(3):
                channel.basic_publish("", "jobs", b"")
            assert channel.basic_get("jobs")[0] is not None
            yield [sys.executable, "-m", "leveret", "queues"]

    def test_it_prints_a_table_of_the_broker_of_the_environment(
        self, daemon: Daemon, queues: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LEVERET_HTTP_PORT", str(daemon.http_port))
        printed = subprocess.run(queues, capture_output=True, text=True, check=True, timeout=START_TIMEOUT_S)
        assert [line.split() for line in printed.stdout.splitlines()] == [
            ["vhost", "name", "ready", "unacked", "consumers"],
            ["/", "jobs", "2", "1", "0"],
        ]

    def test_it_prints_json_of_the_broker_of_a_url(self, daemon: Daemon, queues: list[str]) -> None:
        command = [*queues, "--json", "--url", daemon.http_url]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_TIMEOUT_S)
        assert json.loads(printed.stdout) == [
            {"vhost": "/", "name": "jobs", "ready": 2, "unacked": 1, "consumers": 0}
        ]

    def test_the_port_for_amqp_is_the_wrong_one(self, daemon: Daemon) -> None:
        with pytest.raises(WrongAddress, match="is not the HTTP port of Leveret"):
            ask(f"http://127.0.0.1:{daemon.port}")
