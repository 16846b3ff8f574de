"""What is there again after the broker stopped, cleanly or by kill -9.

Each test stops a broker of its own, so these are skipped when the suite runs against another one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from adapters.clients import FOREIGN_BROKER
from adapters.face import PERSISTENT, Client, ClientChannel
from adapters.steps import drain, get_some, message_count, publish_all
from daemon import Daemon

pytestmark = pytest.mark.skipif(FOREIGN_BROKER is not None, reason="the broker is not ours to stop")

Restart = Callable[[], Awaitable[ClientChannel]]


@pytest.fixture
def amqp_url(daemon: Daemon) -> str:
    """A broker of this test's own instead of the session's."""
    return daemon.amqp_url


@pytest.fixture(params=["SIGTERM", "kill -9"])
async def restart(
    request: pytest.FixtureRequest, daemon: Daemon, client: Client, client_class: type[Client], url: str
) -> AsyncIterator[Restart]:
    """Restart the broker, connect anew, and open a channel."""
    reconnected: list[Client] = []

    async def restart() -> ClientChannel:
        daemon.restart(kill=request.param == "kill -9")
        reconnected.append(await client_class.connect(url))
        return await reconnected[-1].open_channel(confirms=True)

    yield restart
    for each in reconnected:
        await each.close()


async def on_disk(channel: ClientChannel) -> None:
    """Wait until what this channel did is on the disk: acks have no answer, but a durable declare has."""
    await channel.declare_queue("barrier", durable=True)
    await channel.delete_queue("barrier")


async def test_topology(channel: ClientChannel, restart: Restart) -> None:
    arguments = {"x-max-length": 5, "x-dead-letter-exchange": "dlx"}
    await channel.declare_exchange("all", "fanout", durable=True)
    await channel.declare_exchange("events", "topic", durable=True)
    await channel.declare_queue("orders", durable=True, arguments=arguments)
    await channel.declare_queue("unbound", durable=True)
    await channel.declare_queue("deleted", durable=True)
    await channel.declare_queue("transient")
    await channel.declare_queue("exclusive", durable=True, exclusive=True)
    await channel.bind_exchange("events", "all")
    await channel.bind_queue("orders", "events", "order.#")
    await channel.bind_queue("unbound", "all")
    await channel.bind_queue("transient", "all")
    await publish_all(channel, "deleted", b"lost", properties=PERSISTENT)
    await channel.unbind_queue("unbound", "all")
    await channel.delete_queue("deleted")

    channel = await restart()

    # A declaration with other properties than before would be refused with 406.
    await channel.declare_exchange("events", "topic", durable=True)
    await channel.declare_queue("orders", durable=True, arguments=arguments)
    await channel.publish(b"through both", exchange="all", routing_key="order.new")
    assert await drain(channel, "orders") == [b"through both"]
    assert await message_count(channel, "unbound") == 0
    assert (await channel.declare_queue("deleted", durable=True)).message_count == 0
    assert (await channel.declare_queue("transient", durable=True)).message_count == 0
    assert (await channel.declare_queue("exclusive", durable=False)).message_count == 0


async def test_messages(channel: ClientChannel, restart: Restart) -> None:
    bodies = [b"%d" % number for number in range(100)] + [b"x" * 300_000]
    await channel.declare_queue("durable", durable=True)
    await channel.declare_queue("short", durable=True, arguments={"x-message-ttl": 200})
    await publish_all(channel, "durable", b"transient")
    await publish_all(channel, "durable", *bodies, properties=PERSISTENT)
    await publish_all(channel, "durable", b"transient, too")
    await publish_all(channel, "short", b"lives shorter than the restart takes", properties=PERSISTENT)

    channel = await restart()

    assert await message_count(channel, "durable") == len(bodies)
    got = await get_some(channel, "durable", len(bodies))
    assert [delivery.body for delivery in got] == bodies
    assert not any(delivery.redelivered for delivery in got)
    assert await channel.get("short") is None


async def test_settlements(channel: ClientChannel, restart: Restart) -> None:
    to_the_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    await channel.declare_queue("dead", durable=True)
    await channel.declare_queue("work", durable=True, arguments=to_the_dead)
    bodies = [b"acked", b"requeued", b"rejected", b"unacked", b"untouched"]
    await publish_all(channel, "work", *bodies, properties=PERSISTENT)
    acked, requeued, rejected, _unacked = await get_some(channel, "work", 4)
    await channel.ack(acked.delivery_tag)
    await channel.reject(requeued.delivery_tag, requeue=True)
    await channel.reject(rejected.delivery_tag, requeue=False)
    await on_disk(channel)

    channel = await restart()

    again = await get_some(channel, "work", 3)
    assert [delivery.body for delivery in again] == [b"requeued", b"unacked", b"untouched"]
    assert [delivery.redelivered for delivery in again[:2]] == [True, True]
    assert await channel.get("work") is None
    (died,) = await get_some(channel, "dead", 1)
    assert died.body == b"rejected"
    assert died.headers["x-first-death-queue"] == "work"
