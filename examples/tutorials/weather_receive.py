"""weather_receive.py prints what fits a pattern: python weather_receive.py 'europe.*.rain' '#.storm'"""

import asyncio
import sys
from contextlib import suppress

import leveret


async def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python weather_receive.py PATTERN...")
    async with leveret.connect() as connection:
        channel = await connection.channel()
        weather = await channel.declare_exchange("weather", "topic")
        queue = await channel.declare_queue(exclusive=True)
        for pattern in sys.argv[1:]:
            await queue.bind(weather, pattern)
        print("waiting")
        async for message in queue:
            async with message.process():
                print(f"{message.routing_key}: {message.decode()}")


with suppress(KeyboardInterrupt):
    asyncio.run(main())
