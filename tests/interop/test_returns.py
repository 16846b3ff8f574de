"""Mandatory publishes that reach no queue come back."""

import asyncio
from collections.abc import Callable

import pytest
from adapters.face import TIMEOUT_S, Client, ClientChannel, Properties, Returned

Name = Callable[[str], str]

# aiormq matches returned messages by their id.
WITH_ID = Properties(message_id="id", delivery_mode=2)


async def test_return_comes_before_the_confirm(channel: ClientChannel, name: Name) -> None:
    exchange = name("direct")
    await channel.declare_exchange(exchange, "direct")

    await channel.publish(b"body", exchange=exchange, routing_key="key", mandatory=True, properties=WITH_ID)

    # The confirm has just ended publish(): the return must be here already.
    assert channel.returns.get_nowait() == Returned(312, "NO_ROUTE", exchange, "key", b"body")
    assert channel.returns.empty()


async def test_default_exchange_returns_for_a_missing_queue(channel: ClientChannel, name: Name) -> None:
    queue = name("missing")

    await channel.publish(b"", routing_key=queue, mandatory=True, properties=WITH_ID)

    assert channel.returns.get_nowait() == Returned(312, "NO_ROUTE", "", queue, b"")


async def test_return_without_confirms(client: Client, client_class: type[Client], name: Name) -> None:
    if not client_class.returns_without_confirms:
        pytest.skip("this library ignores returns without confirms")
    channel = await client.open_channel(confirms=False)
    queue = name("missing")

    await channel.publish(b"body", routing_key=queue, mandatory=True)

    returned = await asyncio.wait_for(channel.returns.get(), TIMEOUT_S)
    assert returned == Returned(312, "NO_ROUTE", "", queue, b"body")


async def test_routable_or_not_mandatory_does_not_come_back(channel: ClientChannel, name: Name) -> None:
    queue = name("q")
    await channel.declare_queue(queue)

    await channel.publish(b"x", routing_key=queue, mandatory=True, properties=WITH_ID)
    await channel.publish(b"x", routing_key=name("missing"), mandatory=False, properties=WITH_ID)

    assert channel.returns.empty()
