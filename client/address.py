"""Where a broker is and who logs in: a `leveret://` URL taken apart.

`leveret://user:password@host:port/vhost`; `leverets://` is the same over TLS. As in AMQP URLs, the path is
the vhost's name, percent-encoded: an empty path, `/` and `/%2F` all mean the vhost `/`.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

DEFAULT_PORTS = {"leveret": 5672, "leverets": 5671}
EXAMPLE = "leveret://user:password@host:5672/vhost"
DEFAULT_USER = "guest"
DEFAULT_PASSWORD = "guest"  # the broker's own default, for this machine only


@dataclass(frozen=True, slots=True)
class Address:
    """What `connect` needs to know."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Take a URL apart. Raises ValueError that says what is wrong with it, never showing the password."""
    if not isinstance(url, str):
        raise TypeError(f"the URL is a string, not {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"the URL must begin with leveret:// or leverets://, as in {EXAMPLE}")
    if not parts.hostname:
        raise ValueError(f"the URL names no host; it looks like {EXAMPLE}")
    if parts.query or parts.fragment:
        raise ValueError("the URL has a query or fragment; options are arguments of connect()")
    return Address(
        host=parts.hostname,
        port=_port(parts),
        user=DEFAULT_USER if parts.username is None else unquote(parts.username),
        password=DEFAULT_PASSWORD if parts.password is None else unquote(parts.password),
        vhost=_vhost(parts.path),
        tls=parts.scheme == "leverets",
    )


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the URL's port must be a number from 1 to 65535") from None
    if port == 0:
        raise ValueError("the URL's port must be a number from 1 to 65535")
    return DEFAULT_PORTS[parts.scheme] if port is None else port


def _vhost(path: str) -> str:
    name = path.removeprefix("/")
    if "/" in name:
        raise ValueError(f"the URL's path {path!r} has several parts; write a slash in a vhost name as %2F")
    return unquote(name) or "/"
