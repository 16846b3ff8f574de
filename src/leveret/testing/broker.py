"""`Broker`: what a test sees of a broker in its own process. `thread.py` is what runs it."""

import asyncio
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from .thread import BrokerThread

HOST = "127.0.0.1"

Storage = Literal["memory", "disk"]


class Broker:
    """A broker that runs from the moment it is made, on free ports of this machine, in a thread of its own.

    Threads, event loops and other processes may connect to it; any number of brokers may run at once. It is
    the real one: whatever a test sees here, `leveret serve` does, too.

        with leveret.testing.Broker() as broker:       # or `async with`; or call `stop` yourself
            connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))

    Args:
        storage: "memory" forgets everything when the broker stops; "disk" keeps it in a temporary directory
            over `restart`, and is deleted by `stop`.
        http: also answer health checks and metrics, at `http_url`.
        options: any option of `leveret serve`, such as `heartbeat_s=1`.

    Raises what made the start fail.
    """

    _thread: "BrokerThread | None" = None  # while it runs

    def __init__(self, *, storage: Storage = "memory", http: bool = False, **options: Any) -> None:
        if storage not in ("memory", "disk"):
            raise ValueError(f"storage must be memory or disk, not {storage!r}")
        self._http = http
        self._options = options
        self._directory = tempfile.TemporaryDirectory(prefix="leveret-") if storage == "disk" else None
        self._port = 0  # any free one; after the first start the same over restarts
        self._http_port = 0
        try:
            self._start()
        except BaseException:
            self._clean_up()
            raise

    def __repr__(self) -> str:
        return f"<Broker {self.amqp_url}>" if self.is_running else "<Broker, stopped>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)  # so that this loop's clients can say goodbye

    # Where it is

    @property
    def url(self) -> str:
        """For `leveret.connect` and `leveret.sync.connect`."""
        return f"leveret://guest:guest@{HOST}:{self.port}/"

    @property
    def amqp_url(self) -> str:
        """For clients of AMQP 0-9-1: pika, aio-pika, Celery and the like."""
        return f"amqp://guest:guest@{HOST}:{self.port}/%2F"

    @property
    def http_url(self) -> str:
        """The root of /healthz, /readyz and /metrics."""
        self._require_running()
        if not self._http:
            raise RuntimeError("this broker has no HTTP; make it with Broker(http=True)")
        return f"http://{HOST}:{self._http_port}"

    @property
    def port(self) -> int:
        """Of AMQP and of the native protocol."""
        self._require_running()
        return self._port

    @property
    def data_dir(self) -> Path | None:
        """The directory of storage "disk"; deleted by `stop`."""
        return None if self._directory is None else Path(self._directory.name)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def _require_running(self) -> None:
        if self._thread is None:
            raise RuntimeError("this broker was stopped")

    # Its life

    def stop(self) -> None:
        """Stop it: connections are closed, and everything is forgotten. Idempotent.

        Raises what ended the broker, if it has failed meanwhile. In a coroutine, `async with` or
        `await asyncio.to_thread(broker.stop)` let the clients of the same loop see the connection's end.
        """
        try:
            self._stop()
        finally:
            self._clean_up()

    def restart(self) -> None:
        """Stop it and start it again at the same URLs. With storage on the disk, all that is durable is still
        there: durable queues and exchanges, and persistent messages in them.
        """
        self._require_running()
        self._stop()
        self._start()

    def _start(self) -> None:
        from .thread import BrokerThread  # noqa: PLC0415 -- all of the broker: only those who need it wait

        thread = BrokerThread(self.data_dir, self._http, self._options, self._port, self._http_port)
        thread.start()
        self._port, self._http_port = thread.port, thread.http_port
        self._thread = thread
        self._forgotten = weakref.finalize(self, thread.stop)  # also at the end of the process

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._forgotten.detach()
            thread.stop()

    def _clean_up(self) -> None:
        if self._directory is not None:
            self._directory.cleanup()
