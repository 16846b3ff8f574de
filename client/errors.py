"""What can go wrong for a user of the SDK. Everything raised on purpose derives from `LeveretError`.

- `LeveretError`
    - `BrokerError`: the broker refused an operation; carries `reply_code`, `reply_text`, `operation`
        - `NotFound` 404, `AccessRefused` 403, `ResourceLocked` 405, `PreconditionFailed` 406,
          `NotAllowed` 530, `NotSupported` 540
        - `Nacked` 506: a queue refused a published message
    - `Unroutable`: a mandatory message reached no queue
    - `PublishTimeout`: the time for a publish was over; it is a `TimeoutError`, too
        - `Blocked`: and the reason is that the broker is short of memory or disk
    - `PublishFailed`: some messages of `publish_many` failed; an ExceptionGroup of what each one raised
    - `ConsumerCancelled`: the broker ended a consumer, for example because its queue was deleted
    - `ChannelClosed`: the channel is closed
    - `ConnectionLost`: the connection is closed, or broken and not restored
    - `AuthenticationFailed`: wrong user or password
    - `QueueEmpty`: `Queue.get` found nothing
    - `AlreadySettled`: the message was acked, nacked or rejected before
    - `DeliveryLost`: the message came over a connection that broke since; the broker delivers it again
    - `Undecodable`: a body is not what its content type says, or nobody knows how to decode that type
    - `WrongLoop`: something of a connection was used in another event loop than the connection's

Whatever a publish raises carries what was published as `message`; when it was one of several in a
transaction, the errors of those after it are in `others`. Wrong arguments raise `ValueError` or `TypeError`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from leveret.protocol.reply_codes import ReplyCode

if TYPE_CHECKING:
    from .message import Message


class LeveretError(Exception):
    """The base of all errors of this SDK."""

    message: "Message | None" = None
    """What was published, when it was a publish that failed."""

    others: "Sequence[LeveretError]" = ()
    """When a publish in a transaction failed: the errors of those after it in the same one."""


class BrokerError(LeveretError):
    """The broker answered an operation with an error. The channel stays usable."""

    def __init__(self, reply_code: int, reply_text: str, operation: str) -> None:
        super().__init__(f"{operation}: {reply_code} {reply_text}")
        self.reply_code = reply_code
        self.reply_text = reply_text
        self.operation = operation  # what failed, such as "queue_declare"


class NotFound(BrokerError):
    """404: there is no such queue or exchange."""


class AccessRefused(BrokerError):
    """403: not permitted, or a reserved name."""


class ResourceLocked(BrokerError):
    """405: the queue belongs to another connection exclusively."""


class PreconditionFailed(BrokerError):
    """406: it exists with other arguments, or an argument makes no sense."""


class NotAllowed(BrokerError):
    """530: such as a vhost that does not exist, or a limit that is reached."""


class NotSupported(BrokerError):
    """540: the broker does not do this."""


class Nacked(BrokerError):
    """506: a queue refused the published message (it is full and has `x-overflow: reject-publish`)."""

    message: "Message"


class Unroutable(LeveretError):
    """A message that was published as mandatory reached no queue."""

    message: "Message"

    def __init__(self, message: "Message", exchange: str, routing_key: str) -> None:
        where = f"no queue is bound to exchange '{exchange}' for routing key '{routing_key}': bind one"
        if not exchange:  # the default one, where each queue is bound by its name
            where = f"there is no queue '{routing_key}': declare it first"
        super().__init__(f"{where}, or publish with mandatory=False when that is no error")
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key


class PublishTimeout(LeveretError, TimeoutError):
    """A publish was not confirmed in its time.

    `was_sent` says whether it had left: if not, it never will. If so, it may have arrived or may yet arrive,
    and publishing it again may double it.
    """

    message: "Message"

    def __init__(self, message: "Message", timeout_s: float, *, was_sent: bool = True, why: str = "") -> None:
        super().__init__(f"no confirm within {timeout_s:g} s{': ' if why else ''}{why}")
        self.message = message
        self.timeout_s = timeout_s
        self.was_sent = was_sent


class Blocked(PublishTimeout):
    """A publish was not sent, or not confirmed, in its time, for the broker has blocked publishers."""

    def __init__(self, message: "Message", reason: str, timeout_s: float, *, was_sent: bool = True) -> None:
        why = f"the broker is {reason} and blocks publishers"
        super().__init__(message, timeout_s, was_sent=was_sent, why=why)
        self.reason = reason


class PublishFailed(ExceptionGroup[LeveretError], LeveretError):  # type: ignore[misc]  # see `message`
    """Some messages of `publish_many` failed; all the others are confirmed.

    `exceptions` has an error for each that failed, and each error has its `message`; `messages` has those
    alone. As with any ExceptionGroup, `except* Unroutable` picks the errors of one kind, and its own
    `message` is its text.
    """

    def __new__(cls, text: str, errors: Sequence[LeveretError]) -> Self:
        return super().__new__(cls, text, errors)

    @property
    def messages(self) -> "list[Message]":
        """What failed."""
        errors = [error for error in self.exceptions if isinstance(error, LeveretError)]
        return [error.message for error in errors if error.message is not None]

    def derive(self, errors: Sequence[LeveretError]) -> "PublishFailed":  # type: ignore[override]  # of our errors only
        """What `except*` makes of it."""
        return PublishFailed(self.args[0], errors)


class ConsumerCancelled(LeveretError):
    """The broker ended the consumer: its queue was deleted. Declare the queue and consume again."""


class ChannelClosed(LeveretError):
    """The channel is closed; open another one with `connection.channel()`."""


class ConnectionLost(LeveretError):
    """The connection is closed, or broken and not to be restored: reconnecting is off or was given up.

    What was published and not confirmed may have arrived or not.
    """


class AuthenticationFailed(LeveretError):
    """The broker did not accept user and password."""


class QueueEmpty(LeveretError):
    """`Queue.get` found nothing; with `fail=False` it returns None instead."""


class AlreadySettled(LeveretError):
    """The message was acked, nacked or rejected before; that can be done once."""


class DeliveryLost(LeveretError):
    """The message came before a reconnect: it cannot be settled any more, for the broker has taken it back.

    It is delivered again, with `redelivered`. What a handler did for it may thus be done twice: see to it
    that this does no harm. `message.process()` and handlers log this error and go on.
    """


class Undecodable(LeveretError, ValueError):
    """`message.decode()` failed: the body is not what its content type says, or the type is unknown.

    Trying again will not help: reject such a message.
    """


class WrongLoop(LeveretError, RuntimeError):
    """A connection, and all that comes from it, is used in the event loop that it was opened in, only.

    From a thread, use `asyncio.run_coroutine_threadsafe`, or `leveret.sync`.
    """


_BY_CODE: dict[int, type[BrokerError]] = {
    ReplyCode.ACCESS_REFUSED: AccessRefused,
    ReplyCode.NOT_FOUND: NotFound,
    ReplyCode.RESOURCE_LOCKED: ResourceLocked,
    ReplyCode.PRECONDITION_FAILED: PreconditionFailed,
    ReplyCode.NOT_ALLOWED: NotAllowed,
    ReplyCode.NOT_IMPLEMENTED: NotSupported,
}


def broker_error(reply_code: int, reply_text: str, operation: str) -> BrokerError:
    """The error of the class that belongs to a reply code."""
    return _BY_CODE.get(reply_code, BrokerError)(reply_code, reply_text, operation)
