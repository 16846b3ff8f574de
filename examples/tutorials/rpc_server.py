"""rpc_server.py knows the day of the week of a date."""

import asyncio
from contextlib import suppress
from datetime import date

import leveret
from leveret.patterns.rpc import RpcServer


async def weekday(request: leveret.IncomingMessage) -> bytes:
    return date.fromisoformat(request.body.decode()).strftime("%A").encode()


async def main() -> None:
    async with leveret.connect() as connection, RpcServer(connection, "weekday", weekday) as server:
        print("waiting")
        await server.wait()


with suppress(KeyboardInterrupt):
    asyncio.run(main())
