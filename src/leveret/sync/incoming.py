"""`IncomingMessage` for synchronous code.

Written by generate.py from leveret.client.incoming: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, overload

from leveret.client import incoming as aio
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import BasicProperties

from . import channel as _channel
from . import processing as _processing
from .face import Face

T = TypeVar("T")


class IncomingMessage(Face[aio.IncomingMessage]):
    """Made by the channel for each delivery. Its properties are decoded when they are first looked at."""

    __slots__ = ()

    @property
    def delivery_tag(self) -> int:
        return self._async.delivery_tag

    @property
    def exchange(self) -> str:
        return self._async.exchange

    @property
    def routing_key(self) -> str:
        return self._async.routing_key

    @property
    def body(self) -> bytes:
        return self._async.body

    @property
    def message_count(self) -> int | None:
        return self._async.message_count

    @property
    def channel(self) -> _channel.Channel:
        """The one that it came on."""
        return _channel.Channel(self._portal, self._async.channel)

    def ack(self, *, multiple: bool = False) -> None:
        """Done: the broker forgets the message. The acks of one loop turn leave together.

        It takes effect at once; `message.ack()` and `message.ack()` are the same. A `def` handler may
        call it from its thread.

        `multiple`: this message and every unsettled one that the channel was sent before it, whoever has it:
        with several consumers on a channel also what theirs have not looked at yet.

        Raises AlreadySettled the second time, DeliveryLost when the connection broke since the message came,
        ChannelClosed, and WrongLoop.
        """
        self._portal.call_here(lambda: self._async.ack(multiple=multiple))

    def nack(self, *, requeue: bool = True, multiple: bool = False) -> None:
        """Hand it back (`requeue`), or have it dead-lettered or dropped. It counts as no failed delivery.

        At once, with `multiple`, and with errors as `ack`.
        """
        self._portal.call_here(lambda: self._async.nack(requeue=requeue, multiple=multiple))

    def reject(self, *, requeue: bool = False) -> None:
        """It could not be processed: dead-letter or drop it, or requeue it with one more failed delivery.

        At once, and with errors as `ack`.
        """
        self._portal.call_here(lambda: self._async.reject(requeue=requeue))

    def extend(self) -> None:
        """Have the broker's consumer timeout begin anew for this message: its handler is alive and needs
        longer.

        The broker closes a channel that leaves a message unsettled for too long (`x-consumer-timeout` of the
        consumer or the queue, else the broker's own). For handlers there is `extend_every_s`.
        """
        self._portal.run(self._async.extend)

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, nacked or rejected (or came with `no_ack`)."""
        return self._async.is_settled

    @property
    def is_lost(self) -> bool:
        """It cannot be settled any more: its connection broke, or its channel was closed."""
        return self._async.is_lost

    def process(
        self, *, requeue: bool = False, reject_on_redelivered: bool = False, ignore_processed: bool = False
    ) -> _processing.Processing:
        """`with message.process():` ack it when the block ends well, reject it when the block raises,
        hand it back when the block is cancelled. The block's error goes on its way.

        Args:
            requeue: reject with requeue: it comes again, at once.
            reject_on_redelivered: with `requeue`, but not a second time.
            ignore_processed: the block may settle the message itself; without this, that raises
                AlreadySettled at the end of the block.

        When the connection broke meanwhile, the broker delivers the message again: that is logged.
        """
        return _processing.Processing(
            self._portal,
            self._portal.call_here(
                lambda: self._async.process(
                    requeue=requeue,
                    reject_on_redelivered=reject_on_redelivered,
                    ignore_processed=ignore_processed,
                )
            ),
        )

    @overload
    def decode(self) -> Any: ...

    @overload
    def decode(self, into: Callable[[Any], T]) -> T: ...

    def decode(self, into: Callable[[Any], Any] | None = None) -> Any:
        """The body as what its content type says: JSON, msgpack, text; bytes when there is none.

        `into` makes something of it and gives the result its type: `message.decode(Order.model_validate)`,
        `message.decode(lambda order: Order(**order))`.

        Raises Undecodable, also for what `into` raises.
        """
        method: Any = self._async.decode
        return self._portal.call_here(lambda: method(into))

    @property
    def redelivered(self) -> bool:
        """It may have been delivered before."""
        return self._async.redelivered

    @property
    def properties(self) -> BasicProperties:
        """All properties as AMQP has them; None means absent."""
        return self._async.properties

    @property
    def headers(self) -> FieldTable:
        """Empty when there are none."""
        return self._async.headers

    @property
    def content_type(self) -> str | None:
        return self._async.content_type

    @property
    def content_encoding(self) -> str | None:
        return self._async.content_encoding

    @property
    def delivery_mode(self) -> int | None:
        return self._async.delivery_mode

    @property
    def priority(self) -> int | None:
        return self._async.priority

    @property
    def correlation_id(self) -> str | None:
        return self._async.correlation_id

    @property
    def reply_to(self) -> str | None:
        return self._async.reply_to

    @property
    def expiration(self) -> float | None:
        """Seconds, as `Message` takes them; None also for a text that is not a number of milliseconds."""
        return self._async.expiration

    @property
    def message_id(self) -> str | None:
        return self._async.message_id

    @property
    def timestamp(self) -> datetime | None:
        """None also for a time that `datetime` cannot hold; `properties.timestamp` has its seconds."""
        return self._async.timestamp

    @property
    def type(self) -> str | None:
        return self._async.type

    @property
    def user_id(self) -> str | None:
        return self._async.user_id

    @property
    def app_id(self) -> str | None:
        return self._async.app_id
