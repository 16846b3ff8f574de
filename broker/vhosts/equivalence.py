"""Declaring again what exists: properties and known arguments must mean the same (0-9-1 section 1.7.2.1).

Raises 406 with RabbitMQ's texts; clients parse them.
"""

from collections.abc import Iterable, Mapping

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from .terms import UNDEFINED, Term, show_bare, to_term


def check_field(resource: object, field: str, *, current: bool | str, received: bool | str) -> None:
    """`resource` prints as texts name it: `queue 'q' in vhost '/'`."""
    if received != current:
        raise _inequivalent(resource, field, _bare(to_term(received)), _bare(to_term(current)))


def check_arguments(
    resource: object,
    names: Iterable[str],
    *,
    current: Mapping[str, FieldValue],
    received: Mapping[str, FieldValue],
) -> None:
    """Compare the arguments of these names, in this order; others do not matter."""
    for name in names:
        if name in current and name in received:
            _check_values(resource, name, current[name], received[name])
        elif name in current or name in received:
            _check_absence(resource, name, current, received)


def _check_values(resource: object, name: str, current: FieldValue, received: FieldValue) -> None:
    """Integers of all widths compare by value; an integer never equals a float."""
    now, then = to_term(received), to_term(current)
    if type(now) is not type(then) or now != then:
        raise _inequivalent(resource, name, _bare(now), _bare(then))


def _check_absence(
    resource: object, name: str, current: Mapping[str, FieldValue], received: Mapping[str, FieldValue]
) -> None:
    """Only one side has the argument."""
    if name == "x-queue-type" and "classic" in (current.get(name), received.get(name)):
        return  # the default, said aloud
    raise _inequivalent(resource, name, _typed(received, name), _typed(current, name))


def _inequivalent(resource: object, name: str, received: str, current: str) -> SoftError:
    return SoftError(
        ReplyCode.PRECONDITION_FAILED,
        f"inequivalent arg '{name}' for {resource}: received {received} but current is {current}",
    )


def _typed(arguments: Mapping[str, FieldValue], name: str) -> str:
    if name not in arguments:
        return "none"
    value = arguments[name]
    return f"the value '{show_bare(to_term(value))}' of type '{field_type_name(value)}'"


def _bare(term: Term) -> str:
    return "none" if term is UNDEFINED else f"'{show_bare(term)}'"
