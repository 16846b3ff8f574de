"""The benchmarks of size would notice: a claim that fails, a message that is another, a late loop."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from leveret.benchmarks.scale.bodies import Bodies
from leveret.benchmarks.scale.claims import Report
from leveret.benchmarks.scale.consuming import Keep
from leveret.benchmarks.scale.lag import LAG_MAX_MS, Block, LagBook
from leveret.benchmarks.scale.machine import Machine, Stop
from leveret.benchmarks.scale.progress import CONFIRMED, SETTLED, Progress
from leveret.benchmarks.scale.publishing import Load
from leveret.broker.daemon.logs import TextFormatter
from leveret.broker.daemon.loop_lag import WORTH_A_LINE_S, Lag, LoopLag


def test_a_claim_holds_up_to_its_limit() -> None:
    report = Report("some")
    report.at_most("memory", 10, 10, "MB")
    report.at_least("rate", 70, 70, "%")
    report.holds("all there", "")
    report.note("rate", "fast")
    assert report.failed(ignoring_times=False) == []


def test_a_claim_fails_beyond_its_limit() -> None:
    report = Report("some")
    report.at_most("memory", 10.1, 10, "MB")
    report.at_least("rate", 69, 70, "%")
    report.holds("all there", "3 are missing")
    assert report.failed(ignoring_times=False) == report.claims
    assert report.table().count("FAIL") == 3


def test_claims_about_time_can_be_ignored() -> None:
    report = Report("some")
    report.at_most("start", 3, 2, "s", about_time=True)
    assert len(report.failed(ignoring_times=False)) == 1
    assert report.failed(ignoring_times=True) == []


def test_a_body_is_that_of_one_message_only() -> None:
    bodies = Bodies(64)
    body = bodies.body(3, 5)
    assert len(body) == 64
    assert bodies.problem(3, 5, b"xx" + body, 2, 64) == ""
    assert len({bodies.body(queue, number) for queue in range(3) for number in range(1000)}) == 3000


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (Bodies(64).body(3, 6), "queue 3: message 5 expected, message 6 of queue 3 came"),
        (Bodies(64).body(2, 5), "queue 3: message 5 expected, message 5 of queue 2 came"),
        (Bodies(64).body(3, 5)[:-1] + b"\0", "queue 3: message 5 is not what was published"),
        (Bodies(63).body(3, 5), "queue 3: message 5 expected, 63 bytes came"),
    ],
)
def test_another_body_is_a_problem(body: bytes, problem: str) -> None:
    assert Bodies(64).problem(3, 5, body, 0, len(body)) == problem


def test_where_nothing_more_is_expected_everything_is_a_problem() -> None:
    body = Bodies(64).body(3, 5)
    assert "nothing more expected" in Bodies(64).problem(3, -1, body, 0, len(body))


def test_queues_take_turns_with_what_they_keep(tmp_path: Path) -> None:
    load = Load(0, ("a", "b"), messages=41, size=64, progress=tmp_path)
    keep = Keep(every=10, queues=2)
    assert load.numbers() == {0: range(21), 1: range(20)}
    kept = keep.of(load.numbers())
    assert {queue: list(numbers) for queue, numbers in kept.items()} == {0: [0, 10, 20], 1: [5, 15]}
    assert keep.total(load.numbers()) == 5


def test_one_message_can_be_all_that_is_kept(tmp_path: Path) -> None:
    load = Load(0, ("a", "b"), messages=41, size=64, progress=tmp_path)
    assert {queue: list(numbers) for queue, numbers in Keep(41, queues=1).of(load.numbers()).items()} == {
        0: [0]
    }


def test_progress_is_shared_by_its_path(tmp_path: Path) -> None:
    ours, theirs = Progress(tmp_path / "progress"), Progress(tmp_path / "progress")
    ours[CONFIRMED] = 7
    theirs[SETTLED] = 4
    assert (ours.live, theirs.live) == (3, 3)


def scrape(lags: Mapping[str, int], own_lags: Mapping[str, int]) -> dict[str, float]:
    """What the broker says: counts by upper bound in seconds, as Prometheus counts."""
    return {
        **{f'leveret_loop_lag_seconds_bucket{{le="{bound}"}}': count for bound, count in lags.items()},
        **{
            f'leveret_loop_own_lag_seconds_bucket{{le="{bound}"}}': count for bound, count in own_lags.items()
        },
    }


def held_up(ms: float, second: int = 10) -> str:
    """A line of the broker's log."""
    return (
        f"1970-01-01T00:00:{second}.500Z DEBUG   broker.daemon.loop_lag: "
        f"the event loop was held up for {ms} ms, 7.5 of them computing"
    )


def test_the_broker_logs_what_is_read_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        LoopLag().observe(Lag(0.0301, cpu_s=0.0075), now_s=0)
    (record,) = caplog.records
    record.created, record.msecs = 10.5, 500
    block = Block.logged(TextFormatter().format(record))
    assert block == Block.logged(held_up(30.1)) == Block(10.5, 30.1, 7.5)
    assert WORTH_A_LINE_S * 1e3 == LAG_MAX_MS
    assert Block.logged("1970-01-01T00:00:10.500Z INFO    broker.daemon.server: stopping") is None


def test_a_phase_has_the_lags_since_the_one_before() -> None:
    book = LagBook()
    book.close("first", scrape({"0.02": 5, "0.05": 8, "+Inf": 9}, {"0.015": 7, "0.05": 9, "+Inf": 9}))
    book.close("second", scrape({"0.02": 6, "0.05": 9, "+Inf": 10}, {"0.015": 8, "0.05": 10, "+Inf": 10}))
    first, second = book.phases
    assert (first.probes, first.worst_ms, first.own_ms) == (9, float("inf"), 50)
    assert (second.probes, second.worst_ms, second.own_ms) == (1, 20, 15)


SERVING = scrape({"0.03": 1, "+Inf": 2}, {"0.03": 1, "+Inf": 2})


def failures(book: LagBook, *stops: Stop) -> list[float | None]:
    report = Report("some")
    book.report(report, 30, "starting", stops)
    return [claim.value for claim in report.failed(ignoring_times=False)]


def test_a_start_does_not_count_but_service_does() -> None:
    book = LagBook()
    book.close("starting", {}, [held_up(900)])
    book.close("load", SERVING, [held_up(29)])
    assert failures(book) == []
    book.close("load", SERVING, [held_up(25), held_up(31)])
    assert failures(book) == [31]


@pytest.mark.parametrize(
    ("stop", "is_shared"),
    [
        (Stop(10.41, 10.42), True),
        (Stop(10.3, 10.45), True),
        (Stop(10.5, 10.6), True),
        (Stop(10.3, 10.39), False),
        (Stop(10.51, 10.6), False),
    ],
)
def test_what_stopped_the_witness_as_well_was_the_machine(stop: Stop, is_shared: bool) -> None:
    book = LagBook()
    book.close("load", SERVING, [held_up(100)])
    assert failures(book, stop) == ([] if is_shared else [100])


def test_what_was_counted_but_not_logged_is_not_excused() -> None:
    book = LagBook()
    book.close("load", scrape({"0.05": 1, "+Inf": 1}, {"0.05": 1, "+Inf": 1}))
    assert failures(book, Stop(0, 1e10)) == [50]


def test_a_broker_without_that_metric_proves_nothing() -> None:
    book = LagBook()
    book.close("load", {})
    assert failures(book) == [None]


def test_the_witness_says_when_it_was_stopped(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        time.sleep(0.3)
        assert all(stop.began_s < stop.ended_s for stop in machine.stops())
    (tmp_path / "machine.txt").write_text("1.0 1.5\n2.0 2.25\n3.")
    assert machine.stops() == [Stop(1.0, 1.5), Stop(2.0, 2.25)]
