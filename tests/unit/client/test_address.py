"""leveret:// URLs."""

import pytest

from leveret.client.address import parse_url


def test_a_full_url() -> None:
    address = parse_url("leveret://ann:s%40crt@broker.example:1234/orders")
    assert (address.host, address.port, address.user, address.password, address.vhost, address.tls) == (
        "broker.example",
        1234,
        "ann",
        "s@crt",
        "orders",
        False,
    )


@pytest.mark.parametrize(
    ("path", "vhost"),
    [
        ("", "/"),
        ("/", "/"),
        ("/%2F", "/"),
        ("/%2f", "/"),
        ("/name", "name"),
        ("/a%2Fb", "a/b"),
        ("/%20", " "),
    ],
)
def test_the_path_is_the_vhost(path: str, vhost: str) -> None:
    assert parse_url(f"leveret://host{path}").vhost == vhost


def test_what_is_left_out_has_a_default() -> None:
    address = parse_url("leveret://host")
    assert (address.user, address.password, address.port) == ("guest", "guest", 5672)


def test_tls_has_its_own_port() -> None:
    address = parse_url("leverets://[::1]/")
    assert (address.host, address.port, address.tls) == ("::1", 5671, True)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://host/", "must begin with leveret:// or leverets://, as in leveret://user:password@host:"),
        ("host:5672", "must begin with leveret://"),
        ("", "must begin with leveret://"),
        ("leveret:///vhost", "names no host"),
        ("leveret://host:port/", "port must be a number"),
        ("leveret://host:0/", "port must be a number"),
        ("leveret://host:65536/", "port must be a number"),
        ("leveret://host/a/b", "write a slash in a vhost name as %2F"),
        ("leveret://host/?heartbeat=5", "options are arguments of connect"),
        ("leveret://host/#x", "options are arguments of connect"),
    ],
)
def test_a_bad_url_says_what_is_wrong(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_url(url)


def test_the_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_url("leveret://ann:secret@host"))
    with pytest.raises(ValueError, match="port") as caught:
        parse_url("leveret://ann:secret@host:99999")
    assert "secret" not in str(caught.value)


def test_a_url_is_a_string() -> None:
    with pytest.raises(TypeError, match="the URL is a string, not NoneType"):
        parse_url(None)  # type: ignore[arg-type]  # the mistake
