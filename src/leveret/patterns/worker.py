"""A work queue's worker: so many messages at a time, and an end in good order on SIGTERM.

    channel = await connection.channel()
    queue = await channel.declare_queue("resize", durable=True)
    sys.exit(await Worker(queue, handle, concurrency=4, grace_s=20).run())

On SIGTERM or SIGINT it takes no more messages, gives `grace_s` to those it works on, and hands the rest back
to the queue, where another worker finds them at once. A second signal ends the grace. Exit code 0: all that
was begun is done; 1: some of it was cut off and handed back.

A handler that ends well acks its message, one that raises rejects it: dropped, or dead-lettered if the queue
says so. It may also settle the message itself. To have failures tried again, give `retry.guard(channel,
handle)` in place of the handler.

When the connection breaks, it goes on with the next one; the messages under way then come again.

No more than `concurrency` messages are with the worker, so none waits behind another one while a second
worker is idle.

The handler is an `async def`, or a `def`, which runs in a thread. Python can only stop one that awaits now
and then: the message of a `def` that is cut off is handed back while the function still runs.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leveret.client import Consumer, IncomingMessage, LeveretError, Queue

from .calling import awaitable

log = logging.getLogger(__name__)

EXIT_FINISHED = 0
EXIT_CUT_OFF = 1

Handler = Callable[[IncomingMessage], object]
Gate = Callable[[], Awaitable[object]]


class Worker:
    """See the module's docstring. `gate` is awaited before each message is taken: see `circuit_breaker`."""

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        concurrency: int = 10,
        grace_s: float = 30.0,
        gate: Gate | None = None,
    ) -> None:
        if not isinstance(queue, Queue):
            kind = type(queue).__name__
            raise TypeError(f"a worker takes what channel.declare_queue or get_queue returns, not {kind}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._queue = queue
        self._handler = awaitable(handler)
        self._gate = gate
        self._concurrency = concurrency
        self._grace_s = grace_s
        self._slots = asyncio.Semaphore(concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._cut_off = asyncio.Event()

    def stop(self) -> None:
        """What SIGTERM does: `run` ends when what runs is finished. Said twice: at once."""
        if self._stop.is_set():
            self._cut_off.set()
        self._stop.set()

    async def run(self, *, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> int:
        """Work until told to stop; returns the exit code. Raises when the queue is deleted or the connection
        given up.

        `signals=()` leaves signals alone, as a thread other than the main one has to.
        """
        with _signals_call(self.stop, signals):
            taking = asyncio.create_task(self._take())
            stopping = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
                await _over(taking)  # what was sent and not begun is back in the queue
                finished = await self._finish()
            finally:
                await _over(taking, stopping, *self._running)
        if not taking.cancelled():
            taking.result()  # it ended by itself, so it raises
        return EXIT_FINISHED if finished else EXIT_CUT_OFF

    async def _take(self) -> None:
        await self._queue.channel.set_qos(prefetch_count=self._concurrency)
        async with self._queue.iterator() as messages:
            while True:
                await self._begin_next(messages)

    async def _begin_next(self, messages: Consumer) -> None:
        await self._slots.acquire()
        try:
            if self._gate is not None:
                await self._gate()
            message = await anext(messages)
        except BaseException:
            self._slots.release()
            raise
        task = asyncio.create_task(self._work(message))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()

    async def _work(self, message: IncomingMessage) -> None:
        try:
            async with message.process(ignore_processed=True):
                await self._handler(message)
        except LeveretError as error:
            log.warning("%r: %s", message, error)  # such as a lost connection: the broker sends it again
        except Exception:
            log.exception("the handler failed on %r", message)

    async def _finish(self) -> bool:
        """Give what runs its time; whether that was enough."""
        running = set(self._running)
        if not running:
            return True
        finishing = asyncio.create_task(asyncio.wait(running))
        cut_off = asyncio.create_task(self._cut_off.wait())
        await asyncio.wait((finishing, cut_off), timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
        await _over(finishing, cut_off)
        left = [task for task in running if not task.done()]
        if left:
            log.warning("%d messages were not finished in time and are handed back", len(left))
        await _over(*left)
        return not left


async def _over(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they are over, whatever comes of it."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


@contextmanager
def _signals_call(callback: Callable[[], None], signals: Sequence[signal.Signals]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
