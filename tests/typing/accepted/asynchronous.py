"""What users of the asynchronous SDK write."""

import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import leveret
from leveret import Channel, Connection, Consumer, ExchangeType, IncomingMessage, Message, Queue


@dataclass
class Order:
    number: int
    lines: list[str]


def order_of(value: dict[str, Any]) -> Order:
    return Order(**value)


async def connect() -> None:
    connection = await leveret.connect("leveret://guest:guest@127.0.0.1:5672/", name="shop")
    assert_type(connection, Connection)
    await connection.close()
    context = ssl.create_default_context()
    async with leveret.connect("leverets://a,b/vhost", ssl_context=context, timeout_s=2.5) as connection:
        assert_type(connection, Connection)
        connection.on_lost(lambda error: print(error, error.message))
        connection.on_restored(lambda: print("back"))
        await connection.wait_connected()
        assert_type(connection.is_closed, bool)
    async with leveret.connect(reconnect=leveret.Reconnect(attempts=3)) as connection:
        async with connection.channel() as channel:
            assert_type(channel, Channel)
        channel = await connection.channel(publisher_confirms=False)
        assert_type(channel, Channel)
        async with channel.transaction():
            await channel.publish(Message(b"x"), "orders")


async def declare_and_publish(channel: Channel) -> Queue:
    exchange = await channel.declare_exchange("events", ExchangeType.TOPIC, durable=True)
    other = await channel.declare_exchange("more", "fanout", arguments={"alternate-exchange": "rest"})
    await exchange.bind(other)
    queue = await channel.declare_queue("orders", durable=True, arguments={"x-max-length": 1000})
    assert_type(queue, Queue)
    await queue.bind(exchange, "order.*")
    await queue.bind("events", arguments={"x-match": "all"})
    message = Message(
        b"body",
        headers={"attempt": 1, "tags": ["a", None, 2.5], "nested": {"flag": True}},
        expiration=timedelta(minutes=5),
        priority=3,
    )
    await channel.publish(message, "orders", timeout_s=5)
    await exchange.publish(Message.json({"number": 17}, message_id="17"), "order.new", mandatory=False)
    await channel.publish_many((Message.text(str(n)) for n in range(3)), "orders")
    await channel.default_exchange.publish(Message.msgpack([1, 2]), queue)
    await channel.publish(message, queue, exchange=exchange)
    assert_type(await queue.purge(), int)
    return queue


async def consume(channel: Channel, queue: Queue) -> None:
    async for message in queue:
        assert_type(message, IncomingMessage)
        async with message.process(requeue=True):
            assert_type(message.body, bytes)
            assert_type(message.decode(order_of), Order)
            assert_type(message.decode(), Any)
            print(message.headers.get("attempt"), message.message_id or "", message.redelivered)
        break
    async with queue.iterator(prefetch_count=10) as messages:
        assert_type(messages, Consumer)
        first = await anext(messages)
        await first.ack()
        first.nack(requeue=False)
    assert_type(await queue.get(), IncomingMessage)
    assert_type(await queue.get(fail=True, no_ack=True), IncomingMessage)
    assert_type(await queue.get(fail=False), IncomingMessage | None)


async def handle(channel: Channel, queue: Queue) -> None:
    async def work(message: IncomingMessage) -> None:
        await message.extend()

    def blocking(message: IncomingMessage) -> int:
        return len(message.body)

    async def judge(message: IncomingMessage, error: Exception) -> None:
        await message.reject()

    consumer = await queue.consume(work, concurrency=10, on_error=judge)
    await consumer.stop(timeout_s=5)
    await queue.consume(blocking, on_error="requeue_once")

    @channel.handler("orders", concurrency=4, extend_every_s=60)
    async def place(message: IncomingMessage) -> bool:
        return message.redelivered

    await channel.set_qos(prefetch_count=20)
    await channel.serve()
    handled: bool = await place(await queue.get())
    print(handled)


async def errors(channel: Channel) -> None:
    try:
        await channel.publish(Message(b"x"), "orders", timeout_s=1)
    except leveret.Unroutable as error:
        print(error.message.body, error.routing_key)
    except leveret.Blocked as error:
        print(error.reason, error.message.headers)
    except leveret.BrokerError as error:
        print(error.reply_code + 1, error.reply_text.upper())
    except TimeoutError:
        pass
    try:
        await channel.publish_many([Message(b"x")], "orders")
    except* leveret.LeveretError as group:
        print(group.exceptions)


async def main() -> int:
    await connect()
    return 0


assert_type(leveret.run(main()), int)
