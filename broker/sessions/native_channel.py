"""A channel of a native connection: its operations in, its batches out. `NativeSession` owns it.

It is the `Wire` of one `Channel`. What the domain says (deliveries, confirms, returns) is collected and
leaves as one frame of each kind per turn, when the session calls `write_batches`. The order of these frames
is part of the protocol (docs/native-protocol.md section 7): a message is returned or refused before it is
confirmed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from leveret.protocol.amqp.field_table import FieldValue
from leveret.protocol.errors import AmqpError, SoftError
from leveret.protocol.native.connection import BATCH_BYTES, ENTRY_OVERHEAD_BYTES, ServerConnection
from leveret.protocol.native.fields import ENTRIES_MAX, MANDATORY, REDELIVERED
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.publishes import Header, Run
from leveret.protocol.native.tags import TagElement
from leveret.protocol.reply_codes import ReplyCode

from ..channels.channel import Channel
from ..message import Message
from ..queues.delivery import Delivery, Outcome, delivered_properties

if TYPE_CHECKING:
    from .native_session import NativeSession

Arguments = dict[str, FieldValue]


class NativeChannel:
    """See the module's docstring."""

    channel: Channel  # set by the session right after making this

    def __init__(self, session: "NativeSession", protocol: ServerConnection, number: int) -> None:
        self.number = number
        self._session = session
        self._protocol = protocol
        self._numbers: dict[str, int] = {}  # consumer tag -> the number that the client gave the consumer
        self._tags: dict[int, str] = {}  # and back
        self._prefetch_count = 0  # what QOS said, for consumers that ask for none of their own
        self._publish_tag = 0  # of the publish that is being executed
        self._note: Callable[[Sequence[Outcome]], object] | None = None  # of publishes that went through
        self._kept_tags: list[int] = []  # of the publishes that wait for the commit
        self._flaw: AmqpError | None = None  # why a publish of the open transaction was refused: no commit
        self._deliveries: list[tuple[int, int, int, str, str, bytes, bytes]] = []
        self._deliveries_bytes = 0
        self._confirmed: list[TagElement] = []
        self._refused: dict[tuple[int, str], list[TagElement]] = {}
        self._returned: list[tuple[int, int, str]] = []

    # What the domain says (`Wire`)

    def deliver(self, consumer_tag: str, first_tag: int, deliveries: Sequence[Delivery]) -> None:
        number = self._numbers[consumer_tag]
        total_bytes = 0
        for tag, (redelivered, exchange, routing_key, properties, body) in enumerate(deliveries, first_tag):
            size = len(body) + len(properties) + ENTRY_OVERHEAD_BYTES
            if self._deliveries_bytes + size > BATCH_BYTES or len(self._deliveries) == ENTRIES_MAX:
                self._write_deliveries()
            flags = REDELIVERED if redelivered else 0
            self._deliveries.append((number, tag, flags, exchange, routing_key, properties, body))
            self._deliveries_bytes += size
            total_bytes += size
        self._session.buffered(self, total_bytes)

    def return_message(self, message: Message, reply_code: int, reply_text: str) -> None:
        self._returned.append((self._publish_tag, reply_code, reply_text))
        self._publish_tag += 1  # of messages that were published together all are returned, or none
        self._session.buffered(self, 0)

    def confirm(self, publish_tag: int, multiple: bool) -> None:
        self._confirmed.append([0, publish_tag] if multiple else publish_tag)
        self._session.buffered(self, 0)

    def refuse(self, publish_tag: int, multiple: bool) -> None:
        self._refuse([0, publish_tag] if multiple else publish_tag, _refused_by_queue())

    def _refuse(self, tag: TagElement, error: AmqpError) -> None:
        self._refused.setdefault((error.reply_code, error.reply_text), []).append(tag)
        self._session.buffered(self, 0)

    def cancel_consumer(self, consumer_tag: str, *, queue_is_gone: bool) -> bool:
        number = self._numbers.pop(consumer_tag, None)
        if number is not None:
            del self._tags[number]
            self.write_batches()  # what it got before comes before the news that it is gone
            self._protocol.send(FrameType.CONSUMER_CANCELLED, self.number, number, queue_is_gone)
            self._session.buffered(self, 0)
        return True

    def close_channel(self, error: AmqpError) -> None:
        self._session.fail_channel(self, error, 0)

    def room(self) -> int:
        return self._session.room

    def write_batches(self) -> None:
        """Turn what was collected into frames, in the order that the protocol asks for."""
        send, number = self._protocol.send, self.number
        if self._returned:
            returned, self._returned = self._returned, []
            for start in range(0, len(returned), ENTRIES_MAX):
                send(FrameType.RETURN, number, returned[start : start + ENTRIES_MAX])
        if self._refused:
            refused, self._refused = self._refused, {}
            for (code, text), tags in refused.items():
                for start in range(0, len(tags), ENTRIES_MAX):
                    send(FrameType.REFUSE, number, tags[start : start + ENTRIES_MAX], code, text)
        if self._confirmed:
            confirmed, self._confirmed = self._confirmed, []
            for start in range(0, len(confirmed), ENTRIES_MAX):
                send(FrameType.CONFIRM, number, confirmed[start : start + ENTRIES_MAX])
        self._write_deliveries()

    def _write_deliveries(self) -> None:
        if self._deliveries:
            self._protocol.send_batch(FrameType.DELIVER, self.number, self._deliveries)
            self._deliveries = []
            self._deliveries_bytes = 0

    # What the client says: one method per request; the result is the values of its REPLY

    def publish(self, first_tag: int, runs: list[Run]) -> None:
        """PUBLISH: a message that fails is refused by its tag, the others go on."""
        for header, bodies in runs:
            self._publish_run(first_tag, header, bodies)
            first_tag += len(bodies)

    def _publish_run(self, first_tag: int, header: Header, bodies: list[bytes]) -> None:
        """Publish messages that differ in their bodies only."""
        channel = self.channel
        largest, message_max = max(map(len, bodies)), self._protocol.message_max
        self._publish_tag = first_tag
        if largest <= message_max:
            exchange, routing_key, flags, properties = header
            try:
                outcomes = channel.publish(
                    exchange, routing_key, bool(flags & MANDATORY), False, properties, bodies
                )
            except AmqpError as error:
                channel.publish_failed(len(bodies))
                for tag in range(first_tag, first_tag + len(bodies)):
                    self._refuse_publish(tag, error)
            else:
                if self._note is not None:
                    self._note(outcomes)
        elif len(bodies) == 1:
            channel.skip_publish()
            self._refuse_publish(first_tag, _too_large(largest, message_max))
        else:
            for tag, body in enumerate(bodies, first_tag):
                NativeChannel._publish_run(self, tag, header, [body])  # a producer's has been through its own

    def _refuse_publish(self, tag: int, error: AmqpError) -> None:
        self._refuse(tag, error)
        if self._note is not None and self._flaw is None:
            self._flaw = error

    def exchange_declare(
        self,
        exchange: str,
        type_: str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Arguments,
    ) -> None:
        self.channel.exchange_declare(
            exchange,
            type_,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    def exchange_delete(self, exchange: str, if_unused: bool) -> None:
        self.channel.exchange_delete(exchange, if_unused=if_unused)

    def exchange_bind(self, destination: str, source: str, binding_key: str, arguments: Arguments) -> None:
        self.channel.exchange_bind(destination, source, binding_key, arguments)

    def exchange_unbind(self, destination: str, source: str, binding_key: str, arguments: Arguments) -> None:
        self.channel.exchange_unbind(destination, source, binding_key, arguments)

    def queue_declare(
        self,
        queue: str,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Arguments,
    ) -> tuple[str, int, int]:
        return self.channel.queue_declare(
            queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def queue_delete(self, queue: str, if_unused: bool, if_empty: bool) -> tuple[int]:
        return (self.channel.queue_delete(queue, if_unused=if_unused, if_empty=if_empty),)

    def queue_bind(self, queue: str, exchange: str, binding_key: str, arguments: Arguments) -> None:
        self.channel.queue_bind(queue, exchange, binding_key, arguments)

    def queue_unbind(self, queue: str, exchange: str, binding_key: str, arguments: Arguments) -> None:
        self.channel.queue_unbind(queue, exchange, binding_key, arguments)

    def queue_purge(self, queue: str) -> tuple[int]:
        return (self.channel.queue_purge(queue),)

    def qos(self, prefetch_count: int, global_: bool) -> None:
        self.channel.qos(0, prefetch_count, global_)
        if not global_:
            self._prefetch_count = prefetch_count

    def consume(
        self,
        queue: str,
        consumer: int,
        consumer_tag: str,
        no_ack: bool,
        exclusive: bool,
        prefetch_count: int | None,
        arguments: Arguments,
    ) -> tuple[str]:
        if consumer in self._tags:
            raise SoftError(ReplyCode.NOT_ALLOWED, f"attempt to reuse consumer {consumer}")
        channel = self.channel
        if prefetch_count is not None:
            channel.qos(0, prefetch_count, False)
        try:
            tag = channel.consume(
                queue, consumer_tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments
            )
        finally:
            channel.qos(0, self._prefetch_count, False)
        self._numbers[tag] = consumer
        self._tags[consumer] = tag
        return (tag,)

    def cancel(self, consumer: int) -> None:
        tag = self._tags.pop(consumer, None)
        if tag is not None:
            self.channel.cancel(tag)
            del self._numbers[tag]
            self.write_batches()  # no delivery may follow the reply

    def get(self, queue: str, no_ack: bool) -> tuple[Any, ...]:
        got = self.channel.get(queue, no_ack=no_ack)
        if got is None:
            return (None,)
        copy = got.copy
        if not copy.queue.may_deliver:
            self._session.hold_reply()  # nothing leaves a durable queue before its delivery mark is durable
        message = copy.message
        return (
            got.delivery_tag,
            REDELIVERED if copy.redelivered else 0,
            message.exchange,
            message.routing_key,
            delivered_properties(copy),
            message.body,
            got.message_count,
        )

    def ack(self, delivery_tags: list[TagElement]) -> None:
        channel = self.channel
        for element in delivery_tags:
            if isinstance(element, int):
                channel.ack(element, False)
            elif element[0] == 0:
                channel.ack(element[1], True)
            else:
                channel.ack_range(*element)

    def nack(self, delivery_tags: list[TagElement], requeue: bool) -> None:
        for tag, multiple in _each(delivery_tags):
            self.channel.nack(tag, multiple, requeue)

    def reject(self, delivery_tags: list[TagElement], requeue: bool) -> None:
        for tag, multiple in _each(delivery_tags):
            if multiple:
                raise SoftError(ReplyCode.NOT_IMPLEMENTED, f"REJECT of all up to {tag}")
            self.channel.reject(tag, requeue)

    def recover(self) -> None:
        self.channel.recover()

    def extend(self, delivery_tags: list[TagElement]) -> None:
        for tag, multiple in _each(delivery_tags):
            self.channel.extend(tag, multiple)

    def tx_select(self) -> None:
        self.channel.tx_select()
        self._note = self._keep_tags

    def _keep_tags(self, outcomes: Sequence[Outcome]) -> None:
        self._kept_tags += range(self._publish_tag, self._publish_tag + len(outcomes))

    def tx_commit(self, all_or_nothing: bool) -> None:
        """What lacks a publish that was refused when it came is rolled back, and the reason is the answer;
        with `all_or_nothing` so is what would lose one now.
        """
        flaw, tags = self._flaw, self._kept_tags
        if all_or_nothing:
            for position, error in self.channel.tx_failures():
                self._report(tags[position], error)
                flaw = flaw or error
        if flaw is not None:
            self.tx_rollback()
            self.write_batches()  # RETURN and REFUSE, which say what it was, come first
            raise flaw
        self._kept_tags = []

        def starting(position: int) -> None:
            self._publish_tag = tags[position]

        for position in self.channel.tx_commit(starting):
            self._refuse(tags[position], _refused_by_queue())
        self.write_batches()  # RETURN and REFUSE come before the reply

    def _report(self, tag: int, error: SoftError) -> None:
        if error.reply_code is ReplyCode.NO_ROUTE:
            self._returned.append((tag, error.reply_code, error.reply_code.name))
        else:
            self._refuse(tag, error)

    def tx_rollback(self) -> None:
        self.channel.tx_rollback()
        self._kept_tags = []
        self._flaw = None


def _refused_by_queue() -> SoftError:
    return SoftError(ReplyCode.RESOURCE_ERROR, "a queue refused the message")


def _too_large(size: int, limit: int) -> SoftError:
    text = f"message size {size} is larger than configured max size {limit}"
    return SoftError(ReplyCode.PRECONDITION_FAILED, text)


def _each(delivery_tags: list[TagElement]) -> Iterator[tuple[int, bool]]:
    """A set of tags as (delivery_tag, multiple) pairs."""
    for element in delivery_tags:
        if isinstance(element, int):
            yield element, False
        elif element[0] == 0:
            yield element[1], True
        else:
            for tag in range(element[0], element[1] + 1):
                yield tag, False
