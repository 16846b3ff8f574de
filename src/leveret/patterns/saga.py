"""Several steps in several services that happen together, or are undone: without a lock over all of them.

A trip is a flight, a hotel and a car, each booked somewhere else. When there is no car, the hotel and the
flight are cancelled again, in this order:

    trip = Saga("trip", [
        Step("flight", book_flight, cancel_flight),
        Step("hotel", book_hotel, cancel_hotel),
        Step("car", book_car, cancel_car),
    ])
    channel = await connection.channel(publisher_confirms=False)
    queue = await trip.declare(channel)
    await Worker(queue, trip.handler(channel)).run()            # any number of processes

    await trip.start(publishing_channel, {"customer": "Ada"}, reply_to="trips.ended")

    async def book_flight(run: Run) -> None:                    # run.data is JSON, and is kept
        run.data["flight"] = await airline.book(..., idempotency_key=run.key)

**How.** The saga has no database: its state is the message. A worker takes it, does one step, and hands it
over to the same queue with the next step in it (ack and publish in one transaction, see `handover`). Whoever
dies, the message is where the last finished step left it, and any other worker goes on. A step that fails
transiently is tried again by `retry`. One that fails for good turns the saga round: the compensations of the
finished steps, in reverse order.

**Promised**, as long as the broker keeps its queues: a saga that was started ends in one of three ways.
`completed`: every action has run. `compensated`: an action failed for good, and the compensation of every
step before it has run, backwards. *Stuck*: a compensation failed for good, a step killed its worker time and
again, or a full queue refused the outcome as often; the saga lies in `trip.dead` with its state, and waits
for a person (`trip.retry.redrive` goes on with it).
Actions and compensations run in order, one at a time, and **at least once**: one that was under way when its
worker died runs again. What they did to `run.data` is kept when they end well, dropped when they raise.

**Yours.** Make both idempotent: give `run.key` to the service as its idempotency key. An action that fails
must leave nothing behind; where it cannot know (a timeout), say `Step(..., undo_failed=True)`, and write a
compensation that can do with nothing. There is no isolation: others see a flight that is cancelled a second
later. To change the steps while sagas run, add steps, and keep the names of those that may be under way.
"""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from leveret.client import Channel, IncomingMessage, Message, Queue

from .failures import Failures, PermanentError
from .handover import HandOver, successor
from .retry import DEFAULT_BACKOFF, HEADERS, Backoff, Handler, Retry

log = logging.getLogger(__name__)

COMPLETED, COMPENSATED = "completed", "compensated"
CONTENT_TYPE = "application/json"


@dataclass(slots=True)
class Run:
    """One saga under way: what is in its message."""

    id: str
    step: str
    data: dict[str, Any]
    """What the steps know: JSON. Change it in place."""
    is_undoing: bool = False
    error: str | None = None
    """Why it is undone."""

    @property
    def key(self) -> str:
        """The same whenever this step of this saga is done (or undone), and never for another."""
        return f"{self.id}/{self.step}/{'undo' if self.is_undoing else 'do'}"

    def encode(self) -> bytes:
        state = {"id": self.id, "step": self.step, "data": self.data}
        return json.dumps(state | {"is_undoing": self.is_undoing, "error": self.error}).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Run":
        """Raises PermanentError for what is not the state of a saga."""
        try:
            run = cls(**json.loads(body))
            if not (isinstance(run.step, str) and isinstance(run.data, dict)):
                raise TypeError("its step is a string and its data an object")
        except (ValueError, TypeError) as error:
            raise PermanentError(f"not the state of a saga: {error}") from None
        return run


Action = Callable[[Run], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Step:
    """What is done, and how it is undone. `undo_failed`: also when it failed, for it may have been done."""

    name: str
    action: Action
    compensation: Action | None = None
    undo_failed: bool = field(default=False, kw_only=True)


class Saga:
    """The steps of one kind of saga, and its queue. See the module's docstring."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        attempts: int = 10,
        backoff: Backoff = DEFAULT_BACKOFF,
        failures: Failures | None = None,
    ) -> None:
        self._steps = {step.name: step for step in steps}
        if not steps or len(self._steps) != len(steps):
            raise ValueError("a saga has at least one step, and each a name of its own")
        self._order = [step.name for step in steps]
        self.retry = Retry(name, attempts=attempts, backoff=backoff, failures=failures)

    async def declare(self, channel: Channel) -> Queue:
        """Make the durable queues, and return the one that workers read."""
        return await self.retry.declare(channel)

    async def start(
        self, channel: Channel, data: dict[str, Any], *, saga_id: str | None = None, reply_to: str = ""
    ) -> str:
        """Begin one; it is on the disk on return. Returns its id.

        When it ends, a JSON object with `id`, `outcome` (completed or compensated), `data` and `error` goes
        to the queue `reply_to`, with the id as correlation id. The channel needs publisher confirms.
        """
        if not channel.publisher_confirms:
            raise ValueError("start a saga on a channel with publisher confirms, or it may be lost")
        run = Run(saga_id or secrets.token_hex(16), self._order[0], data)
        message = Message(
            run.encode(),
            content_type=CONTENT_TYPE,
            message_id=run.id,
            correlation_id=run.id,
            reply_to=reply_to or None,
        )
        await channel.publish(message, self.retry.queue)
        return run.id

    def handler(self, channel: Channel) -> Handler:
        """What a worker does with each message of the queue, on the channel that it comes from."""
        hand_over = HandOver(channel)

        async def handle(message: IncomingMessage) -> None:
            try:
                run = Run.decode(message.body)
                action = self._action(run)
                if action is not None:
                    await action(run)
                body = run.encode()  # raises for data that is not JSON
            except Exception as error:
                await self._failed(hand_over, message, error)
            else:
                await self._go_on(hand_over, message, Run.decode(body))

        return handle

    def _action(self, run: Run) -> Action | None:
        step = self._steps.get(run.step)
        if step is None:
            raise PermanentError(f"the saga {self.retry.queue} has no step {run.step!r} (any more)")
        return step.compensation if run.is_undoing else step.action

    async def _failed(self, hand_over: HandOver, message: IncomingMessage, error: Exception) -> None:
        verdict = self.retry.judge(message, error)
        run = self._run_to_undo(message) if verdict.is_final else None
        if run is None:
            await self.retry.carry_out(hand_over, message, error, verdict)  # later, or stuck
            return
        run.is_undoing = True
        run.error = f"{run.step}: {type(error).__qualname__}: {error}"
        log.warning("saga %s %s is undone: %s", self.retry.queue, run.id, run.error)
        if self._steps[run.step].undo_failed:
            await self._hand_on(hand_over, message, run)
        else:
            await self._go_on(hand_over, message, run)

    def _run_to_undo(self, message: IncomingMessage) -> Run | None:
        """As it was before the step that failed; None when it cannot be turned round (any more)."""
        try:
            run = Run.decode(message.body)
        except PermanentError:
            return None
        return None if run.is_undoing or run.step not in self._steps else run

    async def _go_on(self, hand_over: HandOver, message: IncomingMessage, run: Run) -> None:
        """This step is over: the next one, which is the one before when the saga is undone."""
        place = self._order.index(run.step) + (-1 if run.is_undoing else 1)
        if 0 <= place < len(self._order):
            run.step = self._order[place]
            await self._hand_on(hand_over, message, run)
        else:
            await self._end(hand_over, message, run)

    async def _hand_on(self, hand_over: HandOver, message: IncomingMessage, run: Run) -> None:
        following = successor(message, body=run.encode(), headers=dict.fromkeys(HEADERS))
        await hand_over.replace(message, following, self.retry.queue)

    async def _end(self, hand_over: HandOver, message: IncomingMessage, run: Run) -> None:
        outcome = COMPENSATED if run.is_undoing else COMPLETED
        log.info("saga %s %s is %s", self.retry.queue, run.id, outcome)
        if message.reply_to is None:
            await hand_over.ack(message)
            return
        ended = {"id": run.id, "outcome": outcome, "data": run.data, "error": run.error}
        body = json.dumps(ended).encode()
        last = successor(message, body=body, headers=dict.fromkeys(HEADERS))
        await hand_over.replace(message, last, message.reply_to, mandatory=False)
