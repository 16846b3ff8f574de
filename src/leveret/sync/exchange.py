"""`Exchange` for synchronous code.

Written by generate.py from leveret.client.exchange: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from collections.abc import Iterable, Mapping

from leveret.client import exchange as aio
from leveret.client.message import Message
from leveret.protocol.amqp.field_table import FieldValue

from . import channel as _channel
from . import queue as _queue
from .face import Face, bare


class Exchange(Face[aio.Exchange]):
    """Made by `Channel.declare_exchange`."""

    __slots__ = ()

    @property
    def channel(self) -> _channel.Channel:
        return _channel.Channel(self._portal, self._async.channel)

    @property
    def name(self) -> str:
        return self._async.name

    def publish(
        self,
        message: Message,
        routing_key: _queue.Queue | str,
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """See `Channel.publish`."""
        self._portal.run(
            lambda: self._async.publish(message, bare(routing_key), mandatory=mandatory, timeout_s=timeout_s)
        )

    def publish_many(
        self,
        messages: Iterable[Message],
        routing_key: _queue.Queue | str,
        *,
        mandatory: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """See `Channel.publish_many`."""
        messages = list(messages)  # in this thread
        self._portal.run(
            lambda: self._async.publish_many(
                messages, bare(routing_key), mandatory=mandatory, timeout_s=timeout_s
            )
        )

    def bind(
        self, source: Exchange | str, binding_key: str = "", arguments: Mapping[str, FieldValue] | None = None
    ) -> None:
        """Have messages of another exchange come to this one, too."""
        self._portal.run(lambda: self._async.bind(bare(source), binding_key, arguments))

    def unbind(
        self, source: Exchange | str, binding_key: str = "", arguments: Mapping[str, FieldValue] | None = None
    ) -> None:
        """Undo `bind`; that there is no such binding is no error."""
        self._portal.run(lambda: self._async.unbind(bare(source), binding_key, arguments))

    def delete(self, *, if_unused: bool = False) -> None:
        """Delete it with its bindings."""
        self._portal.run(lambda: self._async.delete(if_unused=if_unused))
