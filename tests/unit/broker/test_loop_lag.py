"""Lag is measured, split into what is the broker's own and what is not, and the largest is remembered."""

import asyncio
import time
from collections.abc import Callable

from leveret.broker.daemon.loop_lag import PROBE_S, WINDOW_S, Lag, LoopLag


def test_the_largest_lag_is_kept() -> None:
    lag = LoopLag()
    lag.observe(Lag(0.2), now_s=1)
    lag.observe(Lag(0.1), now_s=2)
    assert lag.max_s == 0.2


def test_a_lag_outlives_its_window_by_one_and_is_then_forgotten() -> None:
    lag = LoopLag()
    lag.observe(Lag(0.5), now_s=0)
    lag.observe(Lag(0.1), now_s=WINDOW_S)
    assert lag.max_s == 0.5
    lag.observe(Lag(0.2), now_s=2 * WINDOW_S)
    assert lag.max_s == 0.2


def test_what_the_machine_ran_instead_is_not_our_own() -> None:
    assert Lag(0.5, starved_s=0.375).own_s == 0.125
    assert Lag(0.1, starved_s=0.3).own_s == 0  # starved before it was due as well


def test_the_worst_is_the_worst_of_our_own() -> None:
    lag = LoopLag()
    ours = Lag(0.25, cpu_s=0.2)
    for one in (Lag(0.1), ours, Lag(0.9, starved_s=0.8)):
        lag.observe(one, now_s=0)
    assert lag.worst == ours
    assert lag.max_s == 0.9


def test_both_kinds_are_counted() -> None:
    lag = LoopLag()
    lag.observe(Lag(0.15, starved_s=0.14), now_s=0)
    counts, own_counts = dict(lag.lags.buckets()), dict(lag.own_lags.buckets())
    assert (counts["0.1"], counts["0.2"]) == (0, 1)
    assert (own_counts["0.005"], own_counts["0.015"]) == (0, 1)


def compute(seconds: float) -> None:
    """Of CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        continue


async def lag_of(block: Callable[[float], None]) -> Lag:
    """What is measured of a loop that is blocked once, for 50 ms."""
    lag = LoopLag()
    lag.start()
    block(0.05)
    await asyncio.sleep(0.001)  # whose timer is due after the probe's
    lag.stop()
    return lag.worst


async def test_a_computing_loop_is_late_and_used_the_cpu() -> None:
    worst = await lag_of(compute)
    assert worst.lag_s > 0.04
    assert worst.cpu_s > 0.04


async def test_a_waiting_loop_is_late_and_did_not_use_the_cpu() -> None:
    worst = await lag_of(time.sleep)
    assert worst.lag_s > 0.04
    assert worst.cpu_s < worst.lag_s / 2


async def test_after_a_stop_nothing_is_measured() -> None:
    lag = LoopLag()
    lag.start()
    lag.stop()
    lag.stop()
    await asyncio.sleep(2 * PROBE_S)
    assert dict(lag.lags.buckets())["+Inf"] == 0
