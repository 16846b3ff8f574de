"""hello_receive.py prints what comes out of the queue, until Ctrl-C."""

import asyncio
from contextlib import suppress

import leveret


async def main() -> None:
    async with leveret.connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("hello")
        print("waiting")
        async for message in queue:
            async with message.process():
                print("received:", message.decode())


with suppress(KeyboardInterrupt):
    asyncio.run(main())
