"""Logging: how events are written to stderr, and how a connection's events say whose they are.

Every module that logs has `log = logging.getLogger(__name__)`. `configure` is called once, by the command
line. Message bodies, property values and credentials are never logged, at no level.
"""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, TextIO

_CONTEXT = ("peer", "vhost", "user")
"""What `ConnectionLog` adds to a record, in the order in which a line shows it."""


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """The log of one connection. `vhost` and `user` are empty until the handshake has told them.

    `is_debug` is cached: on the paths that every frame takes, a silent debug line costs one attribute test.
    """

    def __init__(self, logger: logging.Logger, peer: str) -> None:
        super().__init__(logger)
        self.peer = peer
        self.vhost = ""
        self.user = ""
        self.is_debug = logger.isEnabledFor(logging.DEBUG)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {"peer": self.peer, "vhost": self.vhost, "user": self.user}
        return msg, kwargs


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO    broker.server: text [peer=... vhost=... user=...]`"""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("leveret.")
        context = " ".join(f"{key}={value}" for key, value in _context(record).items())
        text = _one_line(record.getMessage()) + (f" [{_one_line(context)}]" if context else "")
        line = f"{_instant(record)} {record.levelname:<7} {name}: {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, str] = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send everything from `level` up to `stream` (stderr), as "text" or "json"."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _context(record: logging.LogRecord) -> dict[str, str]:
    return {key: value for key in _CONTEXT if (value := getattr(record, key, ""))}


def _instant(record: logging.LogRecord) -> str:
    """UTC, to the millisecond: logs of several machines must sort."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"


def _one_line(text: str) -> str:
    """A peer chooses names and texts: none of them may forge a line of the log."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
