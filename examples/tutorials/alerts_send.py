"""alerts_send.py sends an alert of a severity: python alerts_send.py error 'disk is full'"""

import asyncio
import sys

import leveret


async def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python alerts_send.py SEVERITY TEXT")
    severity, text = sys.argv[1:]
    async with leveret.connect() as connection:
        channel = await connection.channel()
        alerts = await channel.declare_exchange("alerts", "direct")
        try:
            await alerts.publish(leveret.Message.text(text), severity)
            print("sent")
        except leveret.Unroutable:
            print("nobody listens for", severity)


asyncio.run(main())
