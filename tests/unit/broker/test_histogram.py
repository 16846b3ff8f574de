"""The plain histogram counts like Prometheus's."""

from leveret.broker.histogram import Histogram


def test_an_observation_counts_in_every_bucket_that_holds_it() -> None:
    histogram = Histogram([1, 10])
    for value in (0.5, 1, 2, 10, 11):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("1", 2), ("10", 4), ("+Inf", 5)]
    assert histogram.total == 24.5


def test_an_empty_one_has_all_its_buckets() -> None:
    assert list(Histogram([0.001]).buckets()) == [("0.001", 0), ("+Inf", 0)]
