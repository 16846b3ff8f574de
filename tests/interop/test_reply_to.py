"""Direct reply-to: a request, and a reply that goes straight to the requester without a queue."""

from collections.abc import Callable

import pytest
from adapters.face import Client, ClientChannel, Properties
from adapters.steps import failure

Name = Callable[[str], str]

REPLY_TO = "amq.rabbitmq.reply-to"


async def test_a_request_and_its_reply(client: Client, channel: ClientChannel, name: Name) -> None:
    requests = name("requests")
    await channel.declare_queue(requests)
    requester = await client.open_channel(confirms=True)
    replies = await requester.consume(REPLY_TO, no_ack=True)

    asking = Properties(reply_to=REPLY_TO, correlation_id="42")
    await requester.publish(b"question", routing_key=requests, properties=asking)
    request = await channel.get(requests, no_ack=True)
    assert request is not None
    address = request.properties.reply_to
    assert address is not None
    assert address.startswith(REPLY_TO + ".")
    answering = Properties(correlation_id=request.properties.correlation_id)
    await channel.publish(b"answer", routing_key=address, properties=answering)

    reply = await replies.next()
    assert (reply.body, reply.exchange, reply.routing_key) == (b"answer", "", address)
    assert reply.properties.correlation_id == "42"


async def test_a_requester_that_is_gone(client: Client, channel: ClientChannel, name: Name) -> None:
    if not client.allows_any_name:
        pytest.skip("this library cannot declare the name of an address")
    requests = name("requests")
    await channel.declare_queue(requests)
    requester = await client.open_channel(confirms=True)
    await requester.consume(REPLY_TO, no_ack=True)
    await requester.publish(b"question", routing_key=requests, properties=Properties(reply_to=REPLY_TO))
    request = await channel.get(requests, no_ack=True)
    assert request is not None
    address = request.properties.reply_to
    assert address is not None
    await channel.declare_queue(address, passive=True)  # alive

    await requester.close()

    await channel.publish(b"to nobody", routing_key=address)  # is dropped
    closed = await failure(channel, channel.declare_queue(address, passive=True))
    assert closed.code == 404


async def test_replies_cannot_be_acked(client: Client) -> None:
    channel = await client.open_channel()

    closed = await failure(channel, channel.consume(REPLY_TO, no_ack=False))

    assert closed.text == "PRECONDITION_FAILED - reply consumer cannot acknowledge"


async def test_asking_without_a_reply_consumer(client: Client, name: Name) -> None:
    channel = await client.open_channel(confirms=True)

    asking = Properties(reply_to=REPLY_TO)
    closed = await failure(channel, channel.publish(b"?", routing_key=name("q"), properties=asking))

    assert closed.text == "PRECONDITION_FAILED - fast reply consumer does not exist"
