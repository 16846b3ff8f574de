"""The AMQP 0-9-1 wire of the load: methods for the set-up, ready-made bytes for everything after it."""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.frames import (
    FRAME_HEADER,
    FRAME_OVERHEAD,
    METHOD_FRAME,
    content_frames,
    method_frame,
)
from leveret.protocol.amqp.wire_types import Method

from .link import Address, Link, LoadFailed, Route

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_MAX = 131072
CHANNEL = 1
HEADER_BYTES = 7
PERSISTENT, TRANSIENT = b"\x10\x00\x02", b"\x10\x00\x01"  # property lists: delivery-mode alone

CONFIRM = struct.Struct(">IQB")  # basic.ack and basic.nack: ids, tag, bits (the lowest: multiple)
NACK_ID = 60 << 16 | 120
ACK = struct.Struct(">11sQ2s")
ACK_HEAD = b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50"  # frame header, basic.ack
ACK_ONE, ACK_ALL = b"\x00\xce", b"\x01\xce"  # multiple or not, frame end

CLOSES = (methods.ConnectionClose, methods.ChannelClose)


class AmqpLink(Link):
    """One connection, one channel."""

    trouble = re.compile(
        rb"\x01\x00[\x00\x01]\x00\x00..(?:\x00\x0a\x00\x32|\x00\x14\x00\x28|\x00\x3c\x00\x1e)", re.DOTALL
    )  # a method frame with connection.close, channel.close or basic.cancel

    _frame_max = FRAME_MAX

    goodbye = method_frame(0, methods.ConnectionClose(reply_code=200))
    goodbye_answer = method_frame(0, methods.ConnectionCloseOk())

    def log_in(self, address: Address, confirming: bool) -> None:
        self.send(PROTOCOL_HEADER)
        self._answer()
        response = f"\0{address.user}\0{address.password}".encode()
        self.send(method_frame(0, methods.ConnectionStartOk(response=response)))
        tune = self._answer()
        assert isinstance(tune, methods.ConnectionTune)
        self._frame_max = min(FRAME_MAX, tune.frame_max or FRAME_MAX)
        tuned = methods.ConnectionTuneOk(channel_max=tune.channel_max, frame_max=self._frame_max, heartbeat=0)
        opening = methods.ConnectionOpen(virtual_host=address.vhost)
        self.send(method_frame(0, tuned) + method_frame(0, opening))
        self._answer()
        self._call(methods.ChannelOpen())
        if confirming:
            self._call(methods.ConfirmSelect())

    def declare_queues(self, queues: Sequence[str], *, durable: bool) -> None:
        self._call_last(
            methods.QueueDeclare(queue=queue, durable=durable, no_wait=queue != queues[-1])
            for queue in queues
        )

    def delete_queues(self, queues: Sequence[str]) -> None:
        self._call_last(methods.QueueDelete(queue=queue, no_wait=queue != queues[-1]) for queue in queues)

    def message_count(self, queue: str) -> int:
        answer = self._call(methods.QueueDeclare(queue=queue, passive=True))
        assert isinstance(answer, methods.QueueDeclareOk)
        return answer.message_count

    def declare_exchange(self, exchange: str, type_: str, *, durable: bool) -> None:
        self._call(methods.ExchangeDeclare(exchange=exchange, type=type_, durable=durable))

    def delete_exchange(self, exchange: str) -> None:
        self._call(methods.ExchangeDelete(exchange=exchange))

    def bind(self, exchange: str, bindings: Sequence[tuple[str, str]]) -> None:
        last = bindings[-1]
        self._call_last(
            methods.QueueBind(queue=one[0], exchange=exchange, routing_key=one[1], no_wait=one != last)
            for one in bindings
        )

    def publishes(self, routes: Sequence[Route], body: bytes, *, persistent: bool) -> bytes:
        properties = PERSISTENT if persistent else TRANSIENT
        content = content_frames(CHANNEL, properties, body, self._frame_max)
        return b"".join(
            method_frame(CHANNEL, methods.BasicPublish(exchange=route.exchange, routing_key=route.key))
            + content
            for route in routes
        )

    def confirms(self) -> Iterator[tuple[int, int, bool]]:
        self.inbox.fill()
        data = self.inbox.data
        for start, end in self.frames():
            if end - start == CONFIRM.size:  # nothing else that a publisher gets has this size
                ids, tag, bits = CONFIRM.unpack_from(data, start)
                yield (0 if bits & 1 else tag), tag, ids != NACK_ID
            else:
                self.look_for_trouble(start - HEADER_BYTES, end)

    def set_prefetch(self, count: int) -> None:
        self._call(methods.BasicQos(prefetch_count=count))

    def consume(self, queue: str, number: int, *, no_ack: bool) -> None:
        consume = methods.BasicConsume(queue=queue, consumer_tag=str(number), no_ack=no_ack, no_wait=True)
        self.send(method_frame(CHANNEL, consume))

    def body_span(self, size: int) -> int:
        frames = -(-size // (self._frame_max - FRAME_OVERHEAD))
        return size + (frames - 1) * FRAME_OVERHEAD + 1  # the last one's end

    def acks(self, first: int, last: int, every: int) -> bytes:
        if every == 1:
            return b"".join([ACK.pack(ACK_HEAD, tag, ACK_ONE) for tag in range(first, last + 1)])
        due = range(first + -first % every, last + 1, every)
        return b"".join([ACK.pack(ACK_HEAD, tag, ACK_ALL) for tag in due])

    def ack_all(self, last: int) -> bytes:
        return ACK.pack(ACK_HEAD, last, ACK_ALL)

    def frames(self) -> Iterator[tuple[int, int]]:
        inbox = self.inbox
        while inbox.end - inbox.start >= FRAME_OVERHEAD:
            _, _, size = FRAME_HEADER.unpack_from(inbox.data, inbox.start)
            if inbox.end - inbox.start < size + FRAME_OVERHEAD:
                return
            start = inbox.start + HEADER_BYTES
            inbox.start += size + FRAME_OVERHEAD
            yield start, start + size

    def _call(self, method: Method) -> Method:
        self.send(method_frame(CHANNEL, method))
        return self._answer()

    def _call_last(self, some: Iterable[Method]) -> None:
        """All but the last say that they want no answer."""
        self.send(b"".join(method_frame(CHANNEL, method) for method in some))
        self._answer()

    def _answer(self) -> Method:
        """The next method."""
        while True:
            for start, end in self.frames():
                if self.inbox.data[start - HEADER_BYTES] != METHOD_FRAME:
                    continue
                method = methods.decode_method(bytes(self.inbox.data[start:end]))
                if isinstance(method, CLOSES):
                    raise LoadFailed(f"the broker said {method.reply_code} {method.reply_text}")
                return method
            self.inbox.fill()
