"""rpc_client.py asks for the day of the week of a date: python rpc_client.py 1969-07-20"""

import asyncio
import sys

import leveret
from leveret.patterns.rpc import RemoteError, RpcClient


async def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python rpc_client.py DATE")
    async with leveret.connect() as connection, RpcClient(connection) as client:
        try:
            reply = await client.call("weekday", sys.argv[1].encode(), timeout_s=5)
            print(reply.body.decode())
        except RemoteError as error:
            print("the server says:", error)


asyncio.run(main())
