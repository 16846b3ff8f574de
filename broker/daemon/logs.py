"""Logging: how events are written to stderr.

Every module that logs has `log = logging.getLogger(__name__)`; `configure` is called once, by the command
line. A connection's lines begin with its name. Message bodies, property values and credentials are never
logged.
"""

import json
import logging
import sys
import time
from typing import TextIO


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO    broker.daemon.server: text`"""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("leveret.")
        line = f"{_instant(record)} {record.levelname:<7} {name}: {_one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send everything from `level` up to `stream` (stderr), as "text" or "json"."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _instant(record: logging.LogRecord) -> str:
    """UTC, to the millisecond: logs of several machines must sort."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"


def _one_line(text: str) -> str:
    """A peer chooses names and texts: none of them may forge a line of the log."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
