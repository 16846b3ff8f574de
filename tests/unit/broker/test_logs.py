"""Log lines: what they show of a connection, and that no peer can forge one."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from leveret.broker.daemon import logs

Configure = Callable[[str, str], io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configure logging to a buffer; afterwards the root logger is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def to_buffer(log_level: str, style: str) -> io.StringIO:
        root.handlers = []  # pytest's own must not be closed by `force`
        stream = io.StringIO()
        logs.configure(log_level, style, stream)
        return stream

    yield to_buffer
    root.handlers = handlers
    root.setLevel(level)


def test_a_line_has_time_level_module_and_text(configure: Configure) -> None:
    stream = configure("info", "text")
    logging.getLogger("leveret.broker.daemon.server").info("ready on %s", "port")
    time, rest = stream.getvalue().split(" ", 1)
    assert rest == "INFO    broker.daemon.server: ready on port\n"
    assert time.endswith("Z")


def test_less_urgent_events_are_left_out(configure: Configure) -> None:
    stream = configure("warning", "text")
    logging.getLogger("leveret.x").info("not this")
    logging.getLogger("leveret.x").warning("this")
    assert "not this" not in stream.getvalue()
    assert "this" in stream.getvalue()


def test_a_peer_cannot_forge_a_line(configure: Configure) -> None:
    stream = configure("info", "text")
    logging.getLogger("leveret.x").info("queue %s", "a\r\nb\x1b[31m")
    assert len(stream.getvalue().splitlines()) == 1
    assert r"a\r\nb\x1b[31m" in stream.getvalue()


def test_an_exception_is_shown_below_its_line(configure: Configure) -> None:
    stream = configure("info", "text")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("leveret.x").exception("failed")
    assert "ValueError: broken" in stream.getvalue()


def test_json_has_one_object_per_line(configure: Configure) -> None:
    stream = configure("info", "json")
    logging.getLogger("leveret.x").warning("a\nb")
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {"level": "warning", "logger": "leveret.x", "message": "a\nb"}
