"""A message goes on to its next queue without a gap: ack and publish in one transaction.

Whoever publishes the next message and then acks this one does it twice when the process dies in between; the
other way round loses it. In a transaction the broker does both or neither, whoever crashes; and neither when
the next queue has just been deleted, or is full and refuses the message. `retry` and `saga` stand on it.

    hand_over = HandOver(await connection.channel(publisher_confirms=False))
    ...
    await hand_over.replace(message, successor(message, headers={"x-step": 2}), "step-2")

It needs a channel without publisher confirms, the one that the messages come from. As a channel has one
transaction at a time, all that is settled on it goes through the same HandOver; whoever wants more of them at
once opens more channels.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from leveret.client import Channel, DeliveryMode, IncomingMessage, LeveretError, Message

SENDER_HEADERS = ("CC", "BCC")  # further routing keys: a copy that goes on must not go there once more


class HandOver:
    """One for each channel. See the module's docstring."""

    def __init__(self, channel: Channel) -> None:
        if channel.publisher_confirms:
            raise LeveretError(
                "this takes transactions, and a channel with publisher confirms has none; "
                "open one with connection.channel(publisher_confirms=False)"
            )
        self.channel = channel
        self._turn = asyncio.Lock()  # nothing else may be settled inside of a transaction

    async def ack(self, message: IncomingMessage) -> None:
        """It needs no successor."""
        async with self._turn:
            await message.ack()

    async def replace(
        self,
        message: IncomingMessage,
        next_one: Message,
        queue: str,
        *,
        declare: Callable[[], Awaitable[object]] | None = None,
        mandatory: bool = True,
    ) -> None:
        """Ack a message and put another one into a queue, as one change that is on the disk on return.

        `declare` makes sure that the queue exists. Raises what the broker refuses, such as Unroutable when
        somebody deletes the queue just then: nothing has happened then, and the message is back in its queue
        with one more failed delivery, which its delivery limit bounds. Without `mandatory` a message to a
        queue that does not exist is dropped instead.
        """
        async with self._turn:
            try:
                if declare is not None:
                    await declare()
                async with self.channel.transaction():
                    await self.channel.publish(next_one, queue, mandatory=mandatory)
                    await message.ack()
            except Exception:
                if not message.is_settled:
                    with suppress(LeveretError):  # on a channel that has ended it goes back by itself
                        await message.reject(requeue=True)
                raise


def successor(
    message: IncomingMessage,
    *,
    body: bytes | None = None,
    headers: Mapping[str, Any] | None = None,
    expiration_s: float | None = None,
) -> Message:
    """A message like the one that came: body and properties are kept, `headers` are added; None removes one.

    Its own expiration is over, as it has been delivered in time. It is persistent if that one was. The user
    id goes to the header `x-user-id`, for the broker would refuse one that is not ours.
    """
    is_persistent = message.delivery_mode == DeliveryMode.PERSISTENT
    changed: dict[str, Any] = {**message.headers, **dict.fromkeys(SENDER_HEADERS), **(headers or {})}
    if message.user_id is not None:
        changed["x-user-id"] = message.user_id
    return Message(
        message.body if body is None else body,
        headers={name: value for name, value in changed.items() if value is not None},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT if is_persistent else DeliveryMode.NOT_PERSISTENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=expiration_s,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )
