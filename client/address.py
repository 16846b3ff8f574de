"""Where brokers are and who logs in: a `leveret://` URL taken apart.

`leveret://user:password@host:port/vhost?option=value`; `leverets://` is the same over TLS. As in AMQP URLs,
the path is the vhost's name, percent-encoded: an empty path, `/` and `/%2F` all mean the vhost `/`. Several
hosts stand side by side, `leveret://ann:secret@a:5672,b:5673/`: they are tried in turn.

The options are `heartbeat_s`, `timeout_s`, `name` and `reconnect` (`yes` or `no`), as for `connect`, whose
arguments go before them, and `ca_file`: whom to trust over TLS.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import IPv6Address
from typing import Any
from unicodedata import normalize
from urllib.parse import parse_qsl, unquote

DEFAULT_PORTS = {"leveret": 5672, "leverets": 5671}
EXAMPLE = "leveret://user:password@host:5672/vhost"
DEFAULT_USER = "guest"
DEFAULT_PASSWORD = "guest"  # the broker's own default, for this machine only
_NOT_IN_HOST = frozenset("/?#@[] ")
HEARTBEAT_MAX_S = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Address:
    """One host, and what it needs to know of who calls."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool
    ca_file: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says: where to connect to, in turn, and how. None: it does not say."""

    addresses: tuple[Address, ...]
    heartbeat_s: int | None = None
    timeout_s: float | None = None
    name: str | None = None
    reconnect: bool | None = None

    def in_turn(self, first: Address | None) -> Iterable[Address]:
        """All addresses, beginning with this one."""
        start = self.addresses.index(first) if first is not None else 0
        return self.addresses[start:] + self.addresses[:start]


def parse_url(url: str) -> Target:
    """Take a URL apart. Raises ValueError that says what is wrong with it, never showing the password."""
    if not isinstance(url, str):
        raise TypeError(f"the URL is a string, not {type(url).__name__}")
    url = url.strip()  # it may come from a file
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in DEFAULT_PORTS:
        raise ValueError(_wrong_scheme(scheme if separator else ""))
    if "#" in rest:
        raise ValueError("the URL has a '#'; write it as %23 in a password")
    # Not `urlsplit`: some releases of Python refuse several hosts with an IPv6 address among them.
    before_query, _, query = rest.partition("?")
    authority, _, path = before_query.partition("/")
    login, at, hosts = authority.rpartition("@")
    if not at and "@" in rest:  # the rest of a password, which must not be shown
        raise ValueError("the URL has a '/' or '?' in front of its '@'; write %2F and %3F in a password")
    options = _options(query)
    user, colon, password = login.partition(":")
    return Target(
        addresses=tuple(
            Address(
                *_host_and_port(host, DEFAULT_PORTS[scheme]),
                user=unquote(user) if login else DEFAULT_USER,
                password=unquote(password) if colon else DEFAULT_PASSWORD,
                vhost=_vhost(path),
                tls=scheme == "leverets",
                ca_file=options.get("ca_file"),
            )
            for host in hosts.split(",")
        ),
        heartbeat_s=options.get("heartbeat_s"),
        timeout_s=options.get("timeout_s"),
        name=options.get("name"),
        reconnect=options.get("reconnect"),
    )


def _wrong_scheme(scheme: str) -> str:
    if scheme in ("amqp", "amqps"):
        hint = f"the SDK speaks the native protocol, on the same port: write {scheme.replace('amqp', 'leveret')}://"
    elif near := get_close_matches(scheme, DEFAULT_PORTS, n=1):
        hint = f"did you mean {near[0]}://?"
    else:
        hint = f"as in {EXAMPLE}"
    return f"the URL must begin with leveret:// or leverets://; {hint}"


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text, "", ""
    if not text.endswith("]"):  # the end of an IPv6 address
        before, colon, port = text.rpartition(":")
        host = before if colon else text
    if not host:
        raise ValueError(f"the URL names no host, or an empty one; it looks like {EXAMPLE}")
    if host.startswith("[") and host.endswith("]"):
        is_bracketed, host = True, host[1:-1]
        makes_sense = _is_ipv6(host)
    else:
        is_bracketed = False
        looked_up = normalize("NFKC", host)  # some letters become punctuation then
        makes_sense = host.isprintable() and not _NOT_IN_HOST.intersection(looked_up)
        makes_sense = makes_sense and looked_up.count(":") == host.count(":")
    if not makes_sense:
        raise ValueError(f"the URL names no host that makes sense; it looks like {EXAMPLE}")
    if ":" in host and not is_bracketed:
        raise ValueError("the URL's host has several colons; write an IPv6 address in brackets: [::1]:5672")
    if colon and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise ValueError("the URL's port must be a number from 1 to 65535")
    return host.lower(), int(port) if colon else default_port


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _vhost(name: str) -> str:
    if "/" in name:
        raise ValueError(
            f"the URL's path {'/' + name!r} has several parts; write a slash in a vhost name as %2F"
        )
    return unquote(name) or "/"


# The options


def heartbeat(seconds: int) -> int:
    """A heartbeat interval that the protocol can carry."""
    if not isinstance(seconds, int):
        raise TypeError(f"heartbeat_s must be a whole number, not {type(seconds).__name__}")
    if not 0 <= seconds <= HEARTBEAT_MAX_S:
        raise ValueError(f"heartbeat_s must be 0 to {HEARTBEAT_MAX_S}, not {seconds}")
    return seconds


def timeout(seconds: float) -> float:
    """How long an attempt to connect may take."""
    if not isinstance(seconds, float | int):
        raise TypeError(f"timeout_s must be a number of seconds, not {type(seconds).__name__}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"timeout_s must be above 0, not {seconds}")
    return seconds


def _flag(text: str) -> bool:
    return {"yes": True, "no": False}[text]


@dataclass(frozen=True, slots=True)
class _Option:
    read: Callable[[str], object]  # raises ValueError or KeyError
    meaning: str


_OPTIONS = {
    "heartbeat_s": _Option(
        lambda text: heartbeat(int(text)), f"a whole number of seconds, 0 to {HEARTBEAT_MAX_S}"
    ),
    "timeout_s": _Option(lambda text: timeout(float(text)), "a number of seconds above 0"),
    "name": _Option(str, "a text"),
    "reconnect": _Option(_flag, "yes or no"),
    "ca_file": _Option(str, "the path of a file"),
}


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        option = _OPTIONS.get(name)
        if option is None:
            near = get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_OPTIONS)}"
            raise ValueError(f"the URL has an unknown option {name!r}; {hint}")
        if name in options:
            raise ValueError(f"the URL has the option {name!r} twice")
        try:
            options[name] = option.read(text)
        except (ValueError, KeyError):
            raise ValueError(f"the URL's option {name} must be {option.meaning}, not {text!r}") from None
    return options
