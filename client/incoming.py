"""A message that came from a queue, and what its reader does with it: `ack`, `nack`, `reject`, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import BasicProperties, decode_properties
from leveret.protocol.native.fields import REDELIVERED

from .errors import AlreadySettled

if TYPE_CHECKING:
    from .channel import Channel


class IncomingMessage:
    """Made by the channel for each delivery. Its properties are decoded when they are first looked at."""

    __slots__ = (
        "_channel",
        "_decoded",
        "_flags",
        "_properties",
        "_settled",
        "body",
        "delivery_tag",
        "exchange",
        "routing_key",
    )

    def __init__(
        self,
        channel: "Channel",
        delivery_tag: int,
        flags: int,
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
    ) -> None:
        self._channel = channel
        self.delivery_tag = delivery_tag
        self._flags = flags
        self.exchange = exchange
        self.routing_key = routing_key
        self._properties = properties
        self._decoded: BasicProperties | None = None
        self._settled: str | None = None  # how it was settled; None: it waits for that
        self.body = body

    def __repr__(self) -> str:
        return f"<IncomingMessage {self.delivery_tag} of {len(self.body)} bytes from {self.exchange!r}>"

    # Settling

    async def ack(self) -> None:
        """Done: the broker forgets the message. The acks of one loop turn leave together."""
        self._settle("acked")
        self._channel.settle_later(self.delivery_tag)

    async def nack(self, *, requeue: bool = True) -> None:
        """Hand it back (`requeue`), or have it dead-lettered or dropped. It counts as no failed delivery."""
        self._settle("nacked")
        self._channel.nack_later(self.delivery_tag, requeue)

    async def reject(self, *, requeue: bool = False) -> None:
        """It could not be processed: dead-letter or drop it, or requeue it with one more failed delivery."""
        self._settle("rejected")
        self._channel.reject_later(self.delivery_tag, requeue)

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, nacked or rejected (or came with `no_ack`)."""
        return self._settled is not None

    def settled_by_delivery(self) -> None:
        """It came with `no_ack`: there is nothing left to do."""
        self._settled = "delivered with no_ack"

    def _settle(self, how: str) -> None:
        if self._settled is not None:
            raise AlreadySettled(
                f"message {self.delivery_tag} cannot be {how}: it was {self._settled} before"
            )
        self._channel.settling(self)
        self._settled = how

    def unsettle(self) -> None:
        """The transaction that settled it was rolled back: it waits again."""
        self._settled = None

    @asynccontextmanager
    async def process(
        self, *, requeue: bool = False, reject_on_redelivered: bool = False, ignore_processed: bool = False
    ) -> AsyncIterator["IncomingMessage"]:
        """Ack it when the block ends well, reject it when the block raises, hand it back on cancellation.

        `requeue`: reject with requeue. `reject_on_redelivered`: but not a second time. `ignore_processed`:
        the block may settle the message itself.
        """
        try:
            yield self
        except asyncio.CancelledError:
            if not self.is_settled and not self._channel.is_closed:
                await self.nack(requeue=True)
            raise
        except Exception:
            # On a closed channel the broker requeues it anyway; the block's own error is the one to see.
            if not (ignore_processed and self.is_settled) and not self._channel.is_closed:
                await self.reject(requeue=requeue and not (reject_on_redelivered and self.redelivered))
            raise
        if not (ignore_processed and self.is_settled):
            await self.ack()

    # Properties

    @property
    def redelivered(self) -> bool:
        """It may have been delivered before."""
        return bool(self._flags & REDELIVERED)

    @property
    def properties(self) -> BasicProperties:
        """All properties as AMQP has them; None means absent."""
        if self._decoded is None:
            self._decoded = decode_properties(self._properties)
        return self._decoded

    @property
    def headers(self) -> FieldTable:
        """Empty when there are none."""
        return self.properties.headers or {}

    @property
    def content_type(self) -> str | None:
        return self.properties.content_type

    @property
    def content_encoding(self) -> str | None:
        return self.properties.content_encoding

    @property
    def delivery_mode(self) -> int | None:
        return self.properties.delivery_mode

    @property
    def priority(self) -> int | None:
        return self.properties.priority

    @property
    def correlation_id(self) -> str | None:
        return self.properties.correlation_id

    @property
    def reply_to(self) -> str | None:
        return self.properties.reply_to

    @property
    def expiration(self) -> float | None:
        """Seconds, as `Message` takes them; None also for a text that is not a number of milliseconds."""
        text = self.properties.expiration
        return int(text) / 1000 if text is not None and text.isdecimal() else None

    @property
    def message_id(self) -> str | None:
        return self.properties.message_id

    @property
    def timestamp(self) -> datetime | None:
        """None also for a time that `datetime` cannot hold; `properties.timestamp` has its seconds."""
        timestamp = self.properties.timestamp
        return timestamp if isinstance(timestamp, datetime) else None

    @property
    def type(self) -> str | None:
        return self.properties.type

    @property
    def user_id(self) -> str | None:
        return self.properties.user_id

    @property
    def app_id(self) -> str | None:
        return self.properties.app_id
