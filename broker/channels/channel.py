"""A channel: what a client can do, once for both wires.

A session translates its wire's methods into these calls and gives the channel a `Wire` to answer through. The
channel owns its delivery tags, its unacked deliveries, its consumers and its publish tags. Errors are raised
as `SoftError` (the session closes the channel) or `HardError` (it closes the connection).

Invariants:
- Every delivery tag of a delivery that wants an ack is in `_unacked` until it is settled or the channel
  closes.
- Publish tags are answered exactly once, in rising order.
- Nothing is delivered from a durable queue before its delivery mark is durable (`Journal.delivering`).
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import PropertyFacts, read_facts, with_changes
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

from ..message import Message, QueuedMessage
from ..queues.consumer import Consumer
from ..queues.dead_letter import DeathReason
from ..queues.delivery import REFUSED, RETURNED, TAKEN, Outcome, deliveries_of, enqueue_to
from .answers import Got, QueueDeclared
from .confirms import Confirms
from .direct_reply import REPLY_TO, ReplyConsumer, is_reply_name
from .publish_checks import check_publish
from .transaction import KeptPublish, KeptSettlement, Transaction
from .unacked import Delivery, Unacked, ack_timed_out, by_queue, unknown_delivery_tag
from .wire import Wire

if TYPE_CHECKING:
    from ..connection import Connection
    from ..queues.queue import Queue

CONSUMERS_MAX = 65_536  # per channel; RabbitMQ has no limit by default, we need one somewhere


Settlement = Callable[[Mapping[int, Delivery]], None]


class Channel:
    """See the module's docstring. Made by `Connection.open_channel`."""

    def __init__(self, connection: "Connection", number: int, wire: Wire) -> None:
        self.connection = connection
        self.number = number
        self.wire = wire
        self.is_open = True
        self.consumers: dict[str, Consumer] = {}
        self._vhost = connection.vhost
        self._services = connection.vhost.services
        self._journal = connection.journal
        self._counters = connection.counters
        self._last_queue: str | None = None  # what an empty queue name means
        self._delivery_tag = 0
        self._unacked = Unacked()
        self._counted = 0  # unacked deliveries of consumers: what the channel-wide limit counts
        self._consumer_prefetch = 0  # for consumers started from now on; 0: no limit
        self._channel_prefetch = 0  # over all consumers of the channel; 0: no limit
        self._confirms: Confirms | None = None
        self._transaction: Transaction | None = None
        self._shortest_ack_timeout_s = math.inf  # of all deliveries that may be unacked
        self._replies: ReplyConsumer | None = None  # while the channel consumes from direct reply-to

    # Exchanges and queues

    def exchange_declare(
        self,
        name: str,
        type_: str,
        *,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: FieldTable,
    ) -> None:
        self._vhost.declare_exchange(
            name,
            type_,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    def exchange_delete(self, name: str, *, if_unused: bool) -> None:
        self._vhost.delete_exchange(name, if_unused=if_unused)

    def exchange_bind(self, destination: str, source: str, binding_key: str, arguments: FieldTable) -> None:
        self._vhost.bind_exchange(destination, source, binding_key, arguments)

    def exchange_unbind(self, destination: str, source: str, binding_key: str, arguments: FieldTable) -> None:
        self._vhost.unbind_exchange(destination, source, binding_key, arguments)

    def queue_declare(
        self,
        name: str,
        *,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> QueueDeclared:
        """An empty name asks for a server-made one; with `passive` it is the name of no queue."""
        if is_reply_name(name):
            if not self.connection.direct_replies.has(name):
                raise SoftError(ReplyCode.NOT_FOUND, f"no queue '{name}' in vhost '{self._vhost.name}'")
            self._last_queue = name
            return QueueDeclared(name, 0, 1)
        queue = self._vhost.declare_queue(
            name,
            self.connection,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )
        self._last_queue = queue.name
        return QueueDeclared(queue.name, queue.message_count, queue.consumer_count)

    def queue_bind(self, queue: str, exchange: str, binding_key: str, arguments: FieldTable) -> None:
        name, key = self._binding_names(queue, binding_key)
        self._vhost.bind_queue(name, exchange, key, arguments, self.connection)

    def queue_unbind(self, queue: str, exchange: str, binding_key: str, arguments: FieldTable) -> None:
        name, key = self._binding_names(queue, binding_key)
        self._vhost.unbind_queue(name, exchange, key, arguments, self.connection)

    def queue_purge(self, queue: str) -> int:
        """Drop what is ready; returns how much it was."""
        return self._find_queue(queue).purge()

    def queue_delete(self, queue: str, *, if_unused: bool, if_empty: bool) -> int:
        """Returns how many ready messages went with it; a missing queue is no error (0)."""
        name = self._queue_name(queue)
        return self._vhost.delete_queue(name, self.connection, if_unused=if_unused, if_empty=if_empty)

    def _queue_name(self, name: str) -> str:
        if name:
            return name
        if self._last_queue is None:
            raise SoftError(ReplyCode.NOT_FOUND, "no previously declared queue")
        return self._last_queue

    def _binding_names(self, queue: str, binding_key: str) -> tuple[str, str]:
        # 0-9-1 section 1.7.2.3.6: with neither a queue name nor a key, the queue's name is the key.
        name = self._queue_name(queue)
        return name, binding_key if queue or binding_key else name

    def _find_queue(self, name: str) -> "Queue":
        return self._vhost.find_queue(self._queue_name(name), self.connection)

    # Publishing

    def confirm_select(self) -> None:
        """From now on publishes are counted and confirmed. Again: no effect, the count goes on."""
        if self._transaction is not None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "cannot switch from tx to confirm mode")
        if self._confirms is None:
            self._confirms = Confirms(self.wire)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        properties: bytes,
        bodies: Sequence[bytes],
    ) -> Sequence[Outcome]:
        """Publish messages that differ in their bodies only; returns what became of each.

        Checks in RabbitMQ's order (`rabbit_channel`), then routes; the confirms follow the commit.
        """
        confirms = self._confirms
        if confirms is not None:
            confirms.last_tag += len(bodies)
        if immediate:
            raise HardError(ReplyCode.NOT_IMPLEMENTED, "immediate=true")
        facts = read_facts(properties)
        queues, routed = self._vhost.route_publish(exchange, routing_key, properties, facts)
        if not facts.plain:
            check_publish(facts, self.connection.user)
            if facts.reply_to == REPLY_TO:
                routed = self._with_reply_name(routed)
            if routed is not properties:  # BCC does not travel on, either
                properties, facts = routed, read_facts(routed)
        if self._transaction is None:
            return self._deliver_publish(queues, exchange, routing_key, mandatory, properties, facts, bodies)
        self._transaction.publishes += [
            KeptPublish(queues, exchange, routing_key, mandatory, properties, facts, body) for body in bodies
        ]
        return [TAKEN] * len(bodies)

    def _deliver_publish(
        self,
        queues: "Sequence[Queue]",
        exchange: str,
        routing_key: str,
        mandatory: bool,
        properties: bytes,
        facts: PropertyFacts,
        bodies: Sequence[bytes],
    ) -> Sequence[Outcome]:
        services = self._services
        published_at = services.clock.now_ms()
        sequence = services.next_sequences(len(bodies))
        messages = []
        for body in bodies:
            messages.append(Message(sequence, published_at, exchange, routing_key, properties, facts, body))
            sequence += 1
        self._counters.published += len(bodies)
        if queues:
            outcomes = enqueue_to(messages, queues, services)
        else:
            outcomes = [self._miss(message, mandatory) for message in messages]
        confirms = self._confirms
        if confirms is not None:
            if max(outcomes) >= REFUSED:
                for tag, outcome in enumerate(outcomes, confirms.last_tag - len(bodies) + 1):
                    if outcome >= REFUSED:
                        confirms.refuse(tag)
            self._journal.confirm(self, confirms.last_tag)
        return outcomes

    def _miss(self, message: Message, mandatory: bool) -> Outcome:
        """There is no queue for the message."""
        if not message.exchange and self.connection.direct_replies.deliver(message):
            return TAKEN  # it went, or would have gone, straight to a channel
        if mandatory:
            self._counters.returned += 1
            self.wire.return_message(message, ReplyCode.NO_ROUTE, "NO_ROUTE")
            return RETURNED
        self._counters.unroutable += 1
        return TAKEN

    def _with_reply_name(self, properties: bytes) -> bytes:
        if self._replies is None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "fast reply consumer does not exist")
        return with_changes(properties, reply_to=self._replies.name)

    def publish_failed(self, count: int) -> None:
        """The newest so many publishes raised and the wire answers them by itself: they get no confirm."""
        confirms = self._confirms
        if confirms is not None:
            for tag in range(confirms.last_tag - count + 1, confirms.last_tag + 1):
                confirms.skip(tag)
            self._journal.confirm(self, confirms.last_tag)

    def skip_publish(self) -> None:
        """The wire refused a publish before it came here: it has a publish tag, but gets no confirm."""
        if self._confirms is not None:
            self._confirms.last_tag += 1
        self.publish_failed(1)

    def confirm_up_to(self, publish_tag: int) -> None:
        """The journal: everything up to this publish is durable."""
        if self._confirms is not None and self.is_open:
            self._counters.confirmed += self._confirms.confirm_up_to(publish_tag)

    @property
    def is_confirming(self) -> bool:
        return self._confirms is not None

    # Transactions

    def tx_select(self) -> None:
        if self._confirms is not None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = Transaction(self._deliver_publish)

    def tx_failures(self) -> list[tuple[int, SoftError]]:
        """Which publishes of the transaction, by position, a commit would lose now, and why."""
        return self._require_transaction().failures()

    def tx_commit(self, before_publish: Callable[[int], object] = lambda _: None) -> list[int]:
        """Applies everything at once; the session holds commit-ok back until it is durable.

        Calls back with the position of each publish in the transaction before it happens; returns the
        positions of those that a queue refused.
        """
        refused = self._require_transaction().commit(before_publish)
        self._journal.changes += 1
        return refused

    def tx_rollback(self) -> None:
        self._require_transaction().rollback()

    def _require_transaction(self) -> Transaction:
        if self._transaction is None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "channel is not transactional")
        return self._transaction

    # Consuming

    def qos(self, prefetch_size: int, prefetch_count: int, global_: bool) -> None:
        """RabbitMQ's reading: not global: each consumer started later; global: the whole channel at once."""
        if prefetch_size:
            raise HardError(ReplyCode.NOT_IMPLEMENTED, f"prefetch_size!=0 ({prefetch_size})")
        if global_:
            self._channel_prefetch = prefetch_count
            self.wake_consumers()
        else:
            self._consumer_prefetch = prefetch_count

    def consume(
        self, queue: str, consumer_tag: str, *, no_ack: bool, exclusive: bool, arguments: FieldTable
    ) -> str:
        """Start a consumer; returns its tag, made by the broker when none was given."""
        tag = consumer_tag or f"amq.ctag-{self._services.random_name()}"
        name = self._queue_name(queue)
        if tag in self.consumers:
            raise HardError(ReplyCode.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        if name == REPLY_TO:
            return self._consume_replies(tag, no_ack=no_ack)
        found = self._vhost.find_queue(name, self.connection)
        if len(self.consumers) >= CONSUMERS_MAX:
            raise HardError(
                ReplyCode.NOT_ALLOWED, f"reached maximum ({CONSUMERS_MAX}) of consumers per channel"
            )
        consumer = Consumer(
            tag,
            found,
            self,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments,
            prefetch_count=self._consumer_prefetch,
        )
        found.add_consumer(consumer)
        self.consumers[tag] = consumer
        self._note_ack_timeout(found, consumer)
        self._open_for_delivery(found)
        return tag

    def _consume_replies(self, consumer_tag: str, *, no_ack: bool) -> str:
        if not no_ack:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "reply consumer cannot acknowledge")
        if self._replies is not None:
            raise SoftError(ReplyCode.PRECONDITION_FAILED, "reply consumer already set")
        self._replies = ReplyConsumer(consumer_tag, self._services.random_name(), self)
        self.connection.direct_replies.add(self._replies)
        return consumer_tag

    def _stop_replies(self) -> None:
        if self._replies is not None:
            self.connection.direct_replies.remove(self._replies)
            self._replies = None

    def cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; its unacked deliveries stay the channel's. An unknown tag is no error."""
        if self._replies is not None and self._replies.consumer_tag == consumer_tag:
            self._stop_replies()
            return
        consumer = self.consumers.pop(consumer_tag, None)
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """The queue ended this consumer (it was deleted): tell the client."""
        if self.consumers.pop(consumer.tag, None) is not None and self.is_open:
            self.wire.cancel_consumer(consumer.tag, queue_is_gone=True)

    def get(self, queue: str, *, no_ack: bool) -> Got | None:
        """Take the head of a queue, or None when nothing is ready. Raises HeadNotInMemory."""
        found = self._find_queue(queue)
        copy = found.take()
        if copy is None:
            return None
        self._open_for_delivery(found)
        tag = self._next_delivery_tag()
        self._counters.got += 1
        if no_ack:
            found.settle((copy,))
        else:
            self._unacked[tag] = (copy, None)
            self._note_ack_timeout(found, None)
        return Got(tag, copy, found.message_count)

    def _open_for_delivery(self, queue: "Queue") -> None:
        """Have the delivery mark made durable before anything of a durable queue is sent.

        The session holds back the reply to the method that caused this, as for every durable change.
        """
        if queue.durable and not queue.delivering:
            self._journal.delivering(queue, True)
            queue.may_deliver = False
            self._journal.when_durable(partial(_let_deliver, queue))
        elif not queue.may_deliver:
            self._journal.changes += 1  # the mark that another channel caused is still on its way

    def credit(self) -> tuple[int, int]:
        """For how many messages, and octets of them, the channel-wide limit and the socket leave room."""
        if not self.is_open:
            return 0, 0
        limit = self._channel_prefetch
        return limit - self._counted if limit else sys.maxsize, self.wire.room()

    def deliver(self, consumer: Consumer, copies: Sequence[QueuedMessage]) -> None:
        """The queue hands copies to one of this channel's consumers."""
        first_tag = self._delivery_tag + 1
        self._delivery_tag += len(copies)
        self._counters.delivered += len(copies)
        for copy in copies:
            if copy.redelivered:
                self._counters.redelivered += 1
        self.wire.deliver(consumer.tag, first_tag, deliveries_of(copies))
        if consumer.no_ack:
            consumer.queue.settle(copies)
        else:
            for tag, copy in enumerate(copies, first_tag):
                self._unacked[tag] = (copy, consumer)
            self._counted += len(copies)
            consumer.unacked_count += len(copies)

    def deliver_reply(self, message: Message) -> None:
        """An answer for this channel's direct reply-to consumer; dropped when it does not read."""
        if self._replies is not None and self.wire.room() > 0:
            self._counters.delivered += 1
            delivery = (False, message.exchange, message.routing_key, message.properties, message.body)
            self.wire.deliver(self._replies.consumer_tag, self._next_delivery_tag(), [delivery])

    def _next_delivery_tag(self) -> int:
        self._delivery_tag += 1
        return self._delivery_tag

    def wake_consumers(self) -> None:
        """Limits were raised or the socket drained: consumers that were held back may go on."""
        for consumer in self.consumers.values():
            consumer.queue.consumer_ready(consumer)

    # Settling

    @property
    def unacked_count(self) -> int:
        """How many deliveries wait for an ack."""
        return len(self._unacked)

    def ack(self, delivery_tag: int, multiple: bool) -> None:
        if self._transaction is None and not multiple:
            delivery = self._unacked.pop(delivery_tag, None)
            if delivery is not None:
                self._release((delivery,))
                self._counters.acked += 1
                copy = delivery[0]
                copy.queue.settle((copy,))
                return
        self._settle(self._unacked.take(delivery_tag, multiple), self._apply_ack)

    def ack_range(self, first: int, last: int) -> None:
        """Ack each of these. Raises 406 for the first unknown one, and acks those before it."""
        deliveries, unknown = self._unacked.take_range(first, last)
        self._settle(deliveries, self._apply_ack)
        if unknown is not None:
            raise unknown_delivery_tag(unknown)

    def nack(self, delivery_tag: int, multiple: bool, requeue: bool) -> None:
        """basic.nack; for a requeue it does not count as a failed delivery (RabbitMQ 4's table)."""
        apply = partial(self._apply_requeue, failed=False) if requeue else self._apply_reject
        self._settle(self._unacked.take(delivery_tag, multiple), apply)

    def reject(self, delivery_tag: int, requeue: bool) -> None:
        """basic.reject; a requeue counts as a failed delivery."""
        apply = partial(self._apply_requeue, failed=True) if requeue else self._apply_reject
        self._settle(self._unacked.take(delivery_tag, False), apply)

    def recover(self) -> None:
        """Requeue everything unacked on this channel."""
        deliveries = self._unacked.take(0, multiple=True)
        self._release(deliveries.values())
        self._apply_requeue(deliveries, failed=True)

    def _settle(self, deliveries: dict[int, Delivery], apply: Settlement) -> None:
        if self._transaction is None:
            self._release(deliveries.values())
            apply(deliveries)
        else:
            self._transaction.settlements.append(
                KeptSettlement(
                    partial(self._commit_settlement, deliveries, apply),
                    partial(self._unacked.restore, deliveries),
                )
            )

    def _commit_settlement(self, deliveries: dict[int, Delivery], apply: Settlement) -> None:
        self._release(deliveries.values())
        apply(deliveries)

    def _release(self, deliveries: Iterable[Delivery]) -> None:
        """Give the deliveries' credit back to their consumers and the channel."""
        channel_was_full = bool(self._channel_prefetch) and self._counted >= self._channel_prefetch
        for _, consumer in deliveries:
            if consumer is not None:
                self._counted -= 1
                consumer.unacked_count -= 1
                if consumer.is_blocked:
                    consumer.queue.consumer_ready(consumer)
        if channel_was_full and self._counted < self._channel_prefetch:
            self.wake_consumers()

    def _apply_ack(self, deliveries: Mapping[int, Delivery]) -> None:
        self._counters.acked += len(deliveries)
        for queue, copies in by_queue(deliveries).items():
            queue.settle(copies)

    def _apply_reject(self, deliveries: Mapping[int, Delivery]) -> None:
        for copy, _ in deliveries.values():
            copy.queue.discard(copy, DeathReason.REJECTED)

    def _apply_requeue(self, deliveries: Mapping[int, Delivery], *, failed: bool) -> None:
        for queue, copies in by_queue(deliveries).items():
            queue.requeue(copies, failed=failed)

    # Consumers that do not ack

    def extend(self, delivery_tag: int, multiple: bool) -> None:
        """The ack timeout of these deliveries starts anew: somebody is still at work on them."""
        self._unacked.extend(delivery_tag, multiple, self._services.clock.monotonic_s())

    def take_back_overdue(self, now_s: float) -> None:
        """Requeue what waited too long for its ack, and end the consumers that let it wait.

        RabbitMQ 3.13 closes the whole channel instead; as in 4.3 only a client that cannot be told of a
        cancelled consumer suffers that here.
        """
        overdue = self._unacked.take_overdue(
            now_s,
            self._delivery_tag,
            self._shortest_ack_timeout_s,
            lambda delivery: self._ack_timeout_s(delivery[0].queue, delivery[1]),
        )
        if not overdue:
            return
        self._release(overdue.values())
        self._apply_requeue(overdue, failed=False)
        for delivery in overdue.values():
            _, consumer = delivery
            if consumer is not None and self.consumers.pop(consumer.tag, None) is not None:
                consumer.queue.remove_consumer(consumer)
                if not self.wire.cancel_consumer(consumer.tag, queue_is_gone=False):
                    timeout_s = self._ack_timeout_s(consumer.queue, consumer)
                    self.wire.close_channel(ack_timed_out(self.number, timeout_s))
                    return

    def _ack_timeout_s(self, queue: "Queue", consumer: Consumer | None) -> float:
        """The consumer's own, else the queue's, else the broker's; 0 means none."""
        timeout_ms = None if consumer is None else consumer.ack_timeout_ms
        if timeout_ms is None:
            timeout_ms = queue.settings.consumer_timeout_ms
        if timeout_ms is None:
            timeout_ms = self.connection.ack_timeout_ms
        return timeout_ms / 1000 or math.inf

    def _note_ack_timeout(self, queue: "Queue", consumer: Consumer | None) -> None:
        timeout_s = self._ack_timeout_s(queue, consumer)
        self._shortest_ack_timeout_s = min(self._shortest_ack_timeout_s, timeout_s)

    # The end

    def close(self) -> None:
        """Drop the consumers, requeue what is unacked, forget pending confirms. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self._journal.forget_channel(self)
        self._stop_replies()
        if self._transaction is not None:
            self._transaction.rollback()
        consumers, self.consumers = self.consumers, {}
        # Messages go back before the consumers go: the last consumer of an auto-delete queue takes the queue
        # along.
        self.recover()
        for consumer in consumers.values():
            consumer.queue.remove_consumer(consumer)


def _let_deliver(queue: "Queue") -> None:
    queue.may_deliver = True
    queue.vhost.services.turn.mark_queue(queue)
