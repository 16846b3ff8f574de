"""A broker's life: open the log, recover, listen, say that it is ready; and the same backwards.

Start: engine (which locks the directory) -> HTTP -> acquire (fences every earlier owner) -> recover ->
committer -> listeners -> ready.

Stop: stop accepting -> let what is under way become durable -> tell clients 320 -> close what is left -> last
commit and checkpoint -> close the engine -> 0.

A failed commit skips all politeness: nothing more is confirmed, `run` returns something else than 0, the next
start recovers. A damaged blob, found when it is read, ends it likewise; but that needs a person.

Nothing here belongs to the process as a whole (signals, the garbage collector, output): that is `process.py`,
so that a broker can also live in a thread of somebody else's process (`leveret.testing`).
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode
from leveret.storage.engine import Corrupt, EngineError, EngineStats, LogEngine
from leveret.storage.spill import Spill

from ..auth import Authenticator, User, hash_password
from ..broker import Broker
from ..clock import SystemClock
from ..durability.committer import Committer
from ..durability.journal import Journal
from ..durability.recovery import recover
from ..sessions.session import SessionSettings
from ..sessions.transport import Transport
from ..timers import LoopTimers
from .config import Config, ConfigError
from .garbage import Garbage
from .resources import ResourceWatch, limits_of
from .tls import TlsListener

log = logging.getLogger(__name__)

GROUP = 0  # the one group of a broker that owns everything
NODE = "leveret"
TICK_S = 0.5  # how often heartbeats are looked at
BACKLOG = 1024  # connections that wait for accept
GOODBYE_S = 1.0  # for clients to read why we leave; one that only publishes now and then never looks
EXIT_COMMIT_FAILED = 3


class Http(Protocol):
    """Where people and tools look at the broker: `HttpServer`."""

    port: int

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""

    async def stop(self) -> None:
        """Idempotent."""


class Server:
    """One broker; `run` is its life, `stop` ends it."""

    def __init__(
        self,
        config: Config,
        engine: LogEngine,
        spill: Spill,
        make_http: "Callable[[str, int, Broker, Server], Http] | None",
        on_ready: Callable[[], None],
    ) -> None:
        """`on_ready` is called when clients can connect. Without `make_http`, there is no HTTP.

        Raises ConfigError for files of TLS that cannot be used.
        """
        self._config = config
        self._engine = engine
        self._spill = spill
        self._make_http = make_http
        self._on_ready = on_ready
        self.port = config.port  # from `on_ready` on the real ones, also for 0
        self.tls_port = config.tls_port
        self.http_port = config.http_port
        self._clock = SystemClock()
        self._transports: set[Transport] = set()
        self._no_transports = asyncio.Event()
        self._no_transports.set()
        self._listeners: list[asyncio.Server] = []
        self._tls = TlsListener(config) if config.tls_port is not None else None
        self._stop = asyncio.Event()
        self._goodbye_s = GOODBYE_S
        self._committer: Committer | None = None  # from the end of recovery on
        self._garbage = Garbage(self._clock.monotonic_s())
        self.is_ready = False

    async def log_stats(self) -> EngineStats:
        """For the metrics."""
        return await self._engine.stats()

    async def run(self) -> int:
        await self._engine.open()
        try:
            await self._spill.open()  # after the engine, which has locked the directory
            return await self._run()
        finally:
            await self._spill.close()
            await self._engine.close()

    async def _run(self) -> int:
        config = self._config
        loop = asyncio.get_running_loop()
        journal = Journal(self._engine.caps.blob_max_bytes)
        self._broker = broker = Broker(
            clock=self._clock,
            timers=LoopTimers(loop, self._clock),
            journal=journal,
            spill=self._spill,
            schedule=loop.call_soon,
            kick_committer=self._kick_committer,
            limits=limits_of(config, self._engine),
            connections_max=config.connections_max,
            ack_timeout_ms=config.consumer_timeout_ms,
            producer_ttl_s=config.producer_ttl_s,
        )
        if self._make_http is None:
            return await self._recover_and_serve(broker)
        http = self._make_http(config.http_host, config.http_port, broker, self)
        with _naming(config.http_host, config.http_port, "--http-port"):
            await http.start()  # before recovery, which may take a while: it is alive, and not ready
        self.http_port = http.port
        try:
            return await self._recover_and_serve(broker)
        finally:
            await http.stop()

    def stop(self, goodbye_s: float = GOODBYE_S) -> None:
        """End `run`: clients have so long to read why we leave. To be called from the loop; idempotent."""
        self._goodbye_s = goodbye_s
        self._stop.set()

    def reload_tls(self) -> None:
        """Read the files of TLS again, for connections made from now on."""
        if self._tls is None:
            log.warning("no file to read again: TLS is off")
            return
        try:
            self._tls.reload()
        except ConfigError as error:
            log.error("TLS goes on as it was: %s", error)
        else:
            log.info("read the files of TLS again")

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    async def _recover_and_serve(self, broker: Broker) -> int:
        lease = await self._engine.acquire(GROUP, NODE)
        tail = await recover(self._engine, GROUP, lease, broker)
        self._committer = committer = Committer(self._engine, broker, tail, self._config.checkpoint_bytes)
        committing = asyncio.create_task(committer.run(), name="committer")
        reading = asyncio.create_task(broker.reader.run(self._engine, GROUP), name="reader")
        spilling = asyncio.create_task(broker.spiller.run(), name="spiller")
        watch = ResourceWatch(self._engine, broker.alarms, committer.kick)
        ticking = asyncio.create_task(self._tick(broker), name="ticker")
        watching = asyncio.create_task(watch.run(), name="watch")
        try:
            await watch.look()  # before anybody can publish
            await self._listen(broker)
            self._on_ready()
            self.is_ready = True
            return await self._serve_until_stopped(committer, committing, reading, spilling)
        finally:
            self.is_ready = False
            self._stop_listening()
            reading.cancel()
            spilling.cancel()
            ticking.cancel()
            watching.cancel()

    def _kick_committer(self) -> None:
        if self._committer is not None:  # else recovery is still filling queues
            self._committer.kick()

    async def _listen(self, broker: Broker) -> None:
        config = self._config
        user = User(config.default_user, hash_password(config.default_password), frozenset({"administrator"}))
        settings = SessionSettings(
            broker=broker,
            authenticator=Authenticator([user], config.loopback_users),
            frame_max_bytes=config.frame_max_bytes,
            channel_max=config.channel_max,
            heartbeat_s=config.heartbeat_s,
            message_size_max_bytes=config.message_size_max_bytes,
            product=config.server_product,
            version=config.server_version,
        )

        def make_transport() -> Transport:
            timeout_s = config.handshake_timeout_s
            return Transport(settings, timeout_s, self._transport_opened, self._transport_closed)

        loop = asyncio.get_running_loop()
        for host in config.host:
            if self.port is not None:
                with _naming(host, self.port, "--port"):
                    listener = await loop.create_server(make_transport, host, self.port, backlog=BACKLOG)
                self._listeners.append(listener)
                self.port = listener.sockets[0].getsockname()[1]  # the one that was free, if any would do
            if self._tls is not None and self.tls_port is not None:
                with _naming(host, self.tls_port, "--tls-port"):
                    self.tls_port = await self._tls.listen(host, self.tls_port, BACKLOG, make_transport)

    def _transport_opened(self, transport: Transport) -> None:
        self._transports.add(transport)
        self._no_transports.clear()
        if self.is_stopping:
            transport.abort()

    def _transport_closed(self, transport: Transport) -> None:
        self._transports.discard(transport)
        self._garbage.closed += 1
        if not self._transports:
            self._no_transports.set()

    async def _serve_until_stopped(
        self, committer: Committer, committing: "asyncio.Task[None]", *others: "asyncio.Task[None]"
    ) -> int:
        """`others` run until they are cancelled, or fail."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait((committing, *others, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (committing, *others):
            if task.done():
                return self._log_failed(task.exception())
        log.info("stopping")
        self.is_ready = False
        self._stop_listening()
        try:
            async with asyncio.timeout(self._config.shutdown_grace_s):
                await self._close_connections()
        except TimeoutError:
            log.warning("%d connections did not close in time", len(self._transports))
        for transport in list(self._transports):
            transport.abort()
        await self._no_transports.wait()
        committer.stop()
        await asyncio.wait((committing,))
        if committing.exception() is not None:
            return self._log_failed(committing.exception())
        self._broker.rest()
        try:
            await committer.finish()
        except EngineError as error:
            return self._log_failed(error)
        log.info("stopped")
        return 0

    def _stop_listening(self) -> None:
        """Idempotent."""
        for listener in self._listeners:
            listener.close()
        if self._tls is not None:
            self._tls.close()

    async def _close_connections(self) -> None:
        """Confirm what was published so far, then say goodbye and wait a moment for the clients to go."""
        durable = asyncio.Event()
        self._broker.journal.when_durable(durable.set)
        self._broker.turn.wake()
        await durable.wait()
        goodbye = HardError(
            ReplyCode.CONNECTION_FORCED, "broker forced connection closure with reason 'shutdown'"
        )
        for transport in list(self._transports):
            transport.close(goodbye)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._goodbye_s):
                await self._no_transports.wait()

    def _log_failed(self, error: BaseException | None) -> int:
        """Returns the exit code; raises what a restart does not mend."""
        what = "is damaged" if isinstance(error, Corrupt) else "could not be written"
        log.critical("the log %s, stopping without confirming anything more: %s", what, error)
        for transport in list(self._transports):
            transport.abort()
        if error is not None and (isinstance(error, Corrupt) or not isinstance(error, EngineError | OSError)):
            raise error
        return EXIT_COMMIT_FAILED

    async def _tick(self, broker: Broker) -> None:
        while True:
            try:
                self._look_around(broker)
            except Exception:  # out of file descriptors, say: the next time may be better
                log.exception("a periodic check failed")
            await asyncio.sleep(TICK_S)

    def _look_around(self, broker: Broker) -> None:
        """What must be looked at every now and then."""
        now_s = self._clock.monotonic_s()
        for transport in list(self._transports):
            transport.tick(now_s)
        for connection in list(broker.connections):
            connection.take_back_overdue(now_s)
        broker.producers.forget_old()
        broker.windows.weigh_some()
        self._garbage.look(now_s)


@contextlib.contextmanager
def _naming(host: str, port: int, option: str) -> Iterator[None]:
    """Make of an error at listening one that says where, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is in use; choose another one with {option}") from None
        raise OSError(f"cannot listen on port {port} of {host} ({option}): {error}") from error
