"""What users write in tests of their own."""

import pytest

import leveret
from leveret.testing import Broker


async def test_a(leveret_broker: Broker, leveret_connection: leveret.Connection) -> None:
    channel = await leveret_connection.channel()
    await channel.declare_queue(leveret_broker.amqp_url)


@pytest.mark.leveret_broker(storage="disk")
def test_b(leveret_broker: Broker) -> None:
    leveret_broker.restart()
    print(leveret_broker.url, leveret_broker.http_url)


async def make() -> None:
    with Broker() as broker:
        print(broker.port + 1)
    async with Broker(storage="disk", http=True, heartbeat_s=1) as broker:
        broker.stop()
