"""How long a failed message waits."""

import pytest

from leveret.patterns.retry import Backoff, Retry


def test_the_waits_double_up_to_the_cap() -> None:
    waits = [Backoff().delay_s(failures, chance=0) for failures in range(1, 12)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize("failures", [1, 5, 9, 10, 50])
def test_jitter_shortens_by_its_share_at_most(failures: int) -> None:
    longest = Backoff(jitter=0).delay_s(failures, chance=1)
    assert Backoff(jitter=0.25).delay_s(failures, chance=0) == longest
    assert Backoff(jitter=0.25).delay_s(failures, chance=1) == pytest.approx(0.75 * longest)
    assert Backoff(jitter=1).delay_s(failures, chance=1) == 0


def test_any_number_of_failures() -> None:
    assert Backoff().delay_s(1_000_000, chance=0) == 300
    assert Backoff(factor=1).delay_s(1_000_000, chance=0) == 1


@pytest.mark.parametrize(
    "wrong", [{"first_s": -1}, {"first_s": 301}, {"factor": 0.5}, {"jitter": 1.5}, {"jitter": -0.1}]
)
def test_what_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a backoff has"):
        Backoff(**wrong)


def test_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retry("orders", attempts=0)
