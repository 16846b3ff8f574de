"""Which errors are worth another try: transient ones pass by themselves, permanent ones never do.

A service that does not answer will answer later; an order without a customer will never have one. Trying the
second again wastes time and hides it among the others, so `retry` sends permanent failures to the dead
letters at once:

    failures = Failures()
    failures.permanent(InvoiceError)                       # by type
    failures.register(HTTPError, by_status)                # or by what is in the error

    @failures.permanent                                    # or where the error is defined
    class UnknownCustomer(Exception): ...

    def by_status(error: HTTPError) -> Failure:
        return Failure.PERMANENT if 400 <= error.status < 500 and error.status != 429 else Failure.TRANSIENT

The rule of the most specific class counts, as in an `except` that is written in the right order. An error
that no rule knows is transient: one try too many does less harm than a message given up too early.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class Failure(StrEnum):
    """What kind of failure an error is."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"


class TransientError(Exception):
    """Raise it, or derive from it, to say: try again later."""


class PermanentError(Exception):
    """Raise it, or derive from it, to say: trying again is of no use."""


class Postponed(Exception):
    """Nothing was tried; come back after so many seconds. It does not count as an attempt.

    Such as an open circuit breaker, or a service that answers 429 with Retry-After.
    """

    def __init__(self, text: str, *, retry_after_s: float) -> None:
        if not (math.isfinite(retry_after_s) and retry_after_s >= 0):
            raise ValueError(f"retry_after_s is a number of seconds from 0 on, not {retry_after_s}")
        super().__init__(text)
        self.retry_after_s = retry_after_s


# What comes of wrong input or a wrong program. OSError (so TimeoutError, ConnectionError) is not among them.
PERMANENT_BY_DEFAULT = (
    PermanentError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,  # UnicodeError and json.JSONDecodeError, too
)

Rule = Failure | Callable[[Any], Failure]


class Failures:
    """A table of error classes. See the module's docstring."""

    def __init__(self, *, otherwise: Failure = Failure.TRANSIENT) -> None:
        self._otherwise = otherwise
        self._rules: dict[type[BaseException], Rule] = dict.fromkeys(PERMANENT_BY_DEFAULT, Failure.PERMANENT)
        self._rules[TransientError] = Failure.TRANSIENT

    def register(self, error: type[E], rule: Failure | Callable[[E], Failure]) -> None:
        """Say what errors of this class (and of classes derived from it) are, in place of what was said."""
        if not (isinstance(error, type) and issubclass(error, BaseException)):
            raise TypeError(f"register takes an exception class, not {error!r}")
        self._rules[error] = rule

    def transient(self, error: type[E]) -> type[E]:
        """Register a class as transient; also a class decorator."""
        self.register(error, Failure.TRANSIENT)
        return error

    def permanent(self, error: type[E]) -> type[E]:
        """Register a class as permanent; also a class decorator."""
        self.register(error, Failure.PERMANENT)
        return error

    def classify(self, error: BaseException) -> Failure:
        """A group of errors is permanent when one of them is: the others passing would not help."""
        if isinstance(error, BaseExceptionGroup):
            kinds = {self.classify(one) for one in error.exceptions}
            return Failure.PERMANENT if Failure.PERMANENT in kinds else Failure.TRANSIENT
        for class_ in type(error).__mro__:
            rule = self._rules.get(class_)
            if rule is not None:
                return rule if isinstance(rule, Failure) else rule(error)
        return self._otherwise
