"""The HTTP listener over a real socket: health, metrics, and errors that a program can read."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from fake_broker import FakeBroker, FakeServer

from leveret.broker.daemon.http import HttpServer
from leveret.storage.engine import Unavailable
from leveret.version import __version__

PATHS = ["/healthz", "/readyz", "/metrics", "/metrics/per-object", "/queues"]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def http(server: FakeServer) -> AsyncIterator[HttpServer]:
    listener = HttpServer("127.0.0.1", 0, FakeBroker(), server)
    await listener.start()
    yield listener
    await listener.stop()


@pytest.fixture
async def session(http: HttpServer) -> AsyncIterator[ClientSession]:
    async with ClientSession(f"http://127.0.0.1:{http.port}") as client:
        yield client


async def test_health_says_that_the_process_lives(session: ClientSession, server: FakeServer) -> None:
    server.is_ready = False
    answer = await session.get("/healthz")
    assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def test_readiness_follows_the_server(session: ClientSession, server: FakeServer) -> None:
    answer = await session.get("/readyz")
    assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    server.is_ready = False
    answer = await session.get("/readyz")
    assert answer.status == 503
    assert await answer.json() == {"error": "not_ready", "reason": "the broker is starting or stopping"}


@pytest.mark.parametrize("path", ["/metrics", "/metrics/per-object"])
async def test_metrics_are_prometheus_text(session: ClientSession, path: str) -> None:
    answer = await session.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "# TYPE leveret_queue" in await answer.text()


async def test_queues_are_json_once_all_are_there(session: ClientSession, server: FakeServer) -> None:
    answer = await session.get("/queues")
    assert (answer.status, await answer.json()) == (200, [])
    server.is_ready = False
    answer = await session.get("/queues")
    assert (answer.status, (await answer.json())["error"]) == (503, "not_ready")


async def test_metrics_outlive_a_failed_log(session: ClientSession, server: FakeServer) -> None:
    server.stats = Unavailable("the log failed")
    answer = await session.get("/metrics")
    assert answer.status == 200
    assert "leveret_log_bytes" not in await answer.text()


async def test_who_looks_with_a_browser_finds_a_page_with_links_to_everything(session: ClientSession) -> None:
    answer = await session.get("/")
    assert (answer.status, answer.content_type) == (200, "text/html")
    page = await answer.text()
    assert f"Leveret {__version__}" in page
    assert "<script" not in page
    assert re.findall('href="(.*?)"', page) == PATHS
    for path in PATHS:
        assert (await session.get(path)).status == 200


async def test_an_unknown_path_is_an_error_in_json_that_says_which_there_are(session: ClientSession) -> None:
    answer = await session.get("/nothing")
    assert (answer.status, answer.content_type) == (404, "application/json")
    body = await answer.json()
    assert body["error"] == "not_found"
    assert "/nothing" in body["reason"]
    assert body["paths"] == ["/", *PATHS]


async def test_a_wrong_method_is_an_error_in_json_that_says_what_is_allowed(session: ClientSession) -> None:
    answer = await session.post("/healthz")
    body = await answer.json()
    assert (answer.status, body["error"]) == (405, "method_not_allowed")
    assert "paths" not in body
    assert answer.headers["Allow"] == "GET,HEAD"


async def test_a_taken_port_is_an_os_error(http: HttpServer, server: FakeServer) -> None:
    second = HttpServer("127.0.0.1", http.port, FakeBroker(), server)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()


async def test_stopping_closes_idle_connections_soon(
    http: HttpServer, session: ClientSession, server: FakeServer
) -> None:
    await (await session.get("/healthz")).read()
    async with asyncio.timeout(5):
        await http.stop()
        await http.stop()
