"""`Queue` and `Iteration` for synchronous code.

Written by generate.py from leveret.client.queue: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, overload

from leveret.client import queue as aio
from leveret.protocol.amqp.field_table import FieldValue

from . import callbacks
from . import channel as _channel
from . import consumer as _consumer
from . import exchange as _exchange
from . import incoming as _incoming
from .face import Face, bare


class Queue(Face[aio.Queue]):
    """Made by `Channel.declare_queue`. The counts are of that moment."""

    __slots__ = ()

    @property
    def channel(self) -> _channel.Channel:
        return _channel.Channel(self._portal, self._async.channel)

    @property
    def name(self) -> str:
        return self._async.name

    @property
    def message_count(self) -> int:
        return self._async.message_count

    @property
    def consumer_count(self) -> int:
        return self._async.consumer_count

    def __iter__(self) -> Iterator[_incoming.IncomingMessage]:
        """`for message in queue`: for ever, or until the loop is left."""
        return self._portal.iterate(lambda: aiter(self._async), _incoming.IncomingMessage)

    def iterator(
        self,
        *,
        prefetch_count: int | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> Iteration:
        """Read the queue in a loop:

            with queue.iterator() as messages:
                for message in messages:
                    with message.process():
                        ...

        Leaving the block ends the consumer, and what arrived but was not taken goes back to the queue.
        Raises ConsumerCancelled when the broker ends the consumer (the queue was deleted).

        Args:
            prefetch_count: how many unsettled messages this consumer may have; else what `set_qos` said.
            no_ack: a message is done when the loop takes it.
            exclusive: be the only consumer, or raise AccessRefused.
            consumer_tag: a name for operators; the broker picks one.
            arguments: such as `{"x-priority": 10}`, or `{"x-consumer-timeout": 60_000}` (milliseconds).
        """
        return Iteration(
            self._portal,
            self._portal.call(
                lambda: self._async.iterator(
                    prefetch_count=prefetch_count,
                    no_ack=no_ack,
                    exclusive=exclusive,
                    consumer_tag=consumer_tag,
                    arguments=arguments,
                )
            ),
        )

    def consume(
        self,
        callback: callbacks.Callback,
        *,
        concurrency: int = 1,
        prefetch_count: int | None = None,
        on_error: callbacks.OnError = "reject",
        ack_on_return: bool = True,
        extend_every_s: float | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> _consumer.Consumer:
        """Have a function called for each message, until `consumer.stop()` or `cancel()`:

            def work(message: leveret.sync.IncomingMessage) -> None:
                order = message.decode()
                ...

            consumer = queue.consume(work, concurrency=10)

        A message is acked when the function returns, and rejected (dead-lettered, if the queue has a
        dead-letter exchange) when it raises. The function may settle it itself; `with
        message.process():` does that, too.

        It runs in a thread, of which there are as many as the concurrency, and may block for as long as it
        likes: heartbeats go on.

        Args:
            callback: what to call.
            concurrency: how many messages may be handled at the same time.
            prefetch_count: how many unsettled messages the consumer may have, those that are handled
                included; else what `set_qos` said, but at least the concurrency. Few for long work, so that
                other consumers get their share; more than the concurrency for short work, so that handlers
                need not wait for the network.
            on_error: what happens to a message whose function raises, if it is not settled by then.
                "reject": it is dead-lettered or dropped, for it would only fail again. "requeue": it comes
                again, at once, for ever (unless the queue has a delivery limit). "requeue_once": it comes
                again, and is rejected when it was redelivered and fails. Or a function (`def` or `async
                def`) of the message and the error, which may settle it in any way; what it leaves is
                rejected.
            ack_on_return: with False, a message that was not settled when the function returns waits for
                somebody else to do that, to whom the function has given it.
            extend_every_s: extend all that this consumer holds every so often (see
                `IncomingMessage.extend`), so that handlers may take longer than the broker's consumer
                timeout. Not on by default: the timeout is what finds a handler that hangs.
            no_ack, exclusive, consumer_tag, arguments: see `iterator`.

        When the connection breaks, handlers that run go on; their message comes again. When the broker ends
        the consumer, that is logged; `consumer.wait()` raises it.
        """
        return _consumer.Consumer(
            self._portal,
            self._portal.run(
                lambda: self._async.consume(
                    callbacks.handler(self._portal, callback),
                    concurrency=concurrency,
                    prefetch_count=prefetch_count,
                    on_error=callbacks.on_error(self._portal, on_error),
                    ack_on_return=ack_on_return,
                    extend_every_s=extend_every_s,
                    no_ack=no_ack,
                    exclusive=exclusive,
                    consumer_tag=consumer_tag,
                    arguments=arguments,
                )
            ),
        )

    @overload
    def get(self, *, no_ack: bool = False, fail: Literal[True] = True) -> _incoming.IncomingMessage: ...

    @overload
    def get(self, *, no_ack: bool = False, fail: bool) -> _incoming.IncomingMessage | None: ...

    def get(self, *, no_ack: bool = False, fail: bool = True) -> _incoming.IncomingMessage | None:
        """Take one message; its `message_count` says how many more are ready. When there is none: raise
        QueueEmpty, or return None with `fail=False`.

        This is one round trip for each message: a loop over the queue is many times faster.
        """
        method: Any = self._async.get
        found = self._portal.run(lambda: method(no_ack=no_ack, fail=fail))
        return None if found is None else _incoming.IncomingMessage(self._portal, found)

    def bind(
        self,
        exchange: _exchange.Exchange | str,
        binding_key: str | None = None,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Have messages of an exchange come here; without a binding key, the queue's name is the key."""
        self._portal.run(lambda: self._async.bind(bare(exchange), binding_key, arguments))

    def unbind(
        self,
        exchange: _exchange.Exchange | str,
        binding_key: str | None = None,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        """Undo `bind`; that there is no such binding is no error."""
        self._portal.run(lambda: self._async.unbind(bare(exchange), binding_key, arguments))

    def purge(self) -> int:
        """Drop what is ready; returns how many messages that was."""
        return self._portal.run(self._async.purge)

    def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue; returns how many messages went with it."""
        return self._portal.run(lambda: self._async.delete(if_unused=if_unused, if_empty=if_empty))


class Iteration(Face[aio.Iteration]):
    """What `Queue.iterator` returns: `with` it for a `Consumer`, or loop over it."""

    __slots__ = ()

    def __enter__(self) -> _consumer.Consumer:
        return _consumer.Consumer(self._portal, self._portal.run(self._async.__aenter__))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.end(lambda: self._async.__aexit__(kind, error, traceback))

    def __iter__(self) -> Iterator[_incoming.IncomingMessage]:
        return self._portal.iterate(lambda: aiter(self._async), _incoming.IncomingMessage)
