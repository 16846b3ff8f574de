"""What `leveret queues` prints: asks a running broker over HTTP (daemon/queue_list.py is who answers)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from .daemon.config import Config
from .daemon.queue_list import COLUMNS

TIMEOUT_S = 10.0  # until something comes
ANSWER_MAX_BYTES = 1 << 28  # that of a million queues is half as long
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a broker is found that listens on all addresses
NAMES = COLUMNS[:2]  # the other columns are numbers

Row: TypeAlias = Mapping[str, str | int]


class Unavailable(Exception):
    """No broker answers there, or it serves nobody; it may later."""


class WrongAddress(Exception):
    """There is nothing to ask, or what answers there is something else."""


def url_of(config: Config) -> str:
    """Where a broker with this configuration listens for HTTP. Raises WrongAddress if that does not say."""
    if config.http_port == 0:
        raise WrongAddress("http_port is 0, any free one; --url must say which one the broker took")
    host = ANYWHERE.get(config.http_host, config.http_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.http_port}"


def ask(url: str) -> list[Row]:
    """The queues of the broker at this URL, by vhost and name. Raises Unavailable or WrongAddress."""
    if not _is_address(url):
        raise WrongAddress(f"{url!r} is not the URL of a broker's HTTP port, such as http://127.0.0.1:15672")
    try:
        answer = json.loads(_get(url))
        if not isinstance(answer, list):
            raise TypeError
        rows = [{column: row[column] for column in COLUMNS} for row in answer]
        return sorted(rows, key=lambda row: [row[name] for name in NAMES])
    except HTTPError as error:
        with error:
            raise _refusal(url, error) from None
    except (HTTPException, KeyError, TypeError, ValueError):
        raise WrongAddress(f"what answers at {url} is not the HTTP port of Leveret") from None
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise Unavailable(f"no broker answers at {url}: {reason} (--url says where it is)") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _get(url: str) -> bytes:
    """Raises ValueError for an answer that is too long."""
    opener = build_opener(ProxyHandler({}))  # a broker is near: no proxy knows the way to it
    with opener.open(f"{url.rstrip('/')}/queues", timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read(ANSWER_MAX_BYTES + 1)
    if len(content) > ANSWER_MAX_BYTES:
        raise ValueError
    return content


def _refusal(url: str, error: HTTPError) -> Unavailable | WrongAddress:
    if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(f"the broker at {url} is starting or stopping")
    return WrongAddress(f"what answers at {url} is not Leveret: it says {error.code} to /queues")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: the names of the columns, then a queue each."""
    lines = [COLUMNS, *(tuple(_shown(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        columns = zip(COLUMNS, line, widths, strict=True)
        yield "  ".join(
            cell.ljust(width) if column in NAMES else cell.rjust(width) for column, cell, width in columns
        )


def _shown(value: str | int) -> str:
    """In one line and harmless: in a name there may be anything, also what terminals obey."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(value)
    )
