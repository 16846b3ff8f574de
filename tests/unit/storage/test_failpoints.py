import errno
import subprocess
import sys
from collections.abc import Iterator

import pytest

from leveret.storage import failpoints


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.armed = None


def test_nothing_is_armed_by_default() -> None:
    assert failpoints.armed is None
    failpoints.hit("commit")


def test_every_hit_counts_without_a_number() -> None:
    failpoints.armed = failpoints.parse("commit=error")
    for _ in range(2):
        with pytest.raises(failpoints.InjectedError, match="commit"):
            failpoints.hit("commit")
    failpoints.hit("before_commit")


def test_only_the_numbered_hit_counts() -> None:
    failpoints.armed = failpoints.parse("commit=error@2, during_drop=delay:0.1")
    failpoints.hit("commit")
    with pytest.raises(failpoints.InjectedError):
        failpoints.hit("commit")
    failpoints.hit("commit")
    failpoints.hit("during_drop")


def test_a_number_with_a_plus_counts_from_there_on() -> None:
    failpoints.armed = failpoints.parse("allocate=full@2+")
    failpoints.hit("allocate")
    for _ in range(2):
        with pytest.raises(failpoints.InjectedError):
            failpoints.hit("allocate")


@pytest.mark.parametrize(("action", "code"), [("error", errno.EIO), ("full", errno.ENOSPC)])
def test_an_error_is_the_operating_systems(action: str, code: int) -> None:
    failpoints.armed = failpoints.parse(f"put={action}")
    with pytest.raises(OSError, match=r"\(injected at put\)") as caught:
        failpoints.hit("put")
    assert caught.value.errno == code


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("comit=kill", "no place is named 'comit'; there are after_checkpoint, "),
        ("commit=explode", "'commit=explode' is not name=kill"),
        ("commit=kill@", "is not name=kill"),
        ("commit=delay", "is not name=kill"),
        ("commit", "is not name=kill"),
    ],
)
def test_nonsense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        failpoints.parse(text)


def test_the_environment_kills() -> None:
    program = "from leveret.storage import failpoints; failpoints.hit('commit'); failpoints.hit('commit')"
    killed = subprocess.run(
        [sys.executable, "-c", program], env={"LEVERET_FAILPOINTS": "commit=kill@2"}, check=False
    )
    assert killed.returncode == -9
