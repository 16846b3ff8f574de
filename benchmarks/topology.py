"""What a flow needs on the broker, and who publishes and consumes where."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .load.consumer import ConsumerTask
from .load.link import Address, Link, Route
from .load.publisher import PublisherTask
from .load.wires import WIRES
from .scenarios import Flow

T = TypeVar("T")

EXCHANGE = "bench"
FANOUT, TOPIC = "fanout", "topic"
FILL_WINDOW = 2000
SETUP_CHUNK = 200
"""Requests without an answer in between. RabbitMQ may take long for each, and silence means trouble."""
FAST_WINDOW = 50
SAMPLE_EVERY = 16
"""Of the flows that are as fast as they can be, one in so many deliveries has its time recorded."""


@dataclass(frozen=True)
class Topology:
    """Of one run of a flow on one wire."""

    flow: Flow
    address: Address
    wire: str

    @property
    def queues(self) -> list[str]:
        """Names of one width: all messages of a run take the same bytes."""
        return [f"{EXCHANGE}-{number:05}" for number in range(self.flow.queues)]

    def declare(self) -> None:
        """Anew: what an earlier run left behind is deleted."""
        flow, link = self.flow, self._link()
        self._delete(link)
        for some in _some_at_a_time(self.queues):
            link.declare_queues(some, durable=flow.persistent)
        if flow.exchange:
            link.declare_exchange(EXCHANGE, flow.exchange, durable=flow.persistent)
            bindings = [(queue, key) for queue in self.queues for key in self._binding_keys(queue)]
            for some_bindings in _some_at_a_time(bindings):
                link.bind(EXCHANGE, some_bindings)
        link.close()

    def messages_left(self) -> int:
        """How many messages are ready in all queues."""
        link = self._link()
        count = sum(map(link.message_count, self.queues))
        link.close()
        return count

    def delete(self) -> None:
        link = self._link()
        self._delete(link)
        link.close()

    def publishers(self) -> list[PublisherTask]:
        flow = self.flow
        return [
            PublisherTask(
                self.address,
                self.wire,
                self._routes(publisher),
                flow.size,
                persistent=flow.persistent,
                confirms=flow.confirms,
                window=flow.window,
                group=self._group,
                rate=flow.rate / flow.publishers,
            )
            for publisher in range(flow.publishers)
        ]

    def filler(self) -> PublisherTask:
        """Publishes, before the others begin, what is to wait in the queues. Its lanes are its own."""
        flow = self.flow
        lanes = flow.publishers * flow.queues
        return PublisherTask(
            self.address,
            self.wire,
            tuple(Route(lanes + number, "", queue) for number, queue in enumerate(self.queues)),
            flow.size,
            persistent=flow.persistent,
            window=FILL_WINDOW,
            limit=flow.waiting,
        )

    def consumers(self) -> list[ConsumerTask]:
        flow = self.flow
        return [
            ConsumerTask(
                self.address,
                self.wire,
                tuple(self.queues[consumer :: flow.consumers]),
                tuple(self._lanes(range(consumer, flow.queues, flow.consumers))),
                flow.size,
                ack_every=flow.ack_every,
                prefetch=flow.prefetch,
                sample_every=SAMPLE_EVERY if self._is_fast else 1,
                is_early=not flow.waiting,
            )
            for consumer in range(flow.consumers)
        ]

    @property
    def _is_fast(self) -> bool:
        """So fast that to record every time would cost too much."""
        return not self.flow.rate and self.flow.window >= FAST_WINDOW

    @property
    def _group(self) -> int:
        flow = self.flow
        if not WIRES[self.wire].has_batches or flow.rate:
            return 1
        return min(flow.batch, flow.window) if flow.confirms else flow.batch

    def _routes(self, publisher: int) -> tuple[Route, ...]:
        if self.flow.exchange == FANOUT:
            return (Route(publisher, EXCHANGE, ""),)
        exchange = EXCHANGE if self.flow.exchange else ""
        keys = [f"eu.{queue}.made" for queue in self.queues] if exchange else self.queues
        lane = publisher * self.flow.queues
        return tuple(Route(lane + queue, exchange, keys[queue]) for queue in self._targets(publisher))

    def _targets(self, publisher: int) -> Sequence[int]:
        """The queues that it publishes to, without a fanout."""
        publishers, queues = self.flow.publishers, self.flow.queues
        if publishers >= queues:
            return (publisher % queues,)
        return range(publisher, queues, publishers)

    def _lanes(self, queues: range) -> Iterator[int]:
        """Those that come out of some queues."""
        flow = self.flow
        for publisher in range(flow.publishers):
            if flow.exchange == FANOUT:
                yield publisher
            else:
                lane = publisher * flow.queues
                yield from (lane + queue for queue in self._targets(publisher) if queue in queues)
        if flow.waiting:
            lane = flow.publishers * flow.queues
            yield from (lane + queue for queue in queues)

    def _binding_keys(self, queue: str) -> list[str]:
        """The first lets the publishers' messages in; the others let nothing in, but must be looked at."""
        if self.flow.exchange == FANOUT:
            return [""]
        others = [f"eu.{queue}.event{number}.#" for number in range(self.flow.bindings // 2)]
        others += [f"*.{queue}.event{number}" for number in range(self.flow.bindings // 2)]
        return [f"*.{queue}.#", *others[: self.flow.bindings - 1]]

    def _delete(self, link: Link) -> None:
        for some in _some_at_a_time(self.queues):
            link.delete_queues(some)
        link.delete_exchange(EXCHANGE)

    def _link(self) -> Link:
        return WIRES[self.wire].open(self.address)


def _some_at_a_time(requests: list[T]) -> Iterator[list[T]]:
    return (requests[at : at + SETUP_CHUNK] for at in range(0, len(requests), SETUP_CHUNK))
