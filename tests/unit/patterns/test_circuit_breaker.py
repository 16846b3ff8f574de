"""The circuit breaker's table, and what it does with calls; time is the test's."""

import asyncio
from itertools import product

import pytest

from leveret.patterns.circuit_breaker import TRANSITIONS, CircuitBreaker, CircuitOpen, Event, State

OPEN_S = 30.0
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Time:
    """A clock that moves when somebody sleeps, or when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class House:
    """A breaker around a service that does what the test says."""

    def __init__(self) -> None:
        self.time = Time()
        self.changes: list[tuple[State, State]] = []
        self.breaker = CircuitBreaker(
            "service",
            open_s=OPEN_S,
            clock=self.time.clock,
            sleep=self.time.sleep,
            on_change=lambda old, new: self.changes.append((old, new)),
        )

    async def succeed(self) -> None:
        async with self.breaker.call():
            pass

    async def fail(self, error: Exception | None = None) -> None:
        error = error or TimeoutError("no answer")
        with pytest.raises(type(error)):
            async with self.breaker.call():
                raise error

    async def trip(self) -> None:
        for _ in range(5):
            await self.fail()

    async def half_open(self) -> None:
        await self.trip()
        self.time.now_s += OPEN_S


@pytest.fixture
def house() -> House:
    return House()


class TestTable:
    def test_every_state_can_be_left_and_reached(self) -> None:
        moves = {(old, new) for (old, _), new in TRANSITIONS.items() if old is not new}
        assert moves == {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED), (HALF_OPEN, OPEN)}

    def test_only_what_can_happen_is_in_it(self) -> None:
        cannot = set(product(State, Event)) - set(TRANSITIONS)
        calls = {Event.SUCCEEDED, Event.FAILED, Event.FAILED_TOO_OFTEN}
        no_calls = {(OPEN, event) for event in calls}
        assert cannot == no_calls | {(CLOSED, Event.TIME_PASSED), (HALF_OPEN, Event.TIME_PASSED)}


class TestClosed:
    async def test_the_fifth_failure_in_a_row_opens_it(self, house: House) -> None:
        for _ in range(4):
            await house.fail()
        assert house.breaker.state is CLOSED
        await house.fail()
        assert house.breaker.state is OPEN
        assert house.changes == [(CLOSED, OPEN)]

    async def test_a_success_begins_the_row_anew(self, house: House) -> None:
        for _ in range(4):
            await house.fail()
        await house.succeed()
        for _ in range(4):
            await house.fail()
        assert house.breaker.state is CLOSED

    async def test_errors_of_the_call_itself_do_not_count(self, house: House) -> None:
        for _ in range(10):
            await house.fail(ValueError("nonsense"))
        assert house.breaker.state is CLOSED

    async def test_nor_does_what_was_cancelled_or_postponed(self, house: House) -> None:
        for _ in range(10):
            await house.fail(CircuitOpen("another breaker", retry_after_s=1))
            with pytest.raises(asyncio.CancelledError):
                async with house.breaker.call():
                    raise asyncio.CancelledError
        assert house.breaker.state is CLOSED


class TestOpen:
    async def test_calls_are_refused_and_told_when_to_come_back(self, house: House) -> None:
        await house.trip()
        house.time.now_s += 10
        with pytest.raises(CircuitOpen, match="service failed 5 times") as refused:
            await house.succeed()
        assert refused.value.retry_after_s == OPEN_S - 10

    async def test_it_is_half_open_exactly_when_the_time_is_over(self, house: House) -> None:
        await house.trip()
        house.time.now_s += OPEN_S - 0.001
        assert house.breaker.state is OPEN
        house.time.now_s += 0.001
        assert house.breaker.state is HALF_OPEN

    async def test_calls_from_before_change_nothing(self, house: House) -> None:
        late_success, late_failure = house.breaker.call(), house.breaker.call()
        await late_success.__aenter__()
        await late_failure.__aenter__()
        await house.trip()
        await late_success.__aexit__(None, None, None)
        assert house.breaker.state is OPEN
        house.time.now_s += OPEN_S
        assert house.breaker.state is HALF_OPEN
        error = TimeoutError()
        assert not await late_failure.__aexit__(TimeoutError, error, None)
        assert house.breaker.state is HALF_OPEN


class TestHalfOpen:
    async def test_a_trial_that_succeeds_closes_it(self, house: House) -> None:
        await house.half_open()
        await house.succeed()
        assert house.changes == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
        for _ in range(4):
            await house.fail()
        assert house.breaker.state is CLOSED  # what was before does not count any more

    async def test_a_trial_that_fails_opens_it_for_as_long_again(self, house: House) -> None:
        await house.half_open()
        await house.fail()
        assert house.breaker.state is OPEN
        house.time.now_s += OPEN_S - 1
        assert house.breaker.state is OPEN
        house.time.now_s += 1
        assert house.breaker.state is HALF_OPEN

    async def test_one_trial_at_a_time(self, house: House) -> None:
        await house.half_open()
        async with house.breaker.call():
            assert not house.breaker.may_call
            with pytest.raises(CircuitOpen) as refused:
                await house.succeed()
            assert refused.value.retry_after_s > 0
        assert house.breaker.state is CLOSED

    async def test_a_cancelled_trial_makes_room_for_another(self, house: House) -> None:
        await house.half_open()
        with pytest.raises(asyncio.CancelledError):
            async with house.breaker.call():
                raise asyncio.CancelledError
        assert house.breaker.state is HALF_OPEN
        await house.succeed()
        assert house.breaker.state is CLOSED


class TestReady:
    async def test_at_once_while_it_is_closed(self, house: House) -> None:
        await house.breaker.ready()
        assert house.time.slept_s == []

    async def test_it_waits_out_the_rest_of_the_time(self, house: House) -> None:
        await house.trip()
        house.time.now_s += 12
        await house.breaker.ready()
        assert house.time.slept_s == [18]
        assert house.breaker.may_call

    async def test_it_waits_for_the_trial_of_somebody_else(self, house: House) -> None:
        await house.half_open()
        async with house.breaker.call():
            waiting = asyncio.create_task(house.breaker.ready())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        assert house.breaker.state is CLOSED


class TestDecorator:
    async def test_each_call_of_the_function_is_a_call(self, house: House) -> None:
        @house.breaker.call()
        async def ask(question: str) -> str:
            if question == "fail":
                raise TimeoutError
            return question.upper()

        assert await ask("quick") == "QUICK"
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await ask("fail")
        with pytest.raises(CircuitOpen):
            await ask("quick")


@pytest.mark.parametrize("wrong", [{"failures_max": 0}, {"open_s": 0}])
def test_what_makes_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        CircuitBreaker("service", **wrong)  # type: ignore[arg-type]  # ints do for floats
