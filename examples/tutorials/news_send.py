"""news_send.py tells everybody: python news_send.py 'the lift works again'"""

import asyncio
import sys

import leveret


async def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python news_send.py NEWS")
    async with leveret.connect() as connection:
        channel = await connection.channel()
        news = await channel.declare_exchange("news", "fanout")
        await news.publish(leveret.Message.text(" ".join(sys.argv[1:])), "", mandatory=False)
        print("told")


asyncio.run(main())
