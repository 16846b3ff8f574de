"""leveret:// URLs."""

import pytest

from leveret.client.address import Address, parse_url


def only_address(url: str) -> Address:
    [address] = parse_url(url).addresses
    return address


def test_a_full_url() -> None:
    address = only_address("leveret://ann:s%40crt@broker.example:1234/orders")
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
    assert only_address(f"leveret://host{path}").vhost == vhost


def test_what_is_left_out_has_a_default() -> None:
    address = only_address("leveret://host")
    assert (address.user, address.password, address.port) == ("guest", "guest", 5672)


def test_tls_has_its_own_port() -> None:
    address = only_address("leverets://[::1]/")
    assert (address.host, address.port, address.tls) == ("::1", 5671, True)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://host/", "native protocol, on the same port: write leveret://"),
        ("amqps://host/", "write leverets://"),
        ("levert://host/", "did you mean leveret://"),
        ("http://host/", "must begin with leveret:// or leverets://; as in leveret://user:password@host:"),
        ("host:5672", "must begin with leveret://"),
        ("", "must begin with leveret://"),
        ("leveret:///vhost", "names no host"),
        ("leveret://host:port/", "port must be a number"),
        ("leveret://host:0/", "port must be a number"),
        ("leveret://host:65536/", "port must be a number"),
        ("leveret://host/a/b", "write a slash in a vhost name as %2F"),
        ("leveret://a,,b/", "names no host, or an empty one"),
        ("leveret://::1/", "write an IPv6 address in brackets"),
        ("leveret://[::1/", "names no host that makes sense"),
        ("leveret://[]/", "names no host that makes sense"),
        ("leveret://[host]/", "names no host that makes sense"),
        ("leveret://[[::1]]/", "names no host that makes sense"),
        ("leveret://ho st/", "names no host that makes sense"),
        ("leveret://ho\nst/", "names no host that makes sense"),
        ("leveret://h\uff03x/", "names no host that makes sense"),
        ("leveret://h\uff1a1/", "names no host that makes sense"),
        ("leveret://ann:pa?ss@host/", "write %2F and %3F in a password"),
        ("leveret://ann:12/34@host/", "write %2F and %3F in a password"),
        ("leveret://host:٣/", "port must be a number"),
        ("leveret://host/?heartbeat=5", "unknown option 'heartbeat'; did you mean 'heartbeat_s'"),
        (
            "leveret://host/?x=5",
            "unknown option 'x'; there are heartbeat_s, timeout_s, name, reconnect, ca_f",
        ),
        ("leveret://host/?name=a&name=b", "option 'name' twice"),
        (
            "leveret://host/?heartbeat_s=1.5",
            "heartbeat_s must be a whole number of seconds, 0 to 65535, not '1.5'",
        ),
        ("leveret://host/?heartbeat_s=65536", "heartbeat_s must be"),
        ("leveret://host/?timeout_s=0", "timeout_s must be a number of seconds above 0, not '0'"),
        ("leveret://host/?timeout_s=nan", "timeout_s must be"),
        ("leveret://host/?reconnect=maybe", "reconnect must be yes or no, not 'maybe'"),
        ("leveret://host/#x", "write it as %23"),
    ],
)
def test_a_bad_url_says_what_is_wrong(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_url(url)


def test_several_hosts_share_the_rest() -> None:
    target = parse_url("leveret://ann:pw@a:1,b,[::1]:3/orders")
    assert [str(address) for address in target.addresses] == ["a:1", "b:5672", "::1:3"]
    assert {(address.user, address.password, address.vhost) for address in target.addresses} == {
        ("ann", "pw", "orders")
    }
    first, second, third = target.addresses
    assert list(target.in_turn(None)) == [first, second, third]
    assert list(target.in_turn(second)) == [second, third, first]


def test_options() -> None:
    url = "leverets://host/?heartbeat_s=5&timeout_s=1.5&name=worker%201&reconnect=no&ca_file=/ca.pem"
    target = parse_url(url)
    assert (target.heartbeat_s, target.timeout_s, target.name, target.reconnect) == (
        5,
        1.5,
        "worker 1",
        False,
    )
    assert target.addresses[0].ca_file == "/ca.pem"
    bare = parse_url("leveret://host/")
    assert (bare.heartbeat_s, bare.timeout_s, bare.name, bare.reconnect) == (None, None, None, None)


def test_the_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_url("leveret://ann:secret@host"))
    with pytest.raises(ValueError, match="port") as caught:
        parse_url("leveret://ann:secret@host:99999")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["leveret://ann:a/secret@host/v", "leveret://ann:a?secret@host/v"])
def test_nor_what_is_left_of_one_that_was_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="in front of its '@'") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_a_line_of_a_file_is_a_url() -> None:
    (address,) = parse_url("leveret://host/orders\n").addresses
    assert (address.host, address.vhost) == ("host", "orders")


def test_a_url_is_a_string() -> None:
    with pytest.raises(TypeError, match="the URL is a string, not NoneType"):
        parse_url(None)  # type: ignore[arg-type]  # the mistake
