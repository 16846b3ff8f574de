"""hello_send.py puts one message into a queue."""

import asyncio

import leveret


async def main() -> None:
    async with leveret.connect() as connection:
        channel = await connection.channel()
        await channel.declare_queue("hello")
        await channel.publish(leveret.Message.text("Good morning!"), "hello")
        print("sent")


asyncio.run(main())
