"""news_receive.py has a queue of its own, and so gets all news from now on."""

import asyncio
from contextlib import suppress

import leveret


async def main() -> None:
    async with leveret.connect() as connection:
        channel = await connection.channel()
        news = await channel.declare_exchange("news", "fanout")
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(news)
        print("waiting")
        async for message in queue:
            async with message.process():
                print("news:", message.decode())


with suppress(KeyboardInterrupt):
    asyncio.run(main())
