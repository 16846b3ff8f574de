"""One run of a broker in a thread of this process, with an event loop of its own."""

import asyncio
import difflib
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from leveret.broker.daemon.config import OPTIONS, Config, ConfigError
from leveret.broker.daemon.server import Server
from leveret.storage.engine import LogEngine
from leveret.storage.memory import MemoryEngine
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.spill import FileSpill, Spill

GOODBYE_S = 0.1  # for clients to read why the broker leaves: those of a test are near, or gone

FIXED = ("engine", "data_dir", "port", "http_port")  # `Broker` sees to them

TEST_DEFAULTS: Mapping[str, object] = {
    "host": "127.0.0.1",
    # How much memory and disk a developer's machine has left should not decide whether a test passes.
    "memory_high_watermark": 1.0,
    "disk_free_limit_bytes": 0,
}


class BrokerThread:
    """Made by `Broker` for each of its starts."""

    def __init__(
        self, directory: Path | None, http: bool, options: Mapping[str, object], port: int, http_port: int
    ) -> None:
        """Without a directory, everything is kept in memory. Raises ConfigError."""
        ports = {"port": port, "http_port": http_port}
        for name in FIXED:
            if name in options:
                raise ConfigError(f"{name} is not for a test to choose")
        self._config = _read_options({**TEST_DEFAULTS, **options, **ports})
        if directory is not None:
            self._config = replace(self._config, data_dir=directory)
        self._is_on_disk = directory is not None
        self._http = http
        self._thread = threading.Thread(target=self._run, name="leveret-broker", daemon=True)
        self._started: Future[tuple[Server, asyncio.AbstractEventLoop]] = Future()
        self._ended: Future[int] = Future()
        self.port = port  # after `start` the real ones
        self.http_port = http_port

    def start(self) -> None:
        """Return when clients can connect. Raises whatever goes wrong before that."""
        self._thread.start()
        try:
            server, _ = self._started.result()
        except BaseException:
            self._thread.join()
            raise
        assert server.port is not None  # `port` is FIXED
        self.port, self.http_port = server.port, server.http_port

    def stop(self) -> None:
        """Stop the broker and wait for its end. Raises what ended it before, if something has."""
        server, loop = self._started.result()
        with suppress(RuntimeError):  # the loop is closed: the broker has failed
            loop.call_soon_threadsafe(server.stop, GOODBYE_S)
        self._thread.join()
        exit_code = self._ended.result()
        if exit_code != 0:
            raise RuntimeError(f"the broker had failed with exit code {exit_code}; its log says why")

    def _run(self) -> None:
        """The thread."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                exit_code = runner.run(self._serve())
        except BaseException as error:
            outcome: Future[Any] = self._ended if self._started.done() else self._started
            outcome.set_exception(error)
        else:
            self._ended.set_result(exit_code)

    async def _serve(self) -> int:
        server = Server(
            self._config,
            self._make_engine(),
            self._make_spill(),
            _http_server() if self._http else None,
            on_ready=lambda: self._started.set_result((server, asyncio.get_running_loop())),
        )
        return await server.run()

    def _make_engine(self) -> LogEngine:
        if not self._is_on_disk:
            return MemoryEngine()
        from leveret.storage.lmdb import LmdbEngine  # noqa: PLC0415 -- takes longer than all of the start

        return LmdbEngine(self._config.data_dir, sync_delay_ms=self._config.sync_delay_ms)

    def _make_spill(self) -> Spill:
        return FileSpill(self._config.data_dir / "spill") if self._is_on_disk else MemorySpill()


def _http_server() -> Any:
    from leveret.broker.daemon.http import HttpServer  # noqa: PLC0415 -- aiohttp takes longer than the rest

    return HttpServer


def _read_options(options: Mapping[str, object]) -> Config:
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            suggestion = f", did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown option {name}{suggestion}")
        values[name] = OPTIONS[name].read(value, "Broker()")
    return Config(**values)
