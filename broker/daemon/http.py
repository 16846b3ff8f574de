"""The HTTP listener: health for those who restart or route to the broker, metrics for those who watch it.

- `/healthz`: the process runs its loop. A failing answer means: restart it.
- `/readyz`: clients are served. 503 during recovery, after a failed commit and while stopping: do not route
  to it.
- `/metrics`: Prometheus; `/metrics/per-object` has a series per queue.
- `/queues`: what is in each queue, as JSON; `leveret queues` asks for it. 503 as long as `/readyz` is.
- `/`: a page for a person with a browser, with links to all of these.

Errors are JSON: `{"error": "not_ready", "reason": "..."}`. For a wrong path they list the `paths` that exist.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol, TypeAlias

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from leveret.storage.engine import EngineError, EngineStats
from leveret.version import __version__

from .loop_lag import LoopLag
from .metrics import BrokerFacts, Metrics
from .queue_list import queue_list
from .queue_metrics import per_queue_text

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

STOP_TIMEOUT_S = 1.0  # for answers under way when the broker stops


class Endpoint(NamedTuple):
    path: str
    handler: Handler
    explanation: str


class Operated(Protocol):
    """What is asked of the server."""

    @property
    def is_ready(self) -> bool:
        """Recovered, listening, and not stopping."""

    async def log_stats(self) -> EngineStats: ...


class HttpServer:
    """One per process. The server starts it before it listens for clients and stops it last."""

    def __init__(self, host: str, port: int, broker: BrokerFacts, server: Operated) -> None:
        self.port = port  # after `start` the real one, also for 0
        self._host = host
        self._broker = broker
        self._server = server
        self._lag = LoopLag()
        self._metrics = Metrics(broker, self._lag)
        endpoints = (
            Endpoint("/healthz", self._healthz, "does the process run?"),
            Endpoint("/readyz", self._readyz, "are clients served?"),
            Endpoint("/metrics", self._aggregated_metrics, "the broker's metrics, for Prometheus"),
            Endpoint("/metrics/per-object", self._per_queue_metrics, "the metrics of each queue"),
            Endpoint("/queues", self._queues, "what is in each queue, as JSON"),
        )
        self._page = _page(endpoints)
        app = web.Application(middlewares=[_errors_as_json])
        app.router.add_get("/", self._front_page)
        for path, handler, _ in endpoints:
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT_S)

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port).start()
        self.port = self._runner.addresses[0][1]
        self._lag.start()

    async def stop(self) -> None:
        """Stop listening and drop what is open. Idempotent."""
        self._lag.stop()
        await self._runner.cleanup()

    async def _front_page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._server.is_ready:
            return web.json_response({"status": "ok"})
        return _not_ready()

    async def _aggregated_metrics(self, _: web.Request) -> web.Response:
        text = await self._metrics.aggregated(await self._log_stats(), self._server.is_ready)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _log_stats(self) -> EngineStats | None:
        """None when the log has failed: of all times, the other metrics must then still be there."""
        try:
            return await self._server.log_stats()
        except EngineError:
            return None

    async def _per_queue_metrics(self, _: web.Request) -> web.Response:
        text = per_queue_text(self._broker.vhosts)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _queues(self, _: web.Request) -> web.Response:
        if not self._server.is_ready:
            return _not_ready()  # during recovery, some of the queues would look like all of them
        text = queue_list(self._broker.vhosts)
        return web.Response(body=text, headers={"Content-Type": "application/json"})


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        status = HTTPStatus(error.status)
        reason = f"{request.method} {request.path}: {status.description}"
        paths = [resource.canonical for resource in request.app.router.resources()]
        facts = {"paths": paths} if status is HTTPStatus.NOT_FOUND else {}
        response = _error(status, status.name.lower(), reason, **facts)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _not_ready() -> web.Response:
    return _error(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the broker is starting or stopping")


def _error(status: HTTPStatus, error: str, reason: str, **facts: object) -> web.Response:
    body = json.dumps({"error": error, "reason": reason, **facts})
    return web.Response(status=status, text=body, content_type="application/json")


def _page(endpoints: Sequence[Endpoint]) -> str:
    links = "\n".join(
        f'<li><a href="{path}">{path}</a>: {explanation}</li>' for path, _, explanation in endpoints
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Leveret</title>
<h1>Leveret {__version__}</h1>
<p>A message broker runs here. This port is for those who watch it; there is nothing to administer.</p>
<ul>
{links}
</ul>
</html>
"""
