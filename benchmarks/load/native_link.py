"""The native wire of the load (docs/native-protocol.md): publishes and deliveries travel in batches."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from leveret.protocol.native.framing import LENGTH, MAGIC, encode
from leveret.protocol.native.layouts import FrameType

from .link import Address, Link, LoadFailed, Route

CHANNEL = 1
NO_ANSWER = 0
PERSISTENT, TRANSIENT = b"\x10\x00\x02", b"\x10\x00\x01"  # AMQP property lists: delivery-mode alone

PUBLISH_HEAD = bytes((0x94, FrameType.PUBLISH, CHANNEL, 0xCF))  # an array of four; then the tag, a u64
FIRST_TAG = (1).to_bytes(8, "big")
COUNT_HEAD = b"\xdc"  # an array of u16 entries


class NativeLink(Link):
    """One connection, one channel."""

    trouble = re.compile(
        rb"\x00\x00..(?:\x93\x04\xcd|[\x94\x95]\x12\x01\xcd|\x93\x45\x01)", re.DOTALL
    )  # CLOSE or CHANNEL_CLOSED with a code of 256 or more, or CONSUMER_CANCELLED, of channel 1

    _requests = 0  # the number of the last one

    goodbye = encode(FrameType.CLOSE, 200, "")
    goodbye_answer = encode(FrameType.CLOSED)

    has_batches = True
    tag_offset = LENGTH.size + len(PUBLISH_HEAD)

    def log_in(self, address: Address, confirming: bool) -> None:
        response = f"\0{address.user}\0{address.password}".encode()
        self.send(MAGIC + encode(FrameType.HELLO, 0, 0, 0, "PLAIN", response, address.vhost))
        if self._next_frame()[0] != FrameType.WELCOME:
            raise LoadFailed("the broker does not speak the native framing")
        self._call(FrameType.CHANNEL_OPEN, confirming)

    def declare_queues(self, queues: Sequence[str], *, durable: bool) -> None:
        self._call_last(FrameType.QUEUE_DECLARE, [(queue, False, durable) for queue in queues])

    def delete_queues(self, queues: Sequence[str]) -> None:
        self._call_last(FrameType.QUEUE_DELETE, [(queue,) for queue in queues])

    def message_count(self, queue: str) -> int:
        count: int = self._call(FrameType.QUEUE_DECLARE, queue, True)[1]
        return count

    def declare_exchange(self, exchange: str, type_: str, *, durable: bool) -> None:
        self._call(FrameType.EXCHANGE_DECLARE, exchange, type_, False, durable)

    def delete_exchange(self, exchange: str) -> None:
        self._call(FrameType.EXCHANGE_DELETE, exchange)

    def bind(self, exchange: str, bindings: Sequence[tuple[str, str]]) -> None:
        self._call_last(FrameType.QUEUE_BIND, [(queue, exchange, key) for queue, key in bindings])

    def publishes(self, routes: Sequence[Route], body: bytes, *, persistent: bool) -> bytes:
        properties = PERSISTENT if persistent else TRANSIENT
        entries = [msgpack.packb((route.exchange, route.key, 0, properties, body)) for route in routes]
        head = PUBLISH_HEAD + FIRST_TAG + COUNT_HEAD + len(entries).to_bytes(2, "big")
        payload = b"".join((head, *entries))
        return LENGTH.pack(len(payload)) + payload

    def confirms(self) -> Iterator[tuple[int, int, bool]]:
        self.inbox.fill()
        for start, end in self.frames():
            type_ = self.inbox.data[start + 1]
            if type_ in (FrameType.CONFIRM, FrameType.REFUSE):
                for tags in self._decode(start, end)[2]:
                    first, last = tags if isinstance(tags, list) else (tags, tags)
                    yield first, last, type_ == FrameType.CONFIRM
            else:
                self.look_for_trouble(start - LENGTH.size, end)

    def set_prefetch(self, count: int) -> None:
        self._call(FrameType.QOS, count)

    def consume(self, queue: str, number: int, *, no_ack: bool) -> None:
        self.send(encode(FrameType.CONSUME, NO_ANSWER, CHANNEL, queue, number, "", no_ack))

    def body_span(self, size: int) -> int:
        return size

    def acks(self, first: int, last: int, every: int) -> bytes:
        if every == 1:
            return encode(FrameType.ACK, NO_ANSWER, CHANNEL, [[first, last]])
        due = last - last % every
        return encode(FrameType.ACK, NO_ANSWER, CHANNEL, [[0, due]]) if due >= first else b""

    def ack_all(self, last: int) -> bytes:
        return encode(FrameType.ACK, NO_ANSWER, CHANNEL, [[0, last]])

    def frames(self) -> Iterator[tuple[int, int]]:
        inbox = self.inbox
        while inbox.end - inbox.start >= LENGTH.size:
            start = inbox.start + LENGTH.size
            end = start + LENGTH.unpack_from(inbox.data, inbox.start)[0]
            if inbox.end < end:
                return
            inbox.start = end
            yield start, end

    def _call(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a request on the channel; the values of its answer."""
        self._requests += 1
        self.send(encode(type_, self._requests, CHANNEL, *fields))
        while True:
            answer = self._next_frame()
            if answer[0] == FrameType.ERROR:
                raise LoadFailed(f"the broker said {answer[2]} {answer[3]}")
            if answer[0] == FrameType.REPLY:
                values: list[Any] = answer[2]
                return values

    def _call_last(self, type_: FrameType, requests: Sequence[tuple[Any, ...]]) -> None:
        """All but the last say that they want no answer."""
        *others, last = requests
        self.send(b"".join(encode(type_, NO_ANSWER, CHANNEL, *fields) for fields in others))
        self._call(type_, *last)

    def _next_frame(self) -> list[Any]:
        """That is to be decoded. Waits for it."""
        while True:
            for start, end in self.frames():
                frame = self._decode(start, end)
                if frame[0] == FrameType.CLOSE:
                    raise LoadFailed(f"the broker said {frame[1]} {frame[2]}")
                return frame
            self.inbox.fill()

    def _decode(self, start: int, end: int) -> list[Any]:
        frame: list[Any] = msgpack.unpackb(self.inbox.data[start:end])
        return frame
