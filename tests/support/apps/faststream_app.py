"""A FastStream application (on aio-pika): `python -m apps.faststream_app`."""

import asyncio
import logging

from faststream import AckPolicy, FastStream
from faststream.exceptions import RejectMessage
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from .settings import Settings


def build(settings: Settings) -> FastStream:
    broker = RabbitBroker(settings.url, default_channel=Channel(prefetch_count=5))
    journal, prefix = settings.journal, settings.prefix
    dead = f"{prefix}.dead"
    work = RabbitQueue(
        f"{prefix}.work",
        durable=True,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead},
    )

    @broker.subscriber(RabbitQueue(f"{prefix}.greet", durable=True))
    async def greet(name: str) -> str:
        return f"hello {name}"

    @broker.subscriber(RabbitQueue(f"{prefix}.double", durable=True))
    @broker.publisher(RabbitQueue(f"{prefix}.doubled", durable=True))
    async def double(number: int) -> int:
        return 2 * number

    @broker.subscriber(RabbitQueue(f"{prefix}.doubled", durable=True))
    async def on_doubled(number: int) -> None:
        journal.write(f"doubled {number}")

    @broker.subscriber(work, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def on_work(key: str, message: RabbitMessage) -> None:
        """Fails the first time; what is called hopeless is refused."""
        journal.write(f"{key} {'again' if message.raw_message.redelivered else 'first'}")
        if key == "hopeless":
            raise RejectMessage
        if not message.raw_message.redelivered:
            raise RuntimeError(f"{key} fails as it was told to")

    @broker.subscriber(RabbitQueue(dead, durable=True))
    async def on_dead(key: str, message: RabbitMessage) -> None:
        death = message.headers["x-death"][0]
        journal.write(f"{key} dead: {death['reason']} from {death['queue'].removeprefix(prefix)}")

    return FastStream(broker)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(build(Settings.of_this_process()).run())
