"""An exchange as the SDK hands it out: a name on a channel."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.native.layouts import FrameType

from .message import Message

if TYPE_CHECKING:
    from .channel import Channel
    from .queue import Queue


class ExchangeType(StrEnum):
    """How an exchange routes."""

    DIRECT = "direct"
    FANOUT = "fanout"
    TOPIC = "topic"
    HEADERS = "headers"


class Exchange:
    """Made by `Channel.declare_exchange`."""

    def __init__(self, channel: "Channel", name: str) -> None:
        self.channel = channel
        self.name = name

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r}>"

    def __str__(self) -> str:
        return self.name

    async def publish(
        self,
        message: Message,
        routing_key: "Queue | str",
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """See `Channel.publish`."""
        await self.channel.publish(
            message, routing_key, exchange=self.name, mandatory=mandatory, timeout_s=timeout_s
        )

    async def publish_many(
        self,
        messages: Iterable[Message],
        routing_key: "Queue | str",
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """See `Channel.publish_many`."""
        await self.channel.publish_many(
            messages, routing_key, exchange=self.name, mandatory=mandatory, timeout_s=timeout_s
        )

    async def bind(
        self,
        source: "Exchange | str",
        binding_key: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Have messages of another exchange come to this one, too."""
        await self.channel.request(
            FrameType.EXCHANGE_BIND, self.name, exchange_name(source), binding_key, dict(arguments or {})
        )

    async def unbind(
        self,
        source: "Exchange | str",
        binding_key: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Undo `bind`; that there is no such binding is no error."""
        await self.channel.request(
            FrameType.EXCHANGE_UNBIND, self.name, exchange_name(source), binding_key, dict(arguments or {})
        )

    async def delete(self, *, if_unused: bool = False) -> None:
        """Delete it with its bindings."""
        await self.channel.exchange_delete(self.name, if_unused=if_unused)


def exchange_name(exchange: Exchange | str) -> str:
    """Raises TypeError for what is neither an exchange nor a name."""
    if not isinstance(exchange, Exchange | str):
        kind = type(exchange).__name__
        raise TypeError(f"an exchange is what channel.declare_exchange returns, or its name, not {kind}")
    return str(exchange)
