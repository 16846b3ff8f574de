"""As much of Docker's HTTP API as aio-pika's suite uses; a container is a Leveret.

That suite starts RabbitMQ in Docker. With `DOCKER_HOST` pointing here it starts Leveret instead and can stop,
kill and restart it, without a change to its code. With `broker_port` given, every container is that broker.
"""

import json
import re
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

from daemon import Daemon

CLOSED_PORT = 9  # where 5671 (TLS) is mapped to: nobody listens there

# Of the broker: aio-pika's suite publishes more than the 16 MiB that are the default in RabbitMQ 4 and here.
OPTIONS = ("--message-size-max", str(128 * 1024 * 1024))


class DockerStandIn:
    """A context manager. `address` is what belongs behind tcp:// in DOCKER_HOST."""

    def __init__(self, broker_port: int | None = None) -> None:
        self.broker_port = broker_port
        self.daemons: dict[str, Daemon] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.stand_in = self  # type: ignore[attr-defined]  # how a handler finds it
        self.directory = tempfile.TemporaryDirectory(prefix="leveret-foreign-")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        for daemon in self.daemons.values():
            daemon.kill()
        self.directory.cleanup()

    def answer(self, verb: str, path: str, body: dict[str, object]) -> object:
        """The JSON answer to a request; LookupError for what is not known here."""
        match [verb, *re.split("/", path.partition("?")[0].strip("/"))]:
            case ["POST", "images", "create"]:
                return {}
            case ["POST", "containers", "create"]:
                name = f"broker{len(self.daemons)}"
                self.daemons[name] = Daemon(Path(self.directory.name) / name, *OPTIONS)
                return {"Id": name}
            case ["GET", "containers", name, "json"]:
                return {"NetworkSettings": {"Ports": self._ports(self.daemons[name])}}
            case ["POST", "containers", name, "exec"]:
                *_, command = body["Cmd"]  # type: ignore[misc]  # ["rabbitmqctl", "stop_app"]
                return {"Id": f"{name}:{command}"}
            case ["POST", "exec", execution, "start"]:
                self._act(*execution.split(":"))
                return {}
            case ["GET", "exec", _, "json"]:
                return {"Running": False, "ExitCode": 0}
            case ["POST", "containers", name, action]:
                self._act(name, action)
                return {}
            case ["DELETE", "containers", name]:
                self._act(name, "kill")
                return {}
        raise LookupError(path)

    def _ports(self, daemon: Daemon) -> dict[str, list[dict[str, str]]]:
        port = daemon.port if self.broker_port is None else self.broker_port
        return {"5672/tcp": [{"HostPort": str(port)}], "5671/tcp": [{"HostPort": str(CLOSED_PORT)}]}

    def _act(self, name: str, action: str) -> None:
        daemon = self.daemons[name]
        if self.broker_port is not None:
            return  # somebody else's broker: it runs, and stays so
        running = daemon.process is not None
        if action in ("start", "start_app") and not running:
            daemon.start()
        elif action in ("stop", "stop_app") and running:
            daemon.terminate()
        elif action == "kill":
            daemon.kill()


class _Handler(BaseHTTPRequestHandler):
    def do_request(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        try:
            answer = self.server.stand_in.answer(self.command, self.path, body)  # type: ignore[attr-defined]
            status = 200
        except LookupError as error:
            answer, status = {"message": f"not known here: {error}"}, 404
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_request  # http.server's names

    def log_message(self, *_: object) -> None:
        """Silence: the suite's own output is what matters."""
