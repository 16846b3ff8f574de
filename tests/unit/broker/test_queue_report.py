"""`leveret queues`, without a broker: where it asks, what it prints, and which URLs it refuses."""

import pytest

from leveret.broker.daemon.config import Config
from leveret.broker.queue_report import Row, WrongAddress, ask, table, url_of


def row(name: str, ready: int = 0, vhost: str = "/") -> Row:
    return {"vhost": vhost, "name": name, "ready": ready, "unacked": 2, "consumers": 3}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:99"),
        ("broker.example", "http://broker.example:99"),
        ("0.0.0.0", "http://127.0.0.1:99"),
        ("::", "http://[::1]:99"),
        ("fe80::1", "http://[fe80::1]:99"),
    ],
)
def test_it_asks_where_the_broker_listens(host: str, url: str) -> None:
    assert url_of(Config(http_host=host, http_port=99)) == url


def test_a_port_that_the_broker_chose_must_be_said() -> None:
    with pytest.raises(WrongAddress, match=r"http_port is 0.*--url"):
        url_of(Config(http_port=0))


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:15672", "localhost", "file:///etc", "amqp://localhost", "http://", "http://h:x", "http://["],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(WrongAddress, match="is not the URL of a broker's HTTP port"):
        ask(url)


def test_the_table_has_a_line_per_queue_and_straight_columns() -> None:
    assert list(table([row("jobs", 12345), row("a-longer-name", vhost="other")])) == [
        "vhost  name           ready  unacked  consumers",
        "/      jobs           12345        2          3",
        "other  a-longer-name      0        2          3",
    ]


def test_without_queues_there_are_the_names_of_the_columns() -> None:
    assert list(table([])) == ["vhost  name  ready  unacked  consumers"]


def test_a_name_can_neither_end_its_line_nor_command_a_terminal() -> None:
    _, line = table([row("a\nb\x1b[2J\udc80é")])
    assert line.split()[1] == r"a\nb\x1b[2J\udc80é"
