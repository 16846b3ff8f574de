"""Remote calls: several at once, one that fails, one that nobody answers in time.

    python examples/patterns/rpc.py

Server and client would be two programs. The broker is the one of LEVERET_URL, or the one on this machine.
"""

import asyncio

import leveret
from leveret.patterns.rpc import CallTimeout, RemoteError, RpcClient, RpcServer

QUEUE = "example.square-root"


async def square_root(request: leveret.IncomingMessage) -> bytes:
    number = float(request.body)
    if number < 0:
        raise ValueError(f"{number:g} has no square root")  # goes to the caller, as text
    if number > 1e6:
        await asyncio.sleep(60)  # is stopped when the caller's time is over
    return b"%g" % number**0.5


async def main() -> None:
    async with leveret.connect() as connection, RpcClient(connection) as client:
        async with RpcServer(connection, QUEUE, square_root):
            replies = await asyncio.gather(*(client.call(QUEUE, b"%d" % n) for n in (1, 4, 9, 16)))
            print("square roots:", *(reply.body.decode() for reply in replies))
            try:
                await client.call(QUEUE, b"-1")
            except RemoteError as error:
                print(f"the server raised a {error.type}: {error.text}")
            try:
                await client.call(QUEUE, b"1e9", timeout_s=0.2)
            except CallTimeout as error:
                print(f"too slow: {error}")

        async with connection.channel() as channel:
            await channel.queue_delete(QUEUE)
        try:
            await client.call(QUEUE, b"25")
        except leveret.Unroutable as error:
            print(f"nobody there: {error}")


asyncio.run(main())
