"""jobs_send.py hands out a job for each of its arguments: python jobs_send.py resize-photo 'send-mail 3'"""

import asyncio
import sys

import leveret


async def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python jobs_send.py JOB...")
    async with leveret.connect() as connection:
        channel = await connection.channel()
        await channel.declare_queue("jobs", durable=True)
        for job in sys.argv[1:]:
            await channel.publish(leveret.Message.text(job), "jobs")
            print("stored:", job)


asyncio.run(main())
