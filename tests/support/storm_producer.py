"""A producer in a storm: it publishes over a real native session, loses its connection and the broker, and
sends again whatever it has no answer for.

Whatever is sent again has another number in its body than the first time, although no real client may do
that: so the ledger sees which of the two is there, and that never both are.
"""

from collections.abc import Callable
from random import Random
from types import SimpleNamespace

from ledger import FULL, QUEUES, Ledger, Produced
from native_house import F, Peer

from leveret.broker.broker import Broker
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.protocol.native.fields import MANDATORY


class StormProducer:
    """Outlives its connections and brokers."""

    def __init__(self, name: str, ledger: Ledger, random: Random) -> None:
        self.name = name
        self._ledger = ledger
        self._random = random
        self._unanswered: dict[
            int, tuple[str, bool, int, int]
        ] = {}  # by tag: queue, is persistent, priority, flags
        self._durable: dict[int, Callable[[], None]] = {}  # by tag: to be called when it is confirmed
        self._last_tag = 0  # that was ever used
        self._peer: Peer | None = None
        self._expected = 0  # what the broker must say that it knows
        self._is_open = False  # it has said so
        self._is_new = True  # and whatever that is, it goes on from there
        ledger.introduce(name)

    def connect(self, broker: Broker) -> None:
        """Come back, and send again what is unanswered; the old connection may be there still."""
        if self._peer is not None and self._random.random() < 0.5:
            self.lose_connection()
        house = SimpleNamespace(broker=broker, end_turn=lambda: None)
        self._peer = Peer(house)  # type: ignore[arg-type]  # all that a peer needs here
        self._peer.log_in()
        self._expected = max(self._ledger.accepted(self.name), default=0)
        self._is_open = False
        self._peer.request(F.CHANNEL_OPEN, True, self.name.encode())
        self._send(sorted(self._unanswered))
        if self._random.random() < 0.3:
            self.hear()  # nothing that is not durable yet

    def lose_connection(self) -> None:
        """Without having heard what it said last."""
        if self._peer is not None:
            self._peer.session.connection_lost()
            self._peer = None

    def broker_is_gone(self) -> None:
        self._peer = None

    def begin_anew(self, broker: Broker) -> None:
        """Stay away until the broker has forgotten; another client comes with the same name."""
        self.lose_connection()
        broker.producers.forget_old()
        self._ledger.forget(self.name)
        self._unanswered.clear()
        self._is_new = True
        self.connect(broker)

    def publish(self) -> None:
        """Some messages in one batch, to wherever; some tags are left out."""
        if not self._is_open:
            return
        random = self._random
        first = self._last_tag + random.choice((1, 1, 1, 2, 10))
        persistence = random.choice((1.0, 0.5, 0.0))
        for tag in range(first, first + random.choice((1, 1, 4, 20))):
            queue = random.choice(list(QUEUES))
            priority = random.randint(0, 3) if "x-max-priority" in QUEUES[queue] else 0
            flags = MANDATORY if random.random() < 0.3 else 0
            self._unanswered[tag] = (queue, random.random() < persistence, priority, flags)
            self._last_tag = tag
        self._send(list(range(first, self._last_tag + 1)))

    def _send(self, tags: list[int]) -> None:
        """In batches without gaps; alone where it matters what consumers were given before."""
        batch: list[int] = []
        for tag in tags:
            is_alone = FULL in (
                self._unanswered[tag][0],
                *(self._unanswered[other][0] for other in batch[:1]),
            )
            if batch and (is_alone or tag != batch[-1] + 1):
                self._send_batch(batch)
                batch = []
            batch.append(tag)
        if batch:
            self._send_batch(batch)

    def _send_batch(self, tags: list[int]) -> None:
        assert self._peer is not None
        messages, produced = [], []
        for tag in tags:
            queue, is_persistent, priority, flags = self._unanswered[tag]
            size = self._random.choice((0, 1, 50, 400))
            number, body = self._ledger.write(size, persistent=is_persistent, priority=priority)
            properties = BasicProperties(delivery_mode=2 if is_persistent else 1, priority=priority)
            messages.append(["", queue, flags, encode_properties(properties), body])
            produced.append(Produced(tag, queue, number, bool(flags)))
        self._peer.protocol.send(F.PUBLISH, 1, tags[0], messages)
        self._peer.session.receive_data(b"".join(self._peer.protocol.data_to_send()))
        is_durable = self._ledger.produce(self.name, produced)
        for tag in tags:
            self._durable[tag] = is_durable

    def hear(self) -> None:
        """Read what the broker has answered by now."""
        if self._peer is None:
            return
        for frame in self._peer.read():
            assert frame[0] in (F.REPLY, F.CONFIRM, F.REFUSE, F.RETURN, F.CHANNEL_CLOSED), frame
            if frame[0] == F.REPLY:
                assert frame[2] == [self._expected]
                self._is_open = True
                if self._is_new:
                    self._last_tag = self._expected
                    self._is_new = False
            elif frame[0] in (F.CONFIRM, F.REFUSE):
                self._answered(frame[2], is_confirmed=frame[0] == F.CONFIRM)

    def _answered(self, tags: list[int | list[int]], *, is_confirmed: bool) -> None:
        for element in tags:
            first, last = (element, element) if isinstance(element, int) else element
            for tag in [tag for tag in self._unanswered if first <= tag <= last]:
                del self._unanswered[tag]
                is_durable = self._durable.pop(tag)
                if is_confirmed:
                    is_durable()
