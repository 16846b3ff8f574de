"""The whole domain without sockets: broker, journal, committer, recovery on an engine, and noting clients.
note what they get.

Time stands still until a test moves it; a turn of the loop ends when the test says so.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fake_services import FakeClock, FakeTimers

from leveret.broker.alarms import NO_LIMITS, Limits
from leveret.broker.auth import User
from leveret.broker.broker import DEFAULT_VHOST, Broker
from leveret.broker.channels.channel import Channel
from leveret.broker.connection import Connection
from leveret.broker.durability.committer import Committer
from leveret.broker.durability.journal import Journal
from leveret.broker.durability.recovery import recover
from leveret.broker.message import Message
from leveret.broker.queues.delivery import Delivery
from leveret.broker.queues.windows import Windows
from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.protocol.errors import AmqpError
from leveret.storage.engine import LogEngine
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.spill import Spill

GROUP = 0
USER = User("guest", "")
PERSISTENT = encode_properties(BasicProperties(delivery_mode=2))
TRANSIENT = encode_properties(BasicProperties(delivery_mode=1))


@dataclass
class Delivered:
    """One basic.deliver."""

    consumer_tag: str
    delivery_tag: int
    body: bytes
    redelivered: bool


@dataclass
class NotingWire:
    """A channel's wire that writes down what the client would get."""

    delivered: list[Delivered] = field(default_factory=list)
    returned: list[tuple[bytes, int, str]] = field(default_factory=list)
    confirms: list[tuple[str, int, bool]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    closed_by: list[AmqpError] = field(default_factory=list)
    writable: bool = True
    understands_cancel: bool = True

    def deliver(self, consumer_tag: str, first_tag: int, deliveries: Sequence[Delivery]) -> None:
        for tag, (redelivered, _, _, properties, body) in enumerate(deliveries, first_tag):
            self.note(Delivered(consumer_tag, tag, body, redelivered), properties)

    def note(self, delivered: Delivered, properties: bytes) -> None:
        self.delivered.append(delivered)

    def return_message(self, message: Message, reply_code: int, reply_text: str) -> None:
        self.returned.append((message.body, reply_code, reply_text))

    def confirm(self, publish_tag: int, multiple: bool) -> None:
        self.confirms.append(("ack", publish_tag, multiple))

    def refuse(self, publish_tag: int, multiple: bool) -> None:
        self.confirms.append(("nack", publish_tag, multiple))

    def cancel_consumer(self, consumer_tag: str, *, queue_is_gone: bool) -> bool:
        self.cancelled.append(consumer_tag)
        return self.understands_cancel

    def close_channel(self, error: AmqpError) -> None:
        self.closed_by.append(error)

    def room(self) -> int:
        return sys.maxsize if self.writable else 0

    @property
    def bodies(self) -> list[bytes]:
        """What was delivered, in order."""
        return [delivered.body for delivered in self.delivered]


class Client:
    """One connection with one channel."""

    def __init__(self, broker: Broker) -> None:
        self.wire = NotingWire()
        self.connection: Connection = broker.open_connection(broker.vhosts[DEFAULT_VHOST], USER, "test")
        self.channel: Channel = self.connection.open_channel(1, self.wire)

    def declare(self, name: str, *, durable: bool = True, **arguments: FieldValue) -> None:
        """Declare a queue; `x_message_ttl=5` becomes the argument `x-message-ttl`."""
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.channel.queue_declare(
            name, passive=False, durable=durable, exclusive=False, auto_delete=False, arguments=table
        )

    def publish(self, queue: str, *bodies: bytes, properties: bytes = PERSISTENT) -> None:
        for body in bodies:
            self.channel.publish("", queue, False, False, properties, [body])

    def consume(self, queue: str, tag: str = "consumer", *, no_ack: bool = False) -> None:
        self.channel.consume(queue, tag, no_ack=no_ack, exclusive=False, arguments={})

    def get(self, queue: str) -> tuple[bytes, bool] | None:
        """Body and redelivered of the head, which stays unacked."""
        got = self.channel.get(queue, no_ack=False)
        return None if got is None else (got.copy.message.body, got.copy.redelivered)

    def drain(self, queue: str) -> list[tuple[bytes, bool]]:
        """Everything ready, as `get` gives it."""
        return list(iter(lambda: self.get(queue), None))  # type: ignore[arg-type]  # None ends it


class WholeBroker:
    """`start` it on an open engine; `crash` or `stop` it; start another one on the same engine."""

    def __init__(
        self,
        engine: LogEngine,
        *,
        checkpoint_every_bytes: int = 1 << 20,
        limits: Limits = NO_LIMITS,
        windows: Windows | None = None,
        spill: Spill | None = None,
    ) -> None:
        """`windows` 0: whatever may be on the disk only is."""
        self._engine = engine
        self._spill = MemorySpill() if spill is None else spill
        self._checkpoint_every_bytes = checkpoint_every_bytes
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self._scheduled: list[Callable[[], None]] = []
        self.broker = Broker(
            clock=self.clock,
            timers=self.timers,
            journal=Journal(engine.caps.blob_max_bytes),
            spill=self._spill,
            schedule=self._scheduled.append,
            kick_committer=lambda: None,
            limits=limits,
            windows=windows,
        )
        self._committer: Committer | None = None

    async def start(self, *, read_back: bool = True) -> "WholeBroker":
        """Acquire and recover; `read_back` brings all messages into memory, so that nobody has to wait."""
        await self._spill.open()
        lease = await self._engine.acquire(GROUP, "test")
        tail = await recover(self._engine, GROUP, lease, self.broker)
        self._committer = Committer(self._engine, self.broker, tail, self._checkpoint_every_bytes)
        if read_back:
            await self.read_everything()
        return self

    async def read(self) -> None:
        """Let the reader bring what lanes want, and let the turn end."""
        self.end_turn()
        while self.broker.reader.is_wanted:
            await self.broker.reader.read(self._engine, GROUP)
            self.end_turn()

    async def spill(self) -> None:
        """Let the spiller write what lanes have too much of."""
        self.end_turn()
        while self.broker.spiller.is_wanted:
            await self.broker.spiller.spill()

    async def read_everything(self) -> None:
        """Bring all that is cold into memory."""
        for queue in self.broker.vhosts[DEFAULT_VHOST].queues.values():
            for lane in queue.lanes:
                while any(lane.cold_tables):
                    lane.want_more()
                    await self.broker.reader.read(self._engine, GROUP)

    def client(self) -> Client:
        return Client(self.broker)

    def end_turn(self) -> None:
        """Let what was scheduled happen."""
        while self._scheduled:
            self._scheduled.pop(0)()

    async def commit(self) -> None:
        """End the turn and make everything pending durable, until nothing is pending any more."""
        assert self._committer is not None
        self.end_turn()
        while self.broker.journal.has_pending:
            await self._committer.commit()
            self.end_turn()
        await self._committer.keep_up()
        await self.read()

    async def commit_batch(self) -> None:
        """One group commit of what is pending now, and nothing else."""
        assert self._committer is not None
        await self._committer.commit()
        await self._committer.keep_up()

    @property
    def spilled_copies(self) -> int:
        """How many copies the blobs of the spill are kept for."""
        return sum(blob.live_copies for blob in self.broker.spiller.blobs)

    @property
    def spilled_bytes(self) -> int:
        """What the spill holds."""
        return self._spill.stats.bytes

    @property
    def live_copies(self) -> int:
        """How many copies the blobs of the log are kept for."""
        assert self._committer is not None
        return sum(blob.live_copies for blob in self.broker.journal.blobs)

    async def stop(self) -> None:
        """A clean stop: everybody goes, the last commit, a checkpoint."""
        assert self._committer is not None
        for connection in list(self.broker.connections):
            connection.close()
        await self.commit()
        self.broker.rest()
        await self._committer.finish()
