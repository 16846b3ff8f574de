"""Who may log in: SASL mechanisms, users and passwords.

A password is kept as RabbitMQ keeps it, base64(salt ++ SHA-256(salt ++ password)), and not as a slow hash
such as scrypt. Checking it takes microseconds, so neither a login flood nor ten thousand clients that
reconnect at once can stall the one thread that everything runs on; and hashes can move between the two
brokers as they are. The price: whoever steals the hashes can guess fast, so passwords should be long and
random, as those of services are.

Why a login failed is in the log; the peer only learns that it did.
"""

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from leveret.protocol.amqp.field_table import decode_table
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

MECHANISMS = "PLAIN AMQPLAIN"
"""What connection.start offers. py-amqp prefers AMQPLAIN, everybody else PLAIN."""

SALT_BYTES = 4  # RabbitMQ's
NAME_SHOWN_MAX = 64  # characters of a refused name in the log: it is the peer's text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in."""

    name: str
    password_hash: str = field(repr=False)
    tags: frozenset[str] = frozenset()


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Hash with RabbitMQ's `rabbit_password_hashing_sha256`, under a new salt if none is given."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def is_password(password: str, password_hash: str) -> bool:
    """Compare in constant time."""
    salt = base64.b64decode(password_hash)[:SALT_BYTES]
    return hmac.compare_digest(hash_password(password, salt), password_hash)


class Authenticator:
    """Checks credentials. One per broker."""

    def __init__(self, users: Iterable[User], loopback_users: Iterable[str]) -> None:
        """`loopback_users` may log in from this machine only."""
        self._users = {user.name: user for user in users}
        self._loopback_users = frozenset(loopback_users)
        self._nobody = User(
            "", hash_password(secrets.token_urlsafe())
        )  # so that an unknown name takes as long

    def authenticate(self, mechanism: str, response: bytes, peer_is_loopback: bool) -> User:
        """Log in with the response of connection.start-ok.

        Raises:
            HardError: 403 wrong credentials, 502 a malformed response, 503 an unknown mechanism.
        """
        if mechanism == "PLAIN":
            name, password = _read_plain(response)
        elif mechanism == "AMQPLAIN":
            name, password = _read_amqplain(response)
        else:
            raise HardError(ReplyCode.COMMAND_INVALID, f"unknown authentication mechanism '{mechanism}'")
        user = self._users.get(name, self._nobody)
        if not is_password(password, user.password_hash):
            raise _refusal(mechanism, name, "wrong name or password")
        if name in self._loopback_users and not peer_is_loopback:
            raise _refusal(mechanism, name, "it may log in from this machine only (option loopback_users)")
        return user


def _read_plain(response: bytes) -> tuple[str, str]:
    """RFC 4616: authorization identity NUL authentication identity NUL password, all UTF-8."""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise _malformed("PLAIN", "it must have three parts")
    try:
        acts_as, name, password = (part.decode() for part in parts)
    except UnicodeDecodeError:
        raise _malformed("PLAIN", "it must be UTF-8") from None
    if not name:
        raise _malformed("PLAIN", "the name is empty")
    if acts_as not in ("", name):
        raise _refusal("PLAIN", name, "nobody may act as somebody else")
    return name, password


def _read_amqplain(response: bytes) -> tuple[str, str]:
    """A field table without its length, holding LOGIN and PASSWORD; RabbitMQ's own mechanism, py-amqp's first
    choice."""
    table = decode_table(len(response).to_bytes(4, "big") + response)
    name, password = table.get("LOGIN"), table.get("PASSWORD")
    if not isinstance(name, str) or not isinstance(password, str) or not name:
        raise _malformed("AMQPLAIN", "LOGIN and PASSWORD must be long strings of UTF-8")
    return name, password


def _malformed(mechanism: str, why: str) -> HardError:
    return HardError(ReplyCode.SYNTAX_ERROR, f"the response for mechanism {mechanism} is malformed: {why}")


def _refusal(mechanism: str, name: str, why: str) -> HardError:
    log.warning("login of %r refused: %s", name[:NAME_SHOWN_MAX], why)
    return HardError(
        ReplyCode.ACCESS_REFUSED,
        f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.",
    )
