"""Percentiles of a histogram are those of the values, within its resolution."""

import random

import pytest

from leveret.benchmarks.histogram import Histogram


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_a_percentile_is_that_of_the_sorted_values_within_a_percent(percent: float) -> None:
    chance = random.Random(7)
    values = sorted(int(chance.lognormvariate(8, 2)) for _ in range(10_000))
    exact = values[max(0, round(len(values) * percent / 100) - 1)] / 1e3
    assert filled(values).percentile_ms(percent) == pytest.approx(exact, rel=0.01, abs=0.001)


def test_small_values_are_exact_and_large_ones_cost_few_buckets() -> None:
    assert filled(list(range(128))).counts == dict.fromkeys(range(128), 1)
    assert len(filled(list(range(1_000_000, 2_000_000, 100))).counts) <= 130


def test_a_bucket_begins_at_most_a_percent_below_its_values() -> None:
    for value in (255, 256, 257, 1023, 4095, 65_537, 10**9):
        (bucket,) = filled([value]).counts
        assert bucket <= value < bucket * 1.01


def test_those_of_several_processes_are_added_up() -> None:
    merged = Histogram.merged([filled([1, 2, 3]), filled([3, 1000])])
    assert (merged.total, merged.counts[3]) == (5, 2)
    assert merged.percentiles_ms()["p100"] == 1.0


def test_without_values_there_are_no_percentiles() -> None:
    assert Histogram().percentiles_ms() == {}
