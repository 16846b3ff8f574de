"""The HTTP listener: health for those who restart or route to the broker, metrics for those who watch it.

- `/healthz`: the process runs its loop. A failing answer means: restart it.
- `/readyz`: clients are served. 503 during recovery, after a failed commit and while stopping: do not route
  to it.
- `/metrics`: Prometheus; `/metrics/per-object` has a series per queue.

Errors are JSON: `{"error": "not_found", "reason": "..."}`.
"""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol, TypeAlias

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from leveret.storage.engine import EngineError, EngineStats

from .loop_lag import LoopLag
from .metrics import BrokerFacts, Metrics
from .queue_metrics import per_queue_text

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

STOP_TIMEOUT_S = 1.0  # for answers under way when the broker stops


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
        app = web.Application(middlewares=[_errors_as_json])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._aggregated_metrics)
        app.router.add_get("/metrics/per-object", self._per_queue_metrics)
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

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._server.is_ready:
            return web.json_response({"status": "ok"})
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the broker is starting or stopping")

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


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        status = HTTPStatus(error.status)
        reason = f"{request.method} {request.path}: {status.description}"
        response = _error(status, status.name.lower(), reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _error(status: HTTPStatus, error: str, reason: str) -> web.Response:
    body = json.dumps({"error": error, "reason": reason})
    return web.Response(status=status, text=body, content_type="application/json")
