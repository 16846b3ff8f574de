"""The arguments of queue.declare: their checks, in RabbitMQ 3.10's order with its texts, and their meaning.

`parse_queue_arguments` turns a table into `QueueSettings` or raises. Arguments nobody knows are kept with the
queue and ignored; arguments of another queue type are refused. Two go beyond RabbitMQ 3.10:
`x-delivery-limit` is accepted on classic queues too, and `x-consumer-timeout` has a meaning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..vhosts import equivalence
from ..vhosts.terms import quote, show_bare, to_term

EXPIRY_MAX_MS = 315_360_000_000  # ten years
PRIORITY_MAX = 255
DELIVERY_LIMIT_DEFAULT = 20  # of quorum queues, as in RabbitMQ 4
SHARED_SETTINGS_MAX = 128  # remembered, so that the many queues that are declared alike have one

ROUTING_KEY_MAX_BYTES = 255  # a short string on the wire (0-9-1 section 4.2.5.3)

_INTEGER_TYPES = frozenset(
    ("byte", "short", "signedint", "long", "unsignedbyte", "unsignedshort", "unsignedint")
)
_QUEUE_TYPES = ("classic", "quorum", "stream")
_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_LEADER_LOCATORS = ("client-local", "balanced", "random", "least-leaders")
_DLX = "x-dead-letter-exchange"

Arguments = Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the arguments of a queue mean. None: no limit, no such behaviour."""

    message_ttl_ms: int | None = None
    expires_ms: int | None = None
    max_length: int | None = None
    """Ready messages."""
    max_length_bytes: int | None = None
    """Bodies of ready messages."""
    overflow: str = "drop-head"
    """Or `reject-publish`, `reject-publish-dlx`."""
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_priority: int | None = None
    """0..255."""
    single_active_consumer: bool = False
    queue_type: str = "classic"
    """Or `quorum`."""
    delivery_limit: int | None = None
    """As declared; `failures_max` is what it means."""
    consumer_timeout_ms: int | None = None

    @property
    def failures_max(self) -> int | None:
        """How many failed deliveries a message survives; None: any number."""
        limit = self.delivery_limit
        if limit is None and self.queue_type == "quorum":
            limit = DELIVERY_LIMIT_DEFAULT
        return None if limit is not None and limit < 0 else limit


def parse_queue_arguments(
    queue: object, arguments: Arguments, *, durable: bool, exclusive: bool, auto_delete: bool
) -> QueueSettings:
    """Check the declaration of a new queue; `queue` prints as texts name it, `queue 'q' in vhost '/'`."""
    if not arguments:
        return _DEFAULTS  # so say most, and checking that there is nothing takes a fifth of their declare
    if _DLX in arguments and not _is_string(arguments[_DLX]):
        raise SoftError(
            ReplyCode.PRECONDITION_FAILED,
            f"invalid type '{field_type_name(arguments[_DLX])}' for arg '{_DLX}' in {queue}",
        )
    _check_value(queue, "x-queue-type", _queue_type, arguments)
    queue_type = _type_of(arguments)
    if queue_type == "stream":
        raise HardError(ReplyCode.NOT_IMPLEMENTED, "queue type 'stream'")
    own = _OF_TYPE[queue_type]
    for name, check in _CHECKS.items():
        if name in own:
            _check_value(queue, name, check, arguments)
    for name in arguments:
        if name in _ALL and name not in own:
            raise SoftError(
                ReplyCode.PRECONDITION_FAILED,
                f"invalid arg '{name}' for {queue} of queue type rabbit_{queue_type}_queue",
            )
    if queue_type == "quorum":
        _check_quorum_properties(queue, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
    return _shared(_settings(arguments, queue_type))


_DEFAULTS = QueueSettings()


def check_server_named(arguments: Arguments) -> None:
    """The server makes up names for classic queues only."""
    queue_type = _type_of(arguments)
    if queue_type in ("quorum", "stream"):
        raise SoftError(
            ReplyCode.PRECONDITION_FAILED,
            f"Cannot declare a server-named queue for type rabbit_{queue_type}_queue",
        )


def check_equivalent_arguments(queue: object, *, current: Arguments, received: Arguments) -> None:
    """Raises 406 when a queue that exists is declared again with arguments that mean something else."""
    names = _OF_TYPE[_type_of(current)]
    equivalence.check_arguments(queue, names, current=current, received=received)


def _check_quorum_properties(queue: object, *, durable: bool, exclusive: bool, auto_delete: bool) -> None:
    wrong = {"auto-delete": auto_delete, "exclusive-owner": exclusive, "non-durable": not durable}
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, f"invalid property '{name}' for {queue}")


def _settings(arguments: Arguments, queue_type: str) -> QueueSettings:
    overflow = _text(arguments, "x-overflow") or "drop-head"
    if queue_type == "quorum" and overflow == "reject-publish-dlx":
        overflow = "drop-head"  # RabbitMQ logs a warning and takes the default
    return QueueSettings(
        message_ttl_ms=_number(arguments, "x-message-ttl"),
        expires_ms=_number(arguments, "x-expires"),
        max_length=_number(arguments, "x-max-length"),
        max_length_bytes=_number(arguments, "x-max-length-bytes"),
        overflow=overflow,
        dead_letter_exchange=_text(arguments, _DLX),
        dead_letter_routing_key=_text(arguments, "x-dead-letter-routing-key"),
        max_priority=_number(arguments, "x-max-priority"),
        single_active_consumer=arguments.get("x-single-active-consumer") is True,
        queue_type=queue_type,
        delivery_limit=_number(arguments, "x-delivery-limit"),
        consumer_timeout_ms=_number(arguments, "x-consumer-timeout"),
    )


@lru_cache(SHARED_SETTINGS_MAX)
def _shared(settings: QueueSettings) -> QueueSettings:
    """The first of all that are equal."""
    return settings


def _type_of(arguments: Arguments) -> str:
    return _text(arguments, "x-queue-type") or "classic"


def _number(arguments: Arguments, name: str) -> int | None:
    value = arguments.get(name)
    return int(value) if isinstance(value, int) else None


def _text(arguments: Arguments, name: str) -> str | None:
    value = arguments.get(name)
    if isinstance(value, bytes):  # not UTF-8: escaped, as names are everywhere
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else None


# --- checks of single arguments: what is wrong with a value, or None ------------------------------

Check = Callable[[FieldValue, Arguments], str | None]


def _check_value(queue: object, name: str, check: Check, arguments: Arguments) -> None:
    if name in arguments:
        fault = check(arguments[name], arguments)
        if fault is not None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, f"invalid arg '{name}' for {queue}: {fault}")


def _is_string(value: FieldValue) -> bool:
    return field_type_name(value) == "longstr"


def _unacceptable(value: FieldValue) -> str:
    return f"{{unacceptable_type,{field_type_name(value)}}}"


def _integer(value: FieldValue, _arguments: Arguments) -> str | None:
    type_name = field_type_name(value)
    return None if type_name in _INTEGER_TYPES else quote(f"expected integer, got {type_name}")


def _natural(value: FieldValue, arguments: Arguments) -> str | None:
    fault = _integer(value, arguments)
    if fault is None and isinstance(value, int) and value < 0:
        fault = f"{{value_negative,{value}}}"
    return fault


def _positive(value: FieldValue, arguments: Arguments) -> str | None:
    return _natural(value, arguments) or ("{value_zero,0}" if value == 0 else None)


def _at_most(maximum: int, excess: str) -> Check:
    """A natural number up to a maximum."""

    def check(value: FieldValue, arguments: Arguments) -> str | None:
        fault = _natural(value, arguments)
        if fault is None and isinstance(value, int) and value > maximum:
            fault = f"{{{excess},{value}}}"
        return fault

    return check


_ttl = _at_most(EXPIRY_MAX_MS, "value_too_large")


def _expires(value: FieldValue, arguments: Arguments) -> str | None:
    return _positive(value, arguments) or _ttl(value, arguments)


def _boolean(value: FieldValue, _arguments: Arguments) -> str | None:
    return None if isinstance(value, bool) else _unacceptable(value)


def _string(value: FieldValue, _arguments: Arguments) -> str | None:
    return None if _is_string(value) else _unacceptable(value)


def _one_of(words: tuple[str, ...], fault: str) -> Check:
    """`fault` may show the value as `{}`."""

    def check(value: FieldValue, _arguments: Arguments) -> str | None:
        if not _is_string(value):
            return _unacceptable(value)
        return None if value in words else fault.format(show_bare(to_term(value)))

    return check


def _dead_letter_key(value: FieldValue, arguments: Arguments) -> str | None:
    if not _is_string(value):
        return _unacceptable(value)
    if _DLX not in arguments:
        return "routing_key_but_no_dlx_defined"
    key = _text(arguments, "x-dead-letter-routing-key") or ""
    return None if len(key.encode()) <= ROUTING_KEY_MAX_BYTES else "routing_key_too_long"


def _queue_version(value: FieldValue, arguments: Arguments) -> str | None:
    fault = _natural(value, arguments)
    if fault is None and isinstance(value, int) and value not in (1, 2):
        fault = quote(f"unsupported queue version '{value}'")
    return fault


_queue_type = _one_of(_QUEUE_TYPES, "\"unsupported queue type '{}'\"")

_CHECKS: dict[str, Check] = {  # in the order in which RabbitMQ finds faults
    "x-expires": _expires,
    "x-message-ttl": _ttl,
    _DLX: _string,
    "x-dead-letter-routing-key": _dead_letter_key,
    "x-dead-letter-strategy": _one_of(("at-most-once", "at-least-once"), "invalid_dlx_strategy"),
    "x-max-length": _natural,
    "x-max-length-bytes": _natural,
    "x-max-in-memory-length": _natural,
    "x-max-in-memory-bytes": _natural,
    "x-max-priority": _at_most(PRIORITY_MAX, "max_value_exceeded"),
    "x-overflow": _one_of(_OVERFLOWS, "invalid_overflow"),
    "x-queue-mode": _one_of(("default", "lazy"), "\"unsupported queue mode '{}'\""),
    "x-queue-version": _queue_version,
    "x-single-active-consumer": _boolean,
    "x-quorum-initial-group-size": _positive,
    "x-queue-leader-locator": _one_of(_LEADER_LOCATORS, "invalid_queue_locator_arg"),
    "x-delivery-limit": _integer,
    "x-consumer-timeout": _natural,
}

_OF_TYPE: dict[str, tuple[str, ...]] = {  # in the order in which RabbitMQ compares them on a redeclaration
    "classic": (
        "x-expires",
        "x-message-ttl",
        _DLX,
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-master-locator",
        "x-delivery-limit",
        "x-consumer-timeout",
    ),
    "quorum": (
        _DLX,
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-queue-type",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
        "x-consumer-timeout",
    ),
}
_STREAM_ONLY = ("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size")
_ALL = frozenset((*_OF_TYPE["classic"], *_OF_TYPE["quorum"], *_STREAM_ONLY))
