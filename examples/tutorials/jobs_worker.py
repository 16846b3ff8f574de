"""jobs_worker.py does the jobs, one at a time. A number behind a job's name is the seconds that it takes."""

import asyncio
from contextlib import suppress

import leveret


async def main() -> None:
    async with leveret.connect() as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        jobs = await channel.declare_queue("jobs", durable=True)
        print("waiting")
        async for message in jobs:
            async with message.process(requeue=True):
                name, _, seconds = message.decode().partition(" ")
                await asyncio.sleep(float(seconds or 0))
                print("done:", name)


with suppress(KeyboardInterrupt):
    asyncio.run(main())
