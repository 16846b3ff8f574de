"""Mistakes that a type checker should find: every marked line, and no other."""

import leveret
from leveret import Channel, IncomingMessage, Message, Queue


async def mistakes(channel: Channel, queue: Queue, incoming: IncomingMessage) -> None:
    Message("text")  # rejected
    Message.text(b"bytes")  # rejected
    Message(b"", priority="high")  # rejected
    Message(b"", headers={"when": object()})  # rejected
    leveret.connect("leveret://localhost", heartbeat_s="5")  # rejected
    leveret.connect(host="localhost")  # rejected

    channel.publish(Message(b""), "orders")  # rejected
    await channel.publish(b"bytes", "orders")  # rejected
    await channel.publish(incoming, "orders")  # rejected
    await channel.publish(Message(b""))  # rejected
    await channel.publish(Message(b""), "orders", timeout=5)  # rejected
    await channel.publish_many(Message(b""), "orders")  # rejected

    for _ in queue:  # rejected
        pass
    with incoming.process():  # rejected
        pass
    print((await queue.get(fail=False)).body)  # rejected
    print(incoming.body.upper() + "text")  # rejected
    incoming.ack(multible=True)  # rejected
    number: str = incoming.decode(int)  # rejected
    print(number)


async def handlers(channel: Channel, queue: Queue) -> None:
    async def of_bytes(body: bytes) -> None: ...

    async def of_nothing() -> None: ...

    async def work(message: IncomingMessage) -> None: ...

    await queue.consume(of_bytes)  # rejected
    await queue.consume(of_nothing)  # rejected
    await queue.consume(work, on_error="ignore")  # rejected
    await queue.consume(work, concurency=2)  # rejected
    channel.handler("orders")(of_bytes)  # rejected
