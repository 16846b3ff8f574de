"""Whatever one library publishes, on either wire, any other one reads."""

import uuid
from dataclasses import fields, replace

import pytest
from adapters.clients import CLIENTS
from adapters.face import Client, Properties
from sample_properties import ALL, HEADERS


@pytest.mark.parametrize("reader", CLIENTS, ids=lambda client: f"to {client.name}")
@pytest.mark.parametrize("writer", CLIENTS, ids=lambda client: f"from {client.name}")
async def test_a_message_is_read_as_it_was_written(
    amqp_url: str, writer: type[Client], reader: type[Client]
) -> None:
    silent = writer.unspeakable | reader.unspeakable
    silent_headers = writer.unspeakable_headers | reader.unspeakable_headers
    headers = {key: value for key, value in HEADERS.items() if type(value) not in silent_headers}
    sent: Properties = replace(ALL, headers=headers, **dict.fromkeys(silent))
    queue, body = f"across-{uuid.uuid4().hex[:8]}", b"body" * 100_000
    writing, reading = await writer.connect(writer.url(amqp_url)), await reader.connect(reader.url(amqp_url))
    try:
        source, sink = await writing.open_channel(confirms=True), await reading.open_channel()
        await sink.declare_queue(queue, exclusive=True)
        consumer = await sink.consume(queue)

        await source.publish(body, routing_key=queue, properties=sent)

        delivery = await consumer.next()
        assert delivery.body == body
        for field in fields(Properties):
            assert getattr(delivery.properties, field.name) == getattr(sent, field.name), field.name
    finally:
        await writing.close()
        await reading.close()
