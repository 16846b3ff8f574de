"""The comparison: what is a ratio, what reaches its target, and what is not said to have been compared."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from leveret.benchmarks.outcome import BELOW, GOAL, LEAST, NOT_COMPARED, Outcome, outcome_chart, outcome_table
from leveret.benchmarks.plot.svg import page
from leveret.benchmarks.report import details
from leveret.benchmarks.runs import Median, Run
from leveret.benchmarks.scenarios import SCENARIOS
from leveret.benchmarks.targets import P99, RATE, SDK, TARGETS, Figure, Target


def outcome(figure: Figure, ours: float, theirs: float | None) -> Outcome:
    target = Target("some", "pair", figure, least=2, goal=4)
    sides = [None if value is None else Median(value, value, value) for value in (ours, theirs)]
    return Outcome(target, *sides)


@pytest.mark.parametrize(
    ("figure", "ours", "theirs", "ratio", "verdict"),
    [
        (RATE, 100, 50, 2, LEAST),
        (RATE, 99, 50, 1.98, BELOW),
        (RATE, 200, 50, 4, GOAL),
        (P99, 10, 25, 2.5, LEAST),
        (P99, 25, 10, 0.4, BELOW),
        (RATE, 100, None, None, NOT_COMPARED),
        (P99, 0, 10, None, NOT_COMPARED),
    ],
)
def test_a_ratio_says_how_many_times_as_good(
    figure: Figure, ours: float, theirs: float | None, ratio: float | None, verdict: str
) -> None:
    found = outcome(figure, ours, theirs)
    assert (found.ratio, found.verdict) == (pytest.approx(ratio) if ratio else None, verdict)


def test_the_table_has_what_was_measured_and_what_is_wanted() -> None:
    table = outcome_table([outcome(RATE, 12_345, 5000), outcome(P99, 1, None)], "A", "B", with_targets=True)
    _, compared, other = table.splitlines()
    assert compared.split() == ["some", "12,345", "/s", "5,000", "/s", "2.47x", "2x", "4x", "least"]
    assert other.split()[-2:] == ["not", "compared"]


def test_every_target_has_a_scenario() -> None:
    assert {target.scenario for target in TARGETS} - SCENARIOS.keys() == {SDK}


def test_the_document_wants_what_the_comparison_wants() -> None:
    document = (Path(__file__).parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")
    wanted = [line for line in document.splitlines() if line.endswith("x |")]
    assert wanted == [f"| {one.workload} | {one.least:g}x | {one.goal:g}x |" for one in TARGETS]


def test_medians_are_of_the_runs_that_count() -> None:
    runs = [Run("pair", "a", rate) for rate in (1.0, 30.0, 2.0)] + [Run("pair", "a", 9.0, problem="3 lost")]
    row = details(runs).splitlines()[1].split()
    assert row[:6] == ["pair", "a", "2", "1", "-", "30"]


def test_a_median_has_its_spread() -> None:
    median = Median.of([Run("pair", "a", rate) for rate in (10.0, 8.0, 11.0)], "rate")
    assert (median.middle, median.least, median.greatest) == (10, 8, 11)


def test_a_chart_is_xml_with_every_workload_and_target() -> None:
    drawn = page([outcome_chart([outcome(RATE, 100, 50)], "a < b", with_targets=True)])
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert {"a < b", "some", "2x", "wanted: 2x", "wanted: 4x"} <= set(texts)
