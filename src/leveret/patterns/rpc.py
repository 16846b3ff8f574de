"""Call a procedure in another process, as if it were here: a request goes to a queue, its reply comes back.

    async with RpcServer(connection, "fibonacci", fibonacci):         # async def fibonacci(request) -> bytes
        ...

    async with RpcClient(connection) as client:
        reply = await client.call("fibonacci", b"30", timeout_s=5)
        print(reply.body)

On the wire it is what the RabbitMQ tutorial does (`reply_to` and `correlation_id`; the reply goes to the
default exchange), so either side may be somebody else's. Replies come by direct reply-to: no queue is made
for them, and there is nothing to clean up.

**A call ends in one of these ways.** A reply. `RemoteError`: the procedure raised; type and text of its error
come along (as text in headers: nothing is unpickled, so nothing is executed). `Unroutable`, at once: there is
no such queue. `CallTimeout`: no reply in time. `CallLost`, at once: the connection to the broker broke, and
with it the way back. After the last two it is open whether the procedure has run: call again only what may be
done twice. A call that is made while the connection is away waits for the next one, within its time.

**Nobody works for a caller who has gone.** A request expires in its queue when the call's time is over, and
the server stops a procedure that takes longer than the whole of it. A server that dies leaves its requests to
the next one. With `rerun=False` that one answers with a RemoteError `ServerLost` instead of running a
procedure that had perhaps run already.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from copy import copy
from types import TracebackType
from typing import Any, Self, TypeVar

from leveret.client import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionLost,
    Consumer,
    DeliveryMode,
    IncomingMessage,
    LeveretError,
    Message,
    Unroutable,
)

from .calling import awaitable
from .worker import Worker

log = logging.getLogger(__name__)

REPLY_TO = "amq.rabbitmq.reply-to"
ERROR_TYPE, ERROR_TEXT = "x-error-type", "x-error-text"  # the headers of a reply that is an error
ERROR_TEXT_MAX = 10_000  # characters
SERVER_LOST = "ServerLost"

T = TypeVar("T")

Procedure = Callable[[IncomingMessage], Awaitable[bytes | Message] | bytes | Message]


class RemoteError(Exception):
    """The procedure raised: `type` is the name of the error's class at the server, `text` what it said."""

    def __init__(self, type_: str, text: str) -> None:
        super().__init__(f"{type_}: {text}" if text else type_)
        self.type = type_
        self.text = text


class CallTimeout(TimeoutError):
    """No reply in time: the servers are busy, or there is none, or the procedure takes longer."""


class CallLost(LeveretError):
    """The connection broke while a call was under way: its reply cannot come any more."""


class RpcClient:
    """Any number of calls at once. See the module's docstring."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Channel | None = None
        self._calls: dict[str, asyncio.Future[IncomingMessage]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        connection.on_lost(self._lost)

    async def __aenter__(self) -> Self:
        await self._open_channel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def call(
        self,
        routing_key: str,
        body: bytes,
        *,
        timeout_s: float = 30.0,
        exchange: str = "",
        content_type: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> IncomingMessage:
        """Call the procedure that reads this queue, and return its reply. Raises what the module says."""
        correlation_id = secrets.token_hex(16)
        request = Message(
            body,
            headers=headers,
            content_type=content_type,
            delivery_mode=DeliveryMode.NOT_PERSISTENT,  # the caller would not survive what it would survive
            correlation_id=correlation_id,
            reply_to=REPLY_TO,
            expiration=timeout_s,
        )
        try:
            async with asyncio.timeout(timeout_s):
                channel = await self._open_channel()
                replied = self._calls[correlation_id] = asyncio.get_running_loop().create_future()
                reply = await _first_of(replied, channel.publish(request, routing_key, exchange=exchange))
        except TimeoutError:
            raise CallTimeout(f"{routing_key}: no reply within {timeout_s:g} s") from None
        except (ConnectionLost, ChannelClosed) as error:
            raise CallLost(f"{routing_key}: no reply can come any more: {error}") from None
        finally:
            self._calls.pop(correlation_id, None)
        return _result(reply)

    async def close(self) -> None:
        """Calls that are under way raise CallLost."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        if self._channel is not None:
            await self._channel.close()

    async def _open_channel(self) -> Channel:
        """The channel that replies come to; a new one when the last one has ended."""
        async with self._opening:
            if self._channel is None or self._reading is None or self._reading.done():
                self._channel = channel = await self._connection.channel()
                replies = await channel.get_queue(REPLY_TO, ensure=False)
                stack = AsyncExitStack()
                consumer = await stack.enter_async_context(replies.iterator(no_ack=True))
                self._reading = asyncio.create_task(self._read(consumer, stack))
            return self._channel

    async def _read(self, replies: Consumer, stack: AsyncExitStack) -> None:
        reason: Exception = ChannelClosed("the client was closed")
        try:
            async with stack:
                async for reply in replies:
                    waiting = self._calls.get(reply.correlation_id or "")
                    if waiting is not None and not waiting.done():  # else: it came too late
                        waiting.set_result(reply)
        except LeveretError as error:
            reason = error
        finally:
            self._lost(reason)

    def _lost(self, reason: Exception) -> None:
        """The address that replies go to is gone; the next connection has another one."""
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(CallLost(f"no reply can come any more: {reason}"))
                waiting.exception()  # its caller may not have come to wait for it


async def _first_of(replied: asyncio.Future[T], publishing: Coroutine[Any, Any, None]) -> T:
    """The reply, or what goes wrong with the publish. A reply needs no confirm."""
    published = asyncio.ensure_future(publishing)
    try:
        await asyncio.wait((replied, published), return_when=asyncio.FIRST_COMPLETED)
        if not replied.done():
            await published
        return await replied
    finally:
        published.cancel()


def _result(reply: IncomingMessage) -> IncomingMessage:
    """Raises RemoteError when the reply is one."""
    type_ = reply.headers.get(ERROR_TYPE)
    if type_ is not None:
        raise RemoteError(str(type_), str(reply.headers.get(ERROR_TEXT, "")))
    return reply


class RpcServer:
    """Runs a procedure for each request of a queue, which it declares. See the module's docstring.

    A procedure returns the body of the reply, or a Message with properties of its own. What it raises goes
    to the caller: say nothing in errors that callers must not know. A `def` runs in a thread, and cannot be
    stopped.
    """

    def __init__(
        self,
        connection: Connection,
        queue: str,
        procedure: Procedure,
        *,
        concurrency: int = 10,
        grace_s: float = 30.0,
        rerun: bool = True,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._procedure: Callable[[IncomingMessage], Awaitable[bytes | Message]] = awaitable(procedure)
        self._concurrency = concurrency
        self._grace_s = grace_s
        self._rerun = rerun
        self._channel: Channel | None = None
        self._worker: Worker | None = None
        self._working: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        self._channel = await self._connection.channel()
        queue = await self._channel.declare_queue(self._queue)
        self._worker = Worker(queue, self._answer, concurrency=self._concurrency, grace_s=self._grace_s)
        self._working = asyncio.create_task(self._worker.run(signals=()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the requests that are under way (for `grace_s`), leave the rest to other servers."""
        assert self._worker is not None
        assert self._channel is not None
        self._worker.stop()
        try:
            await self.wait()
        finally:
            await self._channel.close()

    async def wait(self) -> None:
        """Serve until the consumer or the connection ends; raises why."""
        if self._working is None:
            raise LeveretError("this server was not started: `async with RpcServer(...) as server:`")
        await self._working

    async def _answer(self, request: IncomingMessage) -> None:
        if request.redelivered and not self._rerun:
            text = "a server began this request and was lost before it replied"
            reply = _error_reply(SERVER_LOST, text)
        else:
            reply = await self._run(request)
        if request.reply_to is None:
            return
        try:
            await self._reply(request, reply)
        except ValueError as error:  # such as a body that is too large
            await self._reply(request, _error_reply(type(error).__qualname__, str(error)))

    async def _run(self, request: IncomingMessage) -> Message:
        try:
            async with asyncio.timeout(request.expiration):  # after that nobody waits for it
                result = await self._procedure(request)
            return result if isinstance(result, Message) else Message(result)
        except Exception as error:
            log.info("%r: the procedure raised %r", request, error)
            return _error_reply(type(error).__qualname__, str(error))

    async def _reply(self, request: IncomingMessage, reply: Message) -> None:
        assert self._channel is not None
        assert request.reply_to is not None
        reply = copy(reply)  # the procedure may return the same one to many
        reply.correlation_id = request.correlation_id
        reply.delivery_mode = DeliveryMode.NOT_PERSISTENT
        try:
            await self._channel.publish(reply, request.reply_to)
        except Unroutable:
            log.info("%r: its caller has gone", request)


def _error_reply(type_: str, text: str) -> Message:
    return Message(b"", headers={ERROR_TYPE: type_, ERROR_TEXT: text[:ERROR_TEXT_MAX]})
