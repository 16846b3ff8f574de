"""Two trips: one is booked, and for the other there is no car, so that its hotel and flight are cancelled.

    python examples/patterns/saga.py

Exits with 1 if it ends otherwise.
"""

import asyncio
import json
import sys

import leveret
from leveret.patterns.failures import PermanentError
from leveret.patterns.saga import Run, Saga, Step
from leveret.patterns.worker import Worker

ENDED = "example.trips.ended"


async def book_flight(run: Run) -> None:
    run.data["flight"] = f"flight of {run.data['customer']}"  # run.key is the idempotency key for the airline
    print("booked", run.data["flight"])


async def cancel_flight(run: Run) -> None:
    print("cancelled", run.data.pop("flight"))


async def book_hotel(run: Run) -> None:
    run.data["hotel"] = f"hotel of {run.data['customer']}"
    print("booked", run.data["hotel"])


async def cancel_hotel(run: Run) -> None:
    print("cancelled", run.data.pop("hotel"))


async def book_car(run: Run) -> None:
    if run.data["customer"] == "Bob":
        raise PermanentError("no car for Bob")
    run.data["car"] = f"car of {run.data['customer']}"
    print("booked", run.data["car"])


trip = Saga(
    "example.trips",
    [
        Step("flight", book_flight, cancel_flight),
        Step("hotel", book_hotel, cancel_hotel),
        Step("car", book_car),  # the last step is never undone
    ],
)


async def main() -> int:
    async with leveret.connect() as connection:
        consuming = await connection.channel(publisher_confirms=False)
        worker = Worker(await trip.declare(consuming), trip.handler(consuming))
        working = asyncio.create_task(worker.run())

        channel = await connection.channel()
        results = await channel.declare_queue(ENDED, durable=True)
        outcomes = {}
        for customer in ("Ada", "Bob"):
            await trip.start(channel, {"customer": customer}, reply_to=ENDED)
            async with results.iterator(no_ack=True) as messages:
                ended = json.loads((await anext(messages)).body)
            outcomes[customer] = ended["outcome"]
            print(f"the trip of {customer} is {ended['outcome']}", ended["error"] or "", ended["data"])

        worker.stop()
        await working
        for name in (trip.retry.queue, trip.retry.delay_queue, trip.retry.dead_queue, ENDED):
            await channel.queue_delete(name)
    return 0 if outcomes == {"Ada": "completed", "Bob": "compensated"} else 1


sys.exit(asyncio.run(main()))
