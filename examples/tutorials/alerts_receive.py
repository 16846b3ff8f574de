"""alerts_receive.py prints the alerts of some severities: python alerts_receive.py warning error"""

import asyncio
import sys
from contextlib import suppress

import leveret


async def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python alerts_receive.py SEVERITY...")
    async with leveret.connect() as connection:
        channel = await connection.channel()
        alerts = await channel.declare_exchange("alerts", "direct")
        queue = await channel.declare_queue(exclusive=True)
        for severity in sys.argv[1:]:
            await queue.bind(alerts, severity)
        print("waiting")
        async for message in queue:
            async with message.process():
                print(f"{message.routing_key}: {message.decode()}")


with suppress(KeyboardInterrupt):
    asyncio.run(main())
