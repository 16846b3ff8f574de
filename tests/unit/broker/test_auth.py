"""Logging in: the SASL mechanisms' formats, and whom they let in."""

import logging

import pytest

from leveret.broker.auth import Authenticator, User, hash_password, is_password
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

REFUSED = "Login was refused using authentication mechanism {}. For details see the broker logfile."


@pytest.fixture
def authenticator() -> Authenticator:
    users = [
        User("guest", hash_password("guest"), frozenset({"administrator"})),
        User("jo", hash_password("pässword")),
    ]
    return Authenticator(users, ["guest"])


def long_string(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + b"S" + len(value).to_bytes(4, "big") + value


def failure(
    authenticator: Authenticator, mechanism: str, response: bytes, loopback: bool = True
) -> HardError:
    with pytest.raises(HardError) as caught:
        authenticator.authenticate(mechanism, response, loopback)
    return caught.value


@pytest.mark.parametrize("response", [b"\0guest\0guest", b"guest\0guest\0guest"])
def test_plain_lets_in(authenticator: Authenticator, response: bytes) -> None:
    user = authenticator.authenticate("PLAIN", response, True)
    assert (user.name, user.tags) == ("guest", {"administrator"})


def test_plain_passwords_are_utf8(authenticator: Authenticator) -> None:
    assert authenticator.authenticate("PLAIN", b"\0jo\0" + "pässword".encode(), False).name == "jo"


def test_amqplain_lets_in(authenticator: Authenticator) -> None:
    response = long_string(b"LOGIN", b"guest") + long_string(b"PASSWORD", b"guest")
    assert authenticator.authenticate("AMQPLAIN", response, True).name == "guest"


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0guest\0wrong"),
        ("PLAIN", b"\0guest\0"),
        ("PLAIN", b"\0nobody\0guest"),
        ("PLAIN", b"jo\0guest\0guest"),
        ("AMQPLAIN", long_string(b"LOGIN", b"guest") + long_string(b"PASSWORD", b"wrong")),
    ],
)
def test_wrong_credentials_are_refused_with_the_references_text(
    authenticator: Authenticator, mechanism: str, response: bytes
) -> None:
    error = failure(authenticator, mechanism, response)
    assert error.reply_code is ReplyCode.ACCESS_REFUSED
    assert error.reply_text == "ACCESS_REFUSED - " + REFUSED.format(mechanism)


def test_a_loopback_user_is_refused_from_elsewhere_only(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        error = failure(authenticator, "PLAIN", b"\0guest\0guest", loopback=False)
    assert error.reply_code is ReplyCode.ACCESS_REFUSED
    assert "loopback_users" in caplog.text
    assert "loopback_users" not in error.reply_text


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b""),
        ("PLAIN", b"guest\0guest"),
        ("PLAIN", b"\0guest\0guest\0"),
        ("PLAIN", b"\0\0guest"),
        ("PLAIN", b"\0guest\0\xff"),
        ("AMQPLAIN", b""),
        ("AMQPLAIN", b"\x05LOGINS\x00"),
        ("AMQPLAIN", long_string(b"LOGIN", b"guest")),
        ("AMQPLAIN", b"\x05LOGINt\x01" + long_string(b"PASSWORD", b"guest")),
    ],
)
def test_a_malformed_response_is_a_syntax_error(
    authenticator: Authenticator, mechanism: str, response: bytes
) -> None:
    assert failure(authenticator, mechanism, response).reply_code is ReplyCode.SYNTAX_ERROR


@pytest.mark.parametrize("mechanism", ["EXTERNAL", "ANONYMOUS", "plain", ""])
def test_a_mechanism_that_was_not_offered_is_refused(authenticator: Authenticator, mechanism: str) -> None:
    error = failure(authenticator, mechanism, b"\0guest\0guest")
    assert error.reply_code is ReplyCode.COMMAND_INVALID
    assert error.explanation == f"unknown authentication mechanism '{mechanism}'"


def test_the_log_says_who_was_refused_but_no_password(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    failure(authenticator, "PLAIN", b"\0mallory\0hunter2")
    assert "mallory" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_hash_is_rabbitmqs() -> None:
    # rabbitmq.com/docs/passwords: salt 908DC60A and password "test12".
    known = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert hash_password("test12", bytes.fromhex("908DC60A")) == known
    assert is_password("test12", known)
    assert not is_password("test13", known)


def test_equal_passwords_have_different_hashes() -> None:
    assert hash_password("x") != hash_password("x")


def test_a_user_does_not_show_its_hash() -> None:
    user = User("jo", hash_password("x"))
    assert user.password_hash not in repr(user)
