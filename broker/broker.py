"""The broker: the root of the domain. It owns the vhosts, the journal, the reader, the spiller and the turn;
the server owns it.

Everything below it is plain synchronous code on one thread; nothing here awaits.
"""

import base64
import logging
import secrets
from collections.abc import Callable

from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode
from leveret.storage.spill import Spill

from .alarms import NO_LIMITS, Alarms, Limits
from .auth import User
from .channels.direct_reply import DirectReplies
from .channels.producers import TTL_S as PRODUCER_TTL_S
from .channels.producers import Producers
from .clock import Clock
from .connection import Connection
from .counters import Counters, Latest
from .durability.journal import Journal
from .durability.reader import Reader
from .durability.spiller import Spiller
from .queues.windows import Windows
from .services import Services, TimersLike
from .turn import Turn
from .vhosts.vhost import Vhost

DEFAULT_VHOST = "/"
# Where nobody says otherwise:
CONNECTIONS_MAX = 10_000
ACK_TIMEOUT_MS = 1_800_000

QUEUE_ID_MAX = 2**32 - 1  # queue ids are u32 in the log

log = logging.getLogger(__name__)


class Broker:
    """One per process."""

    def __init__(
        self,
        *,
        clock: Clock,
        timers: TimersLike,
        journal: Journal,
        spill: Spill,
        schedule: Callable[[Callable[[], None]], object],
        kick_committer: Callable[[], None],
        limits: Limits = NO_LIMITS,
        windows: Windows | None = None,
        connections_max: int = CONNECTIONS_MAX,
        ack_timeout_ms: int = ACK_TIMEOUT_MS,
        producer_ttl_s: float = PRODUCER_TTL_S,
    ) -> None:
        self.clock = clock
        self.journal = journal
        self.alarms = Alarms(limits)
        self.ack_timeout_ms = ack_timeout_ms  # where neither consumer nor queue has one; 0: none
        self.counters = Counters()
        self.latest = Latest()
        self.direct_replies = DirectReplies()
        self.turn = Turn(schedule, kick_committer)
        self.producers = Producers(clock, journal, self.turn, producer_ttl_s)
        self.connections: dict[Connection, None] = {}
        self._connections_max = connections_max
        self.last_sequence = 0  # of the newest message
        self.last_queue_id = 0
        self.windows = Windows() if windows is None else windows
        self.spiller = Spiller(spill, self.windows, self.alarms)
        self.reader = Reader(journal, self.spiller.blobs, self.windows, self.counters)
        self.services = Services(
            clock=clock,
            journal=journal,
            turn=self.turn,
            timers=timers,
            reader=self.reader,
            spiller=self.spiller,
            next_sequences=self._next_sequences,
            next_queue_id=self._next_queue_id,
            random_name=_random_name,
        )
        self.vhosts: dict[str, Vhost] = {DEFAULT_VHOST: Vhost(DEFAULT_VHOST, self.services)}

    def open_vhost(self, name: str, user: User) -> Vhost:
        """The vhost, or a refusal as connection.open answers it."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            raise HardError(ReplyCode.NOT_ALLOWED, f"vhost {name} not found")
        if len(self.connections) >= self._connections_max:
            raise HardError(
                ReplyCode.NOT_ALLOWED,
                f"connection refused: node connection limit ({self._connections_max}) is reached",
            )
        return vhost

    def open_connection(self, vhost: Vhost, user: User, name: str) -> Connection:
        connection = Connection(self, vhost, user, name)
        self.connections[connection] = None
        self.counters.connections_opened += 1
        return connection

    def connection_closed(self, connection: Connection) -> None:
        """`Connection.close` says so."""
        if connection in self.connections:
            del self.connections[connection]
            self.counters.connections_closed += 1

    def rest(self) -> None:
        """All connections are closed: nothing is with consumers any more, so a clean stop is exact.

        The journal is not told: only the checkpoint that follows may say so, together with which messages
        were delivered before. A kill in between leaves the marks.
        """
        for vhost in self.vhosts.values():
            for queue in vhost.queues.values():
                queue.delivering = False

    def _next_sequences(self, count: int) -> int:
        first = self.last_sequence + 1
        self.last_sequence += count
        return first

    def _next_queue_id(self) -> int:
        if self.last_queue_id >= QUEUE_ID_MAX:
            raise HardError(ReplyCode.RESOURCE_ERROR, "the broker has run out of queue ids")
        self.last_queue_id += 1
        return self.last_queue_id


def _random_name() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
