"""`Consumer` for synchronous code.

Written by generate.py from leveret.client.consumer: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from types import TracebackType
from typing import Self

from leveret.client import consumer as aio

from . import channel as _channel
from . import incoming as _incoming
from .face import Face


class Consumer(Face[aio.Consumer]):
    """An iterator of messages, or what feeds a handler. End it with `stop` or `cancel`, or use it as a
    context manager.

    Several threads may iterate over one consumer; each message goes to one of them.
    """

    __slots__ = ()

    @property
    def channel(self) -> _channel.Channel:
        return _channel.Channel(self._portal, self._async.channel)

    @property
    def consumer_tag(self) -> str:
        return self._async.consumer_tag

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.end(lambda: self._async.__aexit__(kind, error, traceback))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _incoming.IncomingMessage:
        try:
            return _incoming.IncomingMessage(self._portal, self._portal.run(self._async.__anext__))
        except StopAsyncIteration:
            raise StopIteration from None

    def stop(self, timeout_s: float | None = None) -> None:
        """End it gracefully: no more is sent, handlers that run finish, the rest goes back to the queue.

        Handlers that have not finished after `timeout_s` are cancelled; their messages go back, too. (A `def`
        handler cannot be cancelled: its thread goes on, but what it returns does not count.) Without a
        timeout it waits for them as long as it takes; `cancel`, called meanwhile, ends that.

        A loop over the consumer ends when it asks for the next message. A handler may stop its own consumer:
        it is not waited for, and without a timeout does not wait for the others (`wait` does). May be called
        any number of times.
        """
        self._portal.end(lambda: self._async.stop(timeout_s))

    def cancel(self) -> None:
        """End it at once: as `stop`, but handlers that run are cancelled (not the one that calls this)."""
        self._portal.end(self._async.cancel)

    def wait(self) -> None:
        """Wait until it has ended and its handlers have finished.

        Returns after `stop` or `cancel`. Raises ConsumerCancelled when the broker ended it (its queue was
        deleted), ChannelClosed or ConnectionLost when there is nothing left to consume from.
        """
        self._portal.run(self._async.wait)
