"""A message that came from a queue, and what its reader does with it: `ack`, `nack`, `reject`, once."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import BasicProperties, decode_properties
from leveret.protocol.native.fields import REDELIVERED
from leveret.protocol.native.layouts import FrameType

from .codecs import decode_body
from .done import DONE, Done
from .errors import AlreadySettled
from .processing import Processing
from .settler import ACK, Settler

if TYPE_CHECKING:
    from .channel import Channel

T = TypeVar("T")


class IncomingMessage:
    """Made by the channel for each delivery. Its properties are decoded when they are first looked at."""

    __slots__ = (
        "_decoded",
        "_flags",
        "_properties",
        "_settled",
        "_settler",
        "body",
        "delivery_tag",
        "exchange",
        "message_count",
        "routing_key",
    )

    def __init__(
        self,
        settler: Settler,
        delivery_tag: int,
        flags: int,
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
        message_count: int | None = None,
    ) -> None:
        self._settler = settler
        self.delivery_tag = delivery_tag
        self._flags = flags
        self.exchange = exchange
        self.routing_key = routing_key
        self._properties = properties
        self._decoded: BasicProperties | None = None
        self._settled: str | None = None  # how it was settled; None: it waits for that
        self.body = body
        self.message_count = message_count
        """Of `Queue.get`: how many more were ready then."""

    def __repr__(self) -> str:
        number, size = self.delivery_tag, len(self.body)
        return f"<IncomingMessage {number} to {self.exchange!r} {self.routing_key!r}, {size} bytes>"

    @property
    def channel(self) -> "Channel":
        """The one that it came on."""
        return self._settler.channel

    # Settling

    def ack(self, *, multiple: bool = False) -> Done:
        """Done: the broker forgets the message. The acks of one loop turn leave together.

        It takes effect at once; `await message.ack()` and `message.ack()` are the same. A `def` handler may
        call it from its thread.

        `multiple`: this message and every unsettled one that the channel was sent before it, whoever has it:
        with several consumers on a channel also what theirs have not looked at yet.

        Raises AlreadySettled the second time, DeliveryLost when the connection broke since the message came,
        ChannelClosed, and WrongLoop.
        """
        return self._settle("acked", ACK, False, multiple)

    def nack(self, *, requeue: bool = True, multiple: bool = False) -> Done:
        """Hand it back (`requeue`), or have it dead-lettered or dropped. It counts as no failed delivery.

        At once, with `multiple`, and with errors as `ack`.
        """
        return self._settle("nacked", FrameType.NACK, requeue, multiple)

    def reject(self, *, requeue: bool = False) -> Done:
        """It could not be processed: dead-letter or drop it, or requeue it with one more failed delivery.

        At once, and with errors as `ack`.
        """
        return self._settle("rejected", FrameType.REJECT, requeue, False)

    async def extend(self) -> None:
        """Have the broker's consumer timeout begin anew for this message: its handler is alive and needs
        longer.

        The broker closes a channel that leaves a message unsettled for too long (`x-consumer-timeout` of the
        consumer or the queue, else the broker's own). For handlers there is `extend_every_s`.
        """
        if self.is_settled:
            raise self._settled_before("extended")
        await self._settler.extend((self.delivery_tag,))

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, nacked or rejected (or came with `no_ack`)."""
        return self._settled is not None or self.delivery_tag <= self._settler.settled_through

    @property
    def is_lost(self) -> bool:
        """It cannot be settled any more: its connection broke, or its channel was closed."""
        return self._settler.error is not None

    def settled_by_delivery(self) -> None:
        """It came with `no_ack`: there is nothing left to do."""
        self._settled = "delivered with no_ack"

    def ack_taken(self) -> None:
        """Ack it for an application that has asked for `no_ack`."""
        self._settled = "delivered with no_ack"
        self._settler.ack(self.delivery_tag)

    def ack_returned(self) -> None:
        """Ack it for a handler that has returned."""
        self._settle("acked when its handler returned (see ack_on_return)", ACK, False, False)

    def give_back(self) -> None:
        """Requeue it if that can and must be done: nobody has looked at it, or its handler is cancelled."""
        if not self.is_settled and not self.is_lost:
            self.nack(requeue=True)

    def _settle(self, how: str, type_: FrameType, requeue: bool, multiple: bool) -> Done:
        settler = self._settler
        if self._settled is not None or self.delivery_tag <= settler.settled_through:
            raise self._settled_before(how)
        settle = settler.settle if settler.admit(self) else settler.hand_over
        self._settled = how
        settle(type_, self.delivery_tag, requeue, multiple)
        return DONE

    def _settled_before(self, how: str) -> AlreadySettled:
        before = self._settled or "settled with multiple=True on a later message"
        return AlreadySettled(
            f"message {self.delivery_tag} cannot be {how}: it was {before} before; look at message.is_settled"
        )

    def unsettle(self) -> None:
        """The transaction that settled it was rolled back: it waits again."""
        self._settled = None

    def process(
        self, *, requeue: bool = False, reject_on_redelivered: bool = False, ignore_processed: bool = False
    ) -> Processing:
        """`async with message.process():` ack it when the block ends well, reject it when the block raises,
        hand it back when the block is cancelled. The block's error goes on its way.

        Args:
            requeue: reject with requeue: it comes again, at once.
            reject_on_redelivered: with `requeue`, but not a second time.
            ignore_processed: the block may settle the message itself; without this, that raises
                AlreadySettled at the end of the block.

        When the connection broke meanwhile, the broker delivers the message again: that is logged.
        """
        return Processing(
            self,
            requeue=requeue and not (reject_on_redelivered and self.redelivered),
            ignore_processed=ignore_processed,
        )

    # The body

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
        return decode_body(self.body, self.content_type, self.content_encoding, into)

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
