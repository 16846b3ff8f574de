"""A queue: ready messages, the consumers they go to, and the rules by which messages leave otherwise.

The vhost makes queues and finds them by name; a channel publishes into them, settles and gives back what it
got from them.

Whatever happens to a queue in a turn of the loop (`enqueue`, `requeue`, a consumer that may take again, a
timer) only notes it and marks the queue; `dispatch` then carries out all consequences at once: messages go
to consumers, expired and surplus ones leave, dead ones are republished. Therefore `enqueue` never reaches
into another queue or a channel, and no chain of dead-letter exchanges can recurse. Whoever asks what a
queue holds (`take`, `message_count`, ...) gets the state after those consequences, as if each had happened
at once.

Invariants:
- Every copy that was given to the journal is settled there exactly once, also when the queue is deleted
  before.
- A copy is READY while it lies in `_ready`, UNACKED while a channel has it, GONE from the moment its end is
  certain.
- An expired copy is never handed out, however late the timer is.
- What is ready may be on the disk only (see `lane.py`). Then whatever needs it (a consumer, a length limit,
  an expiry) has to wait for the reader, which calls `was_read`.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.amqp.properties import PropertyFacts
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..message import CopyState, Message, QueuedMessage
from .consumer import Consumer
from .consumers import Consumers
from .dead_letter import DeathReason, dead_letter
from .expiry import MessageExpiry, QueueExpiry
from .lane import Lane
from .queue_arguments import QueueSettings
from .ready import NOTHING_READY, ReadyMessages, ready_messages
from .runs import SpilledRuns, keep_live

if TYPE_CHECKING:
    from ..vhosts.vhost import Vhost

BURIALS_MAX = 8  # per dispatch: one costs up to 0.1 ms, and when a backlog expires others must get their turn
# Copies whose end is certain, and their bodies; while there are more, expired ones on the disk stay there.
BURYING_AT = 512
BURYING_AT_BYTES = 4 * 1024 * 1024

_READY, _UNACKED, _GONE = CopyState  # looked up per message


class _Death(NamedTuple):
    """A copy whose end is certain but not yet carried out."""

    copy: QueuedMessage
    reason: DeathReason
    was_accepted: bool  # False: refused before it was in the queue, the journal never heard of it


# What most of ten thousand queues have; replaced when there is something.
_NO_CONSUMERS = Consumers(single_active=False)
_NO_DEATHS: Mapping[DeathReason, int] = MappingProxyType(dict.fromkeys(DeathReason, 0))


class HeadNotInMemory(Exception):
    """What is ready must be read from the disk first; ask again when `Queue.when_read` calls."""

    def __init__(self, queue: "Queue") -> None:
        super().__init__()
        self.queue = queue


class Queue:
    """See the module's docstring."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_consumers",
        "_delivery_limit",
        "_drops_surplus",
        "_dying",
        "_dying_bytes",
        "_journal",
        "_marked",
        "_max_priority",
        "_message_expiry",
        "_message_ttl_ms",
        "_now_or_never",
        "_queue_expiry",
        "_reader",
        "_ready",
        "_spiller",
        "_turn",
        "_waiting_to_read",
        "arguments",
        "auto_delete",
        "counts_deliveries",
        "deaths_total",
        "delivered_total",
        "delivering",
        "durable",
        "enqueued_total",
        "exclusive_owner",
        "got_total",
        "has_grown",
        "id",
        "is_deleted",
        "may_deliver",
        "name",
        "persists_everything",
        "record",
        "redelivered_total",
        "redelivered_up_to",
        "refuses_surplus",
        "returned",
        "settings",
        "settled_total",
        "unacked_count",
        "vhost",
    )

    def __init__(
        self,
        name: str,
        vhost: "Vhost",
        queue_id: int,
        *,
        durable: bool,
        exclusive_owner: object | None,
        auto_delete: bool,
        arguments: Mapping[str, FieldValue],
        settings: QueueSettings,
    ) -> None:
        self.name = name
        self.vhost = vhost
        self.id = queue_id  # unique in the broker, also over restarts
        self.durable = durable
        self.exclusive_owner = exclusive_owner  # the connection that may use it; None: everybody
        self.auto_delete = auto_delete
        self.arguments = arguments  # as declared
        self.record = b""  # the vhost's: what the journal keeps of the queue, if it is durable
        self.settings = settings
        self.persists_everything = settings.queue_type == "quorum"  # transient messages, too
        self.is_deleted = False
        self.delivering = False  # the journal's: the log says that copies may be with consumers
        self.may_deliver = True  # the channel's: False until `delivering` is durable
        self.has_grown = False  # since the last look, by copies that no commit looks at
        self.unacked_count = 0
        self.enqueued_total = 0
        self.delivered_total = 0  # to consumers
        self.redelivered_total = 0  # those of them that had been delivered before
        self.got_total = 0
        self.settled_total = 0  # acked, or handed out with no_ack
        self.deaths_total = _NO_DEATHS  # whether there is a dead-letter exchange or not
        # What cold copies are not asked for, and the log keeps:
        self.redelivered_up_to = 0  # copies up to this sequence may have been with a consumer
        self.returned: dict[int, int] = {}  # other copies that were: sequence -> delivery count

        services = vhost.services
        self._clock = services.clock
        self._journal = services.journal
        self._turn = services.turn
        self._marked = False  # whether `dispatch` will be called at the end of this turn
        self._ready: ReadyMessages = NOTHING_READY  # until the first message comes
        self._reader = services.reader
        self._spiller = services.spiller
        self._waiting_to_read: list[Callable[[], None]] = []
        self._consumers = _NO_CONSUMERS  # until the first one comes
        self._message_expiry: MessageExpiry | None = None  # until something is to expire
        self._now_or_never: list[QueuedMessage] = []  # TTL 0: they expire unless this turn delivers them
        self._dying: deque[_Death] | None = None  # until something dies
        self._dying_bytes = 0  # of their bodies
        self._max_priority = settings.max_priority
        self._message_ttl_ms = settings.message_ttl_ms
        is_limited = settings.max_length is not None or settings.max_length_bytes is not None
        self.refuses_surplus = is_limited and settings.overflow in ("reject-publish", "reject-publish-dlx")
        self._drops_surplus = is_limited and not self.refuses_surplus
        self._delivery_limit = settings.failures_max
        self.counts_deliveries = self.persists_everything or self._delivery_limit is not None  # for consumers
        self._queue_expiry = (
            None
            if settings.expires_ms is None
            else QueueExpiry(services, settings.expires_ms, self._is_consumed, self._expire)
        )

    def __str__(self) -> str:
        return f"queue '{self.name}' in vhost '{self.vhost.name}'"

    # What it holds

    @property
    def message_count(self) -> int:
        """How many messages are ready."""
        self.dispatch()
        return self._ready.count

    @property
    def ready_bytes(self) -> int:
        """The size of the ready messages' bodies."""
        return self._ready.body_bytes

    @property
    def cold_count(self) -> int:
        """How many of them are on the disk only."""
        return sum(table.copies for lane in self.lanes for table in lane.cold_tables)

    @property
    def index_bytes(self) -> int:
        """What remembering these takes in memory."""
        return sum(table.memory_bytes for lane in self.lanes for table in lane.cold_tables)

    @property
    def consumer_count(self) -> int:
        return len(self._consumers)

    @property
    def consumers(self) -> Iterable[Consumer]:
        return self._consumers

    @property
    def active_consumer(self) -> Consumer | None:
        """The one that gets everything, in a queue with single active consumer."""
        return self._consumers.active

    @property
    def lanes(self) -> Iterable[Lane]:
        """Of its ready messages."""
        return self._ready.lanes

    def lane(self, priority: int) -> Lane:
        """The lane that copies of this priority come into."""
        return self._storage().lane(priority)

    def _storage(self) -> ReadyMessages:
        """Where ready messages lie, made for the first one."""
        if self._ready is NOTHING_READY:
            self._ready = ready_messages(self, self._max_priority)
        return self._ready

    # Messages come

    def accepts(self, message: Message) -> bool:
        """Whether it takes one more message; else it is full and has refused it (`reject-publish`)."""
        accepts = self.has_room(1, len(message.body))
        if not accepts and self.settings.overflow == "reject-publish-dlx":
            refused = QueuedMessage(message, self, None, 0)
            self._condemn(refused, DeathReason.MAXLEN, was_accepted=False)
        return accepts

    def enqueue(self, messages: Sequence[Message]) -> list[QueuedMessage]:
        """Put messages that it `accepts` at the end; they differ in their bodies only. The caller gives the
        copies to the journal before anything else happens.
        """
        facts = messages[0].facts
        priority = 0 if self._max_priority is None else self.priority_of(facts)
        copies = []
        for message in messages:
            copies.append(QueuedMessage(message, self, None, priority))
        if self._message_ttl_ms is not None or facts.expiration is not None:
            for copy in copies:
                self._set_expiry(copy)
        self._storage().extend(copies)
        self.enqueued_total += len(copies)
        if not self._marked:
            self._mark()
        return copies

    def priority_of(self, facts: PropertyFacts) -> int:
        """A message's priority, capped to what the queue has."""
        return 0 if self._max_priority is None else min(facts.priority or 0, self._max_priority)

    def expires_at(self, facts: PropertyFacts, published_at: int) -> int | None:
        """When a copy of such a message expires in here, ms since the epoch."""
        ttl_ms = self._ttl_ms(facts)
        return None if ttl_ms is None else published_at + ttl_ms

    def revive(self, message: Message, spilled: SpilledRuns | None = None) -> QueuedMessage:
        """The reader: a copy that the queue has, in memory again; of the log, or of what was spilled."""
        sequence = message.sequence
        expires_at = self.expires_at(message.facts, message.published_at)
        copy = QueuedMessage(message, self, expires_at, self.priority_of(message.facts))
        copy.is_durable = spilled is None
        returned = self.returned if spilled is None else spilled.returned
        delivery_count = returned.get(sequence)
        copy.redelivered = delivery_count is not None or sequence <= self.redelivered_up_to
        copy.delivery_count = delivery_count or 0
        if copy.expires_at is not None:
            self._expiry().add(copy)
        return copy

    def recovered(self) -> None:
        """Recovery has filled the lanes. Limits apply at the end of the turn."""
        self._ready.recount()
        self._mark()

    def _ttl_ms(self, facts: PropertyFacts) -> int | None:
        """The lower of the queue's and the message's own."""
        ttl_ms = self._message_ttl_ms
        expiration = facts.expiration
        if expiration is None:
            return ttl_ms
        own_ttl_ms = int(expiration)  # the channel has checked it
        return own_ttl_ms if ttl_ms is None else min(ttl_ms, own_ttl_ms)

    def _set_expiry(self, copy: QueuedMessage) -> None:
        ttl_ms = self._ttl_ms(copy.message.facts)
        assert ttl_ms is not None
        copy.expires_at = copy.message.published_at + ttl_ms
        if ttl_ms:
            self._expiry().add(copy)
        else:
            self._now_or_never.append(copy)

    def _expiry(self) -> MessageExpiry:
        """What is to expire, made for the first one."""
        if self._message_expiry is None:
            self._message_expiry = MessageExpiry(self.vhost.services, self._mark)
        return self._message_expiry

    def has_room(self, count: int, body_bytes: int) -> bool:
        """Whether so many more messages, with bodies of this size together, would not be refused."""
        if not self.refuses_surplus:
            return True
        if self._exceeds(self._ready.count + count, self._ready.body_bytes + body_bytes) and self._marked:
            self._hand_out()  # what came earlier in this turn and goes straight to a consumer takes no room
        return not self._exceeds(self._ready.count + count, self._ready.body_bytes + body_bytes)

    def _exceeds(self, count: int, body_bytes: int) -> bool:
        """Whether that much is over the limits, which count ready messages and their bodies only."""
        settings = self.settings
        return (settings.max_length is not None and count > settings.max_length) or (
            settings.max_length_bytes is not None and body_bytes > settings.max_length_bytes
        )

    # Messages go to consumers

    def dispatch(self) -> None:
        """Carry out the consequences of what happened; called at the end of a turn for a marked queue."""
        self._marked = False
        self._hand_out()
        if self._drops_surplus:
            self._drop_surplus()  # before anything expires: RabbitMQ makes room for a TTL of 0, too
        if self._now_or_never:
            self._expire_ready(self._now_or_never)
            self._now_or_never = []
        if self._dying:
            self._bury(BURIALS_MAX)
        if self.has_grown:
            self.has_grown = False
            for lane in self._ready.lanes:
                if lane.count:
                    self._spiller.look_at(lane)

    def _hand_out(self) -> None:
        """Give ready messages to consumers until none is left or nobody can take more."""
        if self._message_expiry:
            self._expire_ready(self._message_expiry.take_due())
        if not self.may_deliver:
            return
        ready = self._ready
        consumers = self._consumers
        while ready.count:
            turn = consumers.next()
            if turn is None:
                break
            consumer, count, room = turn
            copies = ready.take(count, room)
            if not copies:
                return  # `was_read` goes on
            for copy in copies:
                copy.state = _UNACKED
                self.redelivered_total += copy.redelivered
            self.unacked_count += len(copies)
            self.delivered_total += len(copies)
            consumer.channel.deliver(consumer, copies)
        if len(consumers):
            ready.read_ahead()

    def consumer_ready(self, consumer: Consumer) -> None:
        """An ack, a higher limit or a drained socket may let the consumer take again. Always safe to call."""
        if consumer.is_blocked:
            self._consumers.wake(consumer)
            self._mark()

    def take(self) -> QueuedMessage | None:
        """basic.get: the head, UNACKED, or None. Raises HeadNotInMemory."""
        self.dispatch()
        self.touch()
        copy = self._ready.pop()
        if copy is not None:
            copy.state = _UNACKED
            self.unacked_count += 1
            self.got_total += 1
            self._ready.read_ahead()
        elif self._ready.count:
            raise HeadNotInMemory(self)
        return copy

    # Messages are read back

    def read(self, lane: Lane) -> None:
        """The lane: something cold is needed in memory."""
        self._reader.want(lane)

    def when_read(self, callback: Callable[[], None]) -> None:
        """Call back once, when there is more in memory, or the queue is deleted."""
        self._waiting_to_read.append(callback)

    def was_read(self) -> None:
        """The reader: there is more in memory."""
        if self._message_expiry:
            self._expire_ready(self._message_expiry.take_due())
        self._mark()
        waiting, self._waiting_to_read = self._waiting_to_read, []
        for callback in waiting:
            callback()

    def note_cold_expiry(self, expires_at: int, lane: Lane, first: int) -> None:
        """A copy of a cold run expires then."""
        self._expiry().add_cold(expires_at, lane, first)

    @property
    def is_burying(self) -> bool:
        """Whether so many copies are dying that others had better wait on the disk."""
        return len(self._dying or ()) > BURYING_AT or self._dying_bytes > BURYING_AT_BYTES

    def _mark(self) -> None:
        self._marked = True
        self._turn.mark_queue(self)

    # Messages come back, or end

    def settle(self, copies: Collection[QueuedMessage]) -> None:
        """UNACKED copies were acked, or were sent to somebody who does not ack."""
        self.unacked_count -= len(copies)
        self.settled_total += len(copies)
        self._settle_all(copies)

    def requeue(self, copies: Iterable[QueuedMessage], *, failed: bool) -> None:
        """UNACKED copies go back to where they were; `failed` counts towards the delivery limit."""
        now_ms = self._clock.now_ms()
        for copy in copies:
            self.unacked_count -= 1
            copy.redelivered = True
            copy.delivery_count += failed
            if self.is_deleted:
                self._settle_all((copy,))
            elif copy.expires_at is not None and copy.expires_at <= now_ms:
                self._condemn(copy, DeathReason.EXPIRED)
            elif self._delivery_limit is not None and copy.delivery_count > self._delivery_limit:
                self._condemn(copy, DeathReason.DELIVERY_LIMIT)
            else:
                copy.state = _READY
                self._ready.add(copy)
                self._journal.requeue(copy)
        self.has_grown = True
        if self._drops_surplus:
            self._drop_surplus()  # before anybody can take what came back, as RabbitMQ does
        self._mark()

    def discard(self, copy: QueuedMessage, reason: DeathReason) -> None:
        """End an UNACKED copy: dead-letter it if the queue does that, else drop it."""
        self.unacked_count -= 1
        copy.state = _GONE
        if self.is_deleted:
            self._journal.settle((copy,))
        else:
            self._end(_Death(copy, reason, was_accepted=True))

    def purge(self) -> int:
        """Drop what is ready; returns how much it was."""
        self.dispatch()
        message_count = self._ready.count
        for emptied in self._ready.drain():
            self._settle_all(emptied.copies)
            if len(emptied.cold):
                self._journal.purge(emptied.lane, emptied.cold)
        if not self.unacked_count and not self._dying:
            self.returned.clear()
        elif self.returned:
            keep_live(self.returned, [table for lane in self.lanes for table in lane.tables()])
        self.was_read()  # whoever waits finds that nothing is left
        return message_count

    def _expire_ready(self, copies: Iterable[QueuedMessage]) -> None:
        for copy in copies:
            if copy.state is _READY:
                self._condemn(copy, DeathReason.EXPIRED)
                self._ready.forget(copy)

    def _drop_surplus(self) -> None:
        """Enforce the length limits from the head."""
        ready = self._ready
        while ready.count and self._exceeds(ready.count, ready.body_bytes):
            copy = ready.pop()
            if copy is None:
                return  # `was_read` goes on
            self._condemn(copy, DeathReason.MAXLEN)

    def _condemn(self, copy: QueuedMessage, reason: DeathReason, *, was_accepted: bool = True) -> None:
        """Its end is certain; `dispatch` carries it out."""
        copy.state = _GONE
        if self._dying is None:
            self._dying = deque()
        self._dying.append(_Death(copy, reason, was_accepted))
        self._dying_bytes += len(copy.message.body)
        if not self._marked:
            self._mark()

    def _bury(self, count_max: int) -> None:
        dying = self._dying
        if dying is None:
            return
        was_burying = self.is_burying
        for _ in range(min(count_max, len(dying))):
            death = dying.popleft()
            self._dying_bytes -= len(death.copy.message.body)
            self._end(death)
        if not dying:
            self._dying = None
        elif not self._marked:
            self._mark()
        if was_burying and not self.is_burying:
            for lane in self._ready.lanes:
                self._reader.want(lane)  # those that expired and had to wait

    def _end(self, death: _Death) -> None:
        """The new message is in the journal before the old copy is settled: a crash cannot lose both."""
        self.deaths_total = {**self.deaths_total, death.reason: self.deaths_total[death.reason] + 1}
        dead_letter(death.copy, death.reason)
        if death.was_accepted:
            self._journal.settle((death.copy,))

    def _settle_all(self, copies: Collection[QueuedMessage]) -> None:
        for copy in copies:
            copy.state = _GONE
        self._journal.settle(copies)

    # Consumers and the end of the queue

    def add_consumer(self, consumer: Consumer) -> None:
        """Raises 403 when a consumer has the queue to itself, or wants it and cannot."""
        settings = self.settings
        if self._consumers.has_exclusive or (
            consumer.exclusive and (len(self._consumers) or settings.single_active_consumer)
        ):
            raise SoftError(ReplyCode.ACCESS_REFUSED, f"{self} in exclusive use")
        if self._consumers is _NO_CONSUMERS:
            self._consumers = Consumers(single_active=settings.single_active_consumer)
        self._consumers.add(consumer)
        self.touch()
        self._mark()

    def remove_consumer(self, consumer: Consumer) -> None:
        """It was cancelled or its channel is gone. What it did not ack stays with the channel. Idempotent."""
        if not self._consumers.remove(consumer):
            return
        self.touch()
        if self.auto_delete and not len(self._consumers):
            self.delete()
        else:
            self._mark()  # the next one may have become the single active consumer

    def touch(self) -> None:
        """The queue was used (the vhost: it was declared again): `x-expires` counts from now."""
        if self._queue_expiry is not None:
            self._queue_expiry.touch()

    def _is_consumed(self) -> bool:
        return len(self._consumers) > 0

    def _expire(self) -> None:
        # When recovery replays a declare and a later delete, nobody stops the timer that the first one set.
        if self.vhost.queues.get(self.name) is self:
            self.delete()
            self._mark()  # a turn must end, or the log would hear of it only with the next traffic

    def delete(self) -> int:
        """End the queue and its consumers; returns how much was ready. Nothing is dead-lettered."""
        if self.is_deleted:
            return 0
        message_count = self.message_count
        self._bury(len(self._dying or ()))
        self.is_deleted = True
        if self._message_expiry is not None:
            self._message_expiry.close()
        if self._queue_expiry is not None:
            self._queue_expiry.close()
        for emptied in self._ready.drain():
            self._settle_all(emptied.copies)
            self._journal.close_lane(emptied.lane, emptied.cold)
        self.vhost.remove_queue(self)
        self.was_read()  # whoever waits finds that the queue is gone
        for consumer in list(self._consumers):
            self._consumers.remove(consumer)
            consumer.channel.consumer_cancelled(consumer)
        return message_count
