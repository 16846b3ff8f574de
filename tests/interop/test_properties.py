"""Properties and header tables come back as they were sent."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from adapters.face import Client, ClientChannel, Properties
from sample_properties import ALL, HEADERS

Name = Callable[[str], str]


async def there_and_back(channel: ClientChannel, queue: str, properties: Properties) -> Properties:
    await channel.declare_queue(queue)
    await channel.publish(b"body", routing_key=queue, properties=properties)
    delivery = await channel.get(queue, no_ack=True)
    assert delivery is not None
    return delivery.properties


def without(properties: Properties, names: frozenset[str]) -> Properties:
    return replace(properties, **dict.fromkeys(names))


async def test_all_fourteen(channel: ClientChannel, client_class: type[Client], name: Name) -> None:
    sent = without(ALL, client_class.unspeakable)

    assert await there_and_back(channel, name("q"), sent) == sent


async def test_absent_stays_absent(channel: ClientChannel, client_class: type[Client], name: Name) -> None:
    if not client_class.tells_absent_from_empty:
        pytest.skip("this library fills in what is absent")
    queue = name("q")

    assert await there_and_back(channel, queue, Properties()) == Properties()
    for field in fields(Properties):
        alone = Properties(**{field.name: getattr(ALL, field.name)})
        assert await there_and_back(channel, queue, alone) == alone


async def test_empty_is_not_absent(channel: ClientChannel, client_class: type[Client], name: Name) -> None:
    if not client_class.tells_absent_from_empty:
        pytest.skip("this library cannot send it")
    sent = Properties(content_type="", correlation_id="", priority=0, app_id="", message_id="")

    assert await there_and_back(channel, name("q"), sent) == sent


async def test_header_types(channel: ClientChannel, client_class: type[Client], name: Name) -> None:
    headers = {
        key: value for key, value in HEADERS.items() if type(value) not in client_class.unspeakable_headers
    }

    got = (await there_and_back(channel, name("q"), Properties(headers=headers))).headers

    assert got == headers
    assert got is not None
    assert list(got) == list(headers)  # in their order
    assert [key for key, value in got.items() if isinstance(value, bool)] == ["false", "true"]  # not 0 and 1


async def test_names_and_keys_may_be_any_text(
    channel: ClientChannel, client_class: type[Client], name: Name
) -> None:
    if not client_class.allows_any_name:
        pytest.skip("this library allows fewer names than brokers do")
    exchange, queue = name("ex/change %2F ü"), name("queue ✓ with spaces")
    key = "k" * 255
    await channel.declare_exchange(exchange, "direct")
    await channel.declare_queue(queue)
    await channel.bind_queue(queue, exchange, key)

    await channel.publish(b"x", exchange=exchange, routing_key=key)

    delivery = await channel.get(queue, no_ack=True)
    assert delivery is not None
    assert (delivery.exchange, delivery.routing_key) == (exchange, key)
