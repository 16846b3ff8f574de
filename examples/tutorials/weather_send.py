"""weather_send.py reports the weather of a place: python weather_send.py europe.rome.rain 'bring a coat'"""

import asyncio
import sys

import leveret


async def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python weather_send.py PLACE TEXT")
    topic, text = sys.argv[1:]
    async with leveret.connect() as connection:
        channel = await connection.channel()
        weather = await channel.declare_exchange("weather", "topic")
        await weather.publish(leveret.Message.text(text), topic, mandatory=False)
        print("reported")


asyncio.run(main())
