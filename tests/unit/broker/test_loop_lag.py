"""The largest lag is remembered for one to two windows, then forgotten."""

from leveret.broker.daemon.loop_lag import WINDOW_S, LoopLag


def test_the_largest_lag_is_kept() -> None:
    lag = LoopLag()
    lag.observe(0.2, now_s=1)
    lag.observe(0.1, now_s=2)
    assert lag.max_s == 0.2


def test_a_lag_outlives_its_window_by_one_and_is_then_forgotten() -> None:
    lag = LoopLag()
    lag.observe(0.5, now_s=0)
    lag.observe(0.1, now_s=WINDOW_S)
    assert lag.max_s == 0.5
    lag.observe(0.2, now_s=2 * WINDOW_S)
    assert lag.max_s == 0.2
