"""What users of `leveret.sync` write."""

from typing import assert_type

import leveret
from leveret import sync
from leveret.sync import Channel, Connection, Consumer, Exchange, IncomingMessage, Message, Queue


def everything() -> None:
    with sync.connect("leveret://guest:guest@127.0.0.1:5672/", heartbeat_s=10) as connection:
        assert_type(connection, Connection)
        connection.on_lost(lambda error: print(error, error.message))
        with connection.channel() as channel:
            assert_type(channel, Channel)
        channel = connection.channel(publisher_confirms=False)
        with channel.transaction():
            channel.publish(Message(b"x"), "orders")
        queue = channel.declare_queue("orders", durable=True)
        exchange = channel.declare_exchange("events", sync.ExchangeType.FANOUT)
        assert_type(exchange, Exchange)
        queue.bind(exchange)
        queue.bind("events", "key")
        channel.publish(Message(b"x"), queue, exchange=exchange)
        assert_type(queue.purge(), int)
        read(queue)
        handle(channel, queue)


def read(queue: Queue) -> None:
    with sync.timeout(5):
        for message in queue:
            assert_type(message, IncomingMessage)
            with message.process() as same:
                assert_type(same, IncomingMessage)
                assert_type(message.decode(int), int)
            break
    with queue.iterator(no_ack=True) as messages:
        assert_type(messages, Consumer)
        assert_type(next(messages), IncomingMessage)
    assert_type(queue.get(), IncomingMessage)
    assert_type(queue.get(fail=False), IncomingMessage | None)
    queue.get().ack(multiple=True)


def handle(channel: Channel, queue: Queue) -> None:
    def work(message: IncomingMessage) -> None:
        message.extend()

    consumer = queue.consume(work, concurrency=2, on_error=lambda message, error: message.nack())
    assert_type(consumer, Consumer)
    consumer.stop()

    @channel.handler(queue, on_error="requeue")
    def place(message: IncomingMessage) -> bool:
        return message.redelivered

    channel.serve()
    flag: bool = place(queue.get())
    print(flag)


def errors(channel: Channel) -> None:
    try:
        channel.publish(leveret.Message.json([1]), "orders")
    except sync.Unroutable as error:
        print(error.message.body)
    except leveret.Nacked as error:
        print(error.reply_text)


everything()
