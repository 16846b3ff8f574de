"""A broker that has a process of its own: its signals, its garbage collector, and the line that says ready.

SIGTERM and SIGINT stop the broker in an orderly way; a second one ends the process at once. SIGHUP makes it
read the files of TLS again.
"""

import asyncio
import gc
import logging
import os
import signal
import sys

import uvloop

from leveret.storage.engine import LogEngine
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.memory import MemoryEngine
from leveret.storage.spill import FileSpill, Spill

from .config import Config
from .http import HttpServer
from .server import Server

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005  # the storage thread gets the GIL back soon: puts of a busy broker 5.3 -> 1.4 ms
EXIT_AT_ONCE = 1


def serve(config: Config) -> int:
    """Run a broker until it is told to stop. Returns the exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.disable()  # see garbage.py
    gc.collect()  # what importing left; in what is recovered there are no cycles
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config))


async def _run(config: Config) -> int:
    def on_ready() -> None:
        gc.freeze()  # what was recovered lives long: it need not be walked
        ports = {"port": server.port, "http_port": server.http_port, "tls_port": server.tls_port}
        open_ports = " ".join(f"{name}={port}" for name, port in ports.items() if port is not None)
        print(f"ready {open_ports} data_dir={config.data_dir}", flush=True)

    server = Server(config, _make_engine(config), _make_spill(config), HttpServer, on_ready)
    _handle_signals(server)
    return await server.run()


def _make_engine(config: Config) -> LogEngine:
    if config.engine == "memory":
        return MemoryEngine()
    return LmdbEngine(config.data_dir, sync_delay_ms=config.sync_delay_ms)


def _make_spill(config: Config) -> Spill:
    return FileSpill(None if config.engine == "memory" else config.data_dir / "spill")


def _handle_signals(server: Server) -> None:
    def on_signal() -> None:
        if server.is_stopping:
            log.warning("second signal: ending at once")
            os._exit(EXIT_AT_ONCE)
        server.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, server.reload_tls)
