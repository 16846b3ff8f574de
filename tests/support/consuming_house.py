"""What tests of consumers share: queues with messages in them, and what the fake server was told."""

import asyncio
from collections.abc import Callable

from fake_native_server import FakeNativeServer

from leveret import Channel, Message, Queue
from leveret.protocol.native.layouts import FrameType


async def filled(channel: Channel, count: int, name: str = "q") -> Queue:
    """A queue with messages b"0", b"1", ..."""
    queue = await channel.declare_queue(name)
    await asyncio.gather(*(channel.publish(Message(b"%d" % number), name) for number in range(count)))
    return queue


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # any condition, also of a thread
            await asyncio.sleep(0.001)


def settlements(server: FakeNativeServer) -> list[list[object]]:
    kinds = (FrameType.ACK, FrameType.NACK, FrameType.REJECT)
    return [[FrameType(frame[0]).name, *frame[3:]] for frame in server.frames if frame[0] in kinds]


def waiting(server: FakeNativeServer, name: str = "q") -> list[bytes]:
    return [body for *_, body in server.queues[name]]
