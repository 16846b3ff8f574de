"""A TCP proxy in front of a broker that does to connections what networks do: break them, slow them down, or
go silent, so that both ends take a dead connection for a live one. With an SSL context it is a TLS endpoint.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Self

READ_BYTES = 1 << 16


class Proxy:
    """`async with Proxy(broker_port) as proxy:` connect to `proxy.port`."""

    def __init__(self, target_port: int, ssl_context: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        self.port = 0  # set when it listens
        self.delay_s = 0.0  # of everything that passes, either way
        self.accepted = 0  # connections so far
        self.refuses = False  # drops new connections at once
        self._ssl_context = ssl_context
        self._passes = asyncio.Event()  # clear: it is silent
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.cut()

    @property
    def url(self) -> str:
        return f"leveret{'s' if self._ssl_context else ''}://guest:guest@127.0.0.1:{self.port}/"

    def cut(self) -> None:
        """Break all connections."""
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()

    def go_silent(self) -> None:
        """Pass nothing on any more, and say nothing about it."""
        self._passes.clear()

    def pass_again(self) -> None:
        """Pass on what has come meanwhile, and all that follows."""
        self._passes.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            if not self.refuses:
                await self._serve(reader, writer)
        except OSError:
            pass  # one end has gone
        except asyncio.CancelledError:
            pass  # the proxy is closed; the server's own callback would log it
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        ends = {writer, target_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, target_writer))
                group.create_task(self._pass(target_reader, writer))
        except* OSError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        await self._passes.wait()  # the end of a stream is news, too
        writer.close()
