"""Orders for a shop that is not always well: tried again after 0.1 s, 0.2 s, 0.4 s ..., or given up.

    python examples/patterns/retry.py

One order works at once, one at the fourth attempt, one never will (and is not tried again), one is always
unlucky. The worker waits for none of them: the broker does. Exits with 1 if it ends otherwise.
"""

import asyncio
import sys
from collections import Counter

import leveret
from leveret.patterns.failures import Failures
from leveret.patterns.retry import ATTEMPTS, ERROR_TEXT, REASON, Backoff, Retry
from leveret.patterns.worker import Worker

failures = Failures()  # TimeoutError and ConnectionError are transient, ValueError and the like permanent
attempts: Counter[str] = Counter()


@failures.permanent
class UnknownCustomer(Exception):
    """No matter how often we ask."""


async def place(message: leveret.IncomingMessage) -> None:
    order = message.body.decode()
    attempts[order] += 1
    print(f"{order}: attempt {attempts[order]}")
    if order == "tea for nobody":
        raise UnknownCustomer("nobody")
    if order == "coffee" or (order == "cake" and attempts[order] < 4):
        raise TimeoutError("the shop does not answer")


async def main() -> int:
    backoff = Backoff(first_s=0.1)  # 1 s unless told otherwise
    retry = Retry("example.orders", attempts=5, backoff=backoff, failures=failures)
    async with leveret.connect() as connection:
        consuming = await connection.channel(publisher_confirms=False)
        queue = await retry.declare(consuming)
        worker = Worker(queue, retry.guard(consuming, place), concurrency=10)
        working = asyncio.create_task(worker.run())

        channel = await connection.channel()
        for order in ("tea", "cake", "tea for nobody", "coffee"):
            await channel.publish(leveret.Message(order.encode()), retry.queue)

        given_up: dict[str, object] = {}
        dead = await channel.get_queue(retry.dead_queue)
        async with dead.iterator(no_ack=True) as letters:
            async for letter in letters:
                given_up[letter.body.decode()] = letter.headers[ATTEMPTS]
                reason, tries, error = (letter.headers[name] for name in (REASON, ATTEMPTS, ERROR_TEXT))
                order = letter.body.decode()
                print(f"{order} is given up: {reason!s}, after {tries!s} attempts, the last: {error!s}")
                if len(given_up) == 2:
                    break
        worker.stop()
        await working
        for name in (retry.queue, retry.delay_queue, retry.dead_queue):
            await channel.queue_delete(name)
    as_expected = given_up == {"tea for nobody": 1, "coffee": 5} and attempts["cake"] == 4
    return 0 if as_expected else 1


sys.exit(asyncio.run(main()))
