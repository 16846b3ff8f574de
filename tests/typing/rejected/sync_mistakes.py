"""Mistakes that a type checker should find: every marked line, and no other."""

import leveret
from leveret import sync
from leveret.sync import Channel, IncomingMessage, Message, Queue


def mistakes(channel: Channel, queue: Queue, other: leveret.Queue) -> None:
    channel.publish("text", "orders")  # rejected
    channel.declare_queue(name=5)  # rejected
    sync.connect(port=5672)  # rejected
    print(queue.get(fail=False).body)  # rejected
    queue.name = "renamed"  # rejected
    channel.handler(other)  # rejected


def handlers(queue: Queue) -> None:
    def of_the_other(message: leveret.IncomingMessage) -> None: ...

    def work(message: IncomingMessage) -> None: ...

    queue.consume(of_the_other)  # rejected
    queue.consume(work, on_error=5)  # rejected


async def confused(channel: Channel, queue: Queue) -> None:
    await channel.publish(Message(b""), "orders")  # rejected
    async for _ in queue:  # rejected
        pass
