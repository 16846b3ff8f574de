"""What a publish may not say: checks on its properties that do not depend on where it goes."""

import re

from leveret.protocol.amqp.properties import PropertyFacts
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..auth import User

EXPIRATION_MAX_MS = 315_360_000_000  # ten years, RabbitMQ's limit

_INTEGER = re.compile(r"[+-]?[0-9]+")


def check_publish(facts: PropertyFacts, user: User) -> None:
    """Raises 406 for a user-id that is somebody else's and for an expiration that is no TTL."""
    if facts.user_id is not None and facts.user_id != user.name and "impersonator" not in user.tags:
        raise SoftError(
            ReplyCode.PRECONDITION_FAILED,
            f"user_id property set to '{facts.user_id}' but authenticated user was '{user.name}'",
        )
    if facts.expiration is not None:
        _check_expiration(facts.expiration)


def _check_expiration(expiration: str) -> None:
    match = _INTEGER.match(expiration)
    if match is None:
        reason = "no_integer"
    elif match.end() < len(expiration):
        reason = f'{{leftover_string,"{expiration[match.end() :]}"}}'
    elif int(expiration) < 0:
        reason = f"{{value_negative,{int(expiration)}}}"
    elif int(expiration) > EXPIRATION_MAX_MS:
        reason = f"{{value_too_large,{int(expiration)}}}"
    else:
        return
    raise SoftError(ReplyCode.PRECONDITION_FAILED, f"invalid expiration '{expiration}': {reason}")
