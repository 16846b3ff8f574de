"""Which errors are tried again."""

import asyncio
import json

import pytest

from leveret import ConnectionLost
from leveret.patterns.failures import Failure, Failures, PermanentError, Postponed, TransientError

TRANSIENT, PERMANENT = Failure.TRANSIENT, Failure.PERMANENT


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TransientError(), TRANSIENT),
        (PermanentError(), PERMANENT),
        (TimeoutError(), TRANSIENT),
        (ConnectionResetError(), TRANSIENT),
        (ConnectionLost("gone"), TRANSIENT),
        (asyncio.IncompleteReadError(b"", 1), TRANSIENT),
        (json.JSONDecodeError("no", "x", 0), PERMANENT),
        (KeyError("customer"), PERMANENT),
        (TypeError(), PERMANENT),
        (ZeroDivisionError(), PERMANENT),
        (Exception("nobody knows"), TRANSIENT),
        (ExceptionGroup("both pass", [TimeoutError(), OSError()]), TRANSIENT),
        (ExceptionGroup("one stays", [TimeoutError(), ExceptionGroup("in", [ValueError()])]), PERMANENT),
    ],
)
def test_what_is_known_from_the_start(error: Exception, failure: Failure) -> None:
    assert Failures().classify(error) is failure


def test_the_most_specific_class_counts_whatever_was_said_first() -> None:
    failures = Failures()
    failures.transient(UnicodeDecodeError)
    failures.permanent(OSError)
    failures.transient(ConnectionError)
    failures.permanent(ConnectionRefusedError)
    assert failures.classify(UnicodeDecodeError("utf-8", b"", 0, 1, "")) is TRANSIENT
    assert failures.classify(UnicodeEncodeError("utf-8", "", 0, 1, "")) is PERMANENT
    assert failures.classify(FileNotFoundError()) is PERMANENT
    assert failures.classify(ConnectionResetError()) is TRANSIENT
    assert failures.classify(ConnectionRefusedError()) is PERMANENT


def test_the_last_word_about_a_class_counts() -> None:
    failures = Failures()
    failures.transient(ValueError)
    assert failures.classify(ValueError()) is TRANSIENT
    failures.permanent(ValueError)
    assert failures.classify(ValueError()) is PERMANENT


def test_a_rule_may_look_into_the_error() -> None:
    failures = Failures()
    failures.register(HttpError, lambda error: PERMANENT if error.status == 404 else TRANSIENT)
    assert failures.classify(HttpError(404)) is PERMANENT
    assert failures.classify(HttpError(503)) is TRANSIENT


def test_as_a_class_decorator() -> None:
    failures = Failures()

    @failures.permanent
    class UnknownCustomer(Exception):
        pass

    assert failures.classify(UnknownCustomer()) is PERMANENT


def test_unknown_errors_as_one_likes() -> None:
    assert Failures(otherwise=PERMANENT).classify(Exception()) is PERMANENT


def test_one_table_knows_nothing_of_another() -> None:
    Failures().permanent(TimeoutError)
    assert Failures().classify(TimeoutError()) is TRANSIENT


def test_wrong_use() -> None:
    with pytest.raises(TypeError, match="takes an exception class"):
        Failures().permanent(ValueError("an instance"))  # type: ignore[type-var]  # that is the point
    for wait_s in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="retry_after_s"):
            Postponed("later", retry_after_s=wait_s)
