"""Sagas, against the real broker: what runs, what is undone in which order, and what a crash leaves."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon
from polling import PATIENCE_S, until

import leveret
from leveret import Channel, Connection, IncomingMessage, Message
from leveret.patterns.failures import PermanentError
from leveret.patterns.retry import ERROR_TEXT, REASON, Backoff
from leveret.patterns.saga import COMPENSATED, COMPLETED, Run, Saga, Step
from leveret.patterns.worker import Worker

WORKER = Path(__file__).parents[1] / "support" / "pattern_workers.py"
QUICK = Backoff(first_s=0.01, cap_s=0.02)
_numbers = count(1)


@pytest.fixture
async def connection(shared_daemon: Daemon) -> AsyncIterator[Connection]:
    async with leveret.connect(shared_daemon.leveret_url, name="test_pattern_saga") as connection:
        yield connection


class Trip:
    """A saga of flight, hotel and car. `fail` says what goes wrong, by the name and number of a call."""

    def __init__(self, connection: Connection, *, attempts: int = 3, undo_failed: bool = False) -> None:
        self.calls: list[str] = []
        self.keys: list[str] = []
        self.fail: Callable[[str, int], Exception | None] = lambda call, number: None
        self._connection = connection
        steps = [
            Step("flight", self._step("book flight"), self._step("cancel flight")),
            Step("insurance", self._step("insure")),  # lapses by itself
            Step("hotel", self._step("book hotel"), self._step("cancel hotel")),
            Step("car", self._step("book car"), self._step("cancel car"), undo_failed=undo_failed),
        ]
        self.name = f"trip-{next(_numbers)}"
        self.ended = f"{self.name}.ended"
        self.saga = Saga(self.name, steps, attempts=attempts, backoff=QUICK)

    def _step(self, call: str) -> Callable[[Run], Any]:
        async def act(run: Run) -> None:
            self.calls.append(call)
            self.keys.append(run.key)
            run.data.setdefault("done", []).append(call)
            error = self.fail(call, self.calls.count(call))
            if error is not None:
                raise error

        return act

    async def __aenter__(self) -> "Trip":
        self.channel = await self._connection.channel()
        await self.channel.declare_queue(self.ended, durable=True)
        self.consuming = await self._connection.channel(publisher_confirms=False)
        queue = await self.saga.declare(self.consuming)
        self.worker = Worker(queue, self.saga.handler(self.consuming))
        self._running = asyncio.create_task(self.worker.run(signals=()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.worker.stop()
        assert await self._running == 0
        assert await self.channel.queue_delete(self.name) == 0
        for queue in (self.saga.retry.delay_queue, self.saga.retry.dead_queue, self.ended):
            await self.channel.queue_delete(queue)

    async def run(self, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start one, and return what is told about its end."""
        saga_id = await self.saga.start(self.channel, data or {}, reply_to=self.ended)
        message = await take(self.channel, self.ended)
        ended: dict[str, Any] = json.loads(message.body)
        assert message.correlation_id == ended["id"] == saga_id
        return ended


async def take(channel: Channel, queue: str) -> IncomingMessage:
    async with asyncio.timeout(PATIENCE_S), (await channel.get_queue(queue)).iterator(no_ack=True) as ended:
        return await anext(ended)


BOOKED = ["book flight", "insure", "book hotel", "book car"]


class TestEnds:
    async def test_all_steps_in_order(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            ended = await trip.run({"customer": "Ada"})
        assert trip.calls == BOOKED
        assert ended["outcome"] == COMPLETED
        assert ended["data"] == {"customer": "Ada", "done": BOOKED}
        assert ended["error"] is None

    async def test_what_was_done_is_undone_backwards(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            trip.fail = lambda call, number: PermanentError("no car") if call == "book car" else None
            ended = await trip.run()
        assert trip.calls == [*BOOKED, "cancel hotel", "cancel flight"]
        assert ended["outcome"] == COMPENSATED
        assert ended["error"] == "car: PermanentError: no car"
        assert ended["data"]["done"] == [*BOOKED[:3], "cancel hotel", "cancel flight"]

    async def test_a_step_that_may_have_been_done_is_undone_too(self, connection: Connection) -> None:
        async with Trip(connection, undo_failed=True) as trip:
            trip.fail = lambda call, number: TimeoutError("?") if call == "book car" else None
            ended = await trip.run()
        assert trip.calls == [*BOOKED, *["book car"] * 2, "cancel car", "cancel hotel", "cancel flight"]
        assert ended["outcome"] == COMPENSATED

    async def test_the_first_step_fails(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            trip.fail = lambda call, number: PermanentError("no flight")
            assert (await trip.run())["outcome"] == COMPENSATED
        assert trip.calls == ["book flight"]

    async def test_what_passes_is_tried_again_in_both_directions(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            trip.fail = lambda call, number: (
                PermanentError("no car") if call == "book car" else TimeoutError() if number < 3 else None
            )
            assert (await trip.run())["outcome"] == COMPENSATED
        tried = [
            call for call in [*BOOKED[:3], "book car", "cancel hotel", "cancel flight"] for _ in range(3)
        ]
        tried.remove("book car")
        tried.remove("book car")
        assert trip.calls == tried
        assert len(set(trip.keys)) == 6, "a step that is tried again has the key that it had"

    async def test_a_compensation_that_fails_for_good_waits_for_a_person(
        self, connection: Connection
    ) -> None:
        async with Trip(connection, attempts=2) as trip:
            mended = False
            trip.fail = lambda call, number: (
                None
                if mended
                else PermanentError(call)
                if call == "book car"
                else TimeoutError("down")
                if call == "cancel hotel"
                else None
            )
            await trip.saga.start(trip.channel, {}, reply_to=trip.ended)
            await until_stuck(trip)
            assert trip.calls == [*BOOKED, "cancel hotel", "cancel hotel"]
            mended = True
            async with connection.channel(publisher_confirms=False) as channel:
                assert await trip.saga.retry.redrive(channel) == 1
            ended = json.loads((await take(trip.channel, trip.ended)).body)
        assert ended["outcome"] == COMPENSATED
        assert trip.calls[-2:] == ["cancel hotel", "cancel flight"]

    async def test_without_anybody_to_tell(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            done = asyncio.Event()
            trip.fail = lambda call, number: done.set() if call == "book car" else None
            await trip.saga.start(trip.channel, {})
            async with asyncio.timeout(PATIENCE_S):
                await done.wait()

    async def test_somebody_to_tell_who_has_gone(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            await trip.saga.start(trip.channel, {}, reply_to="nowhere")
            assert (await trip.run())["outcome"] == COMPLETED

    async def test_many_at_once(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            ids = {await trip.saga.start(trip.channel, {"n": n}, reply_to=trip.ended) for n in range(20)}
            ended = [json.loads((await take(trip.channel, trip.ended)).body) for _ in ids]
        assert {one["id"] for one in ended} == ids
        assert all(one["outcome"] == COMPLETED for one in ended)


async def until_stuck(trip: Trip) -> None:
    async def is_stuck() -> bool:
        return (await trip.channel.get_queue(trip.saga.retry.dead_queue)).message_count > 0

    await until(is_stuck, "a saga that is stuck")


class TestTrouble:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (b"not JSON", "not the state of a saga"),
            (b'{"id": "1", "step": "flight"}', "not the state of a saga"),
            (b'{"id": "1", "step": ["flight"], "data": {}}', "its step is a string"),
            (b'{"id": "1", "step": "train", "data": {}}', "no step 'train'"),
        ],
    )
    async def test_what_is_no_saga_is_put_aside(self, connection: Connection, body: bytes, text: str) -> None:
        async with Trip(connection) as trip:
            await trip.channel.publish(Message(body), trip.name)
            await until_stuck(trip)
            dead = await take(trip.channel, trip.saga.retry.dead_queue)
        assert dead.body == body
        assert dead.headers[REASON] == "permanent"
        assert text in str(dead.headers[ERROR_TEXT])
        assert trip.calls == []

    async def test_data_that_is_not_json_undoes_the_saga(self, connection: Connection) -> None:
        async with Trip(connection) as trip:
            steps = list(trip.saga._steps.values())

            async def forget_json(run: Run) -> None:
                run.data["when"] = object()

            trip.saga._steps["hotel"] = Step("hotel", forget_json, steps[2].compensation)
            ended = await trip.run()
        assert ended["outcome"] == COMPENSATED
        assert "not JSON serializable" in ended["error"]
        assert trip.calls == ["book flight", "insure", "cancel flight"]

    async def test_wrong_use(self, connection: Connection) -> None:
        async def act(run: Run) -> None:
            pass

        with pytest.raises(ValueError, match="at least one step"):
            Saga("trip", [])
        with pytest.raises(ValueError, match="a name of its own"):
            Saga("trip", [Step("a", act), Step("a", act)])
        async with connection.channel(publisher_confirms=False) as channel:
            with pytest.raises(ValueError, match="publisher confirms"):
                await Saga("trip", [Step("a", act)]).start(channel, {})


SAGAS = 30
KILLS = 8


@pytest.mark.crash
async def test_every_saga_ends_although_its_workers_are_killed(daemon: Daemon, tmp_path: Path) -> None:
    """`kill -9` meets workers anywhere in a step or between two. Each step keeps a ledger in a file, by its
    key, so that what ran twice counts once. In the end each saga is whole: all booked, or all cancelled.
    """
    ledger = tmp_path / "ledger"
    async with leveret.connect(daemon.leveret_url) as connection:
        channel = await connection.channel()
        ended = await channel.declare_queue("ended", durable=True)
        saga = Saga("trip", [Step("only its queues are needed", lambda run: asyncio.sleep(0))])
        await saga.declare(channel)
        first = [{"id": f"{n}", "step": "flight", "data": {"number": n}} for n in range(SAGAS)]
        for state in first:
            await channel.publish(Message(json.dumps(state).encode(), reply_to=ended.name), "trip")

        async def all_ended() -> bool:
            return (await channel.get_queue(ended.name)).message_count >= SAGAS

        for number in range(KILLS + 1):
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, WORKER, "trip", daemon.leveret_url, ledger), stdout=subprocess.PIPE
            )
            assert worker.stdout is not None
            try:
                async with asyncio.timeout(PATIENCE_S):
                    for _ in range(3 + 5 * number % 9):
                        await worker.stdout.readline()
                if number == KILLS:
                    await until(all_ended, "all sagas have ended")
            finally:
                worker.kill()
                await worker.communicate()

        outcomes = {}
        while (message := await ended.get(no_ack=True, fail=False)) is not None:
            one = json.loads(message.body)
            assert one["id"] not in outcomes, "one end for each saga"
            outcomes[one["id"]] = one["outcome"]
        assert len(outcomes) == SAGAS
        assert (await channel.get_queue(saga.retry.dead_queue)).message_count == 0

    keys = ledger.read_text().split()
    done = set(keys)
    for saga_id, outcome in outcomes.items():
        steps = [f"{saga_id}/{step}/do" for step in ("flight", "hotel", "car")]
        undone = [f"{saga_id}/{step}/undo" for step in ("flight", "hotel")]
        if int(saga_id) % 3 == 0:
            assert outcome == COMPENSATED
            assert {*steps[:2], *undone} == {key for key in done if key.startswith(f"{saga_id}/")}
        else:
            assert outcome == COMPLETED
            assert set(steps) == {key for key in done if key.startswith(f"{saga_id}/")}
    twice = Counter(keys) - Counter(done)
    assert twice.total() <= KILLS * 5, "only what a killed worker was at ran twice"
