"""A broker's side of the raw links of the benchmarks' load, on either wire, over a fake socket."""

import struct
from abc import ABC, abstractmethod

import msgpack
from fake_socket import FakeSocket

from leveret.benchmarks.load.amqp_link import AmqpLink
from leveret.benchmarks.load.body import HEAD, MARK, blank_body
from leveret.benchmarks.load.link import Link
from leveret.benchmarks.load.native_link import NativeLink
from leveret.protocol.amqp import methods
from leveret.protocol.amqp.frames import FRAME_HEADER, content_frames, method_frame
from leveret.protocol.native.framing import encode
from leveret.protocol.native.layouts import FrameType

NO_PROPERTIES = b"\x00\x00"


class Wire(ABC):
    """`link` is what is tested. What the broker says goes through `socket.say`."""

    link: Link

    def __init__(self) -> None:
        self.socket = FakeSocket()

    @abstractmethod
    def deliver(self, messages: list[tuple[int, int]], size: int) -> bytes:
        """Deliveries of (lane, number)."""

    @abstractmethod
    def confirm(self, first: int, last: int) -> bytes: ...

    @abstractmethod
    def refuse(self, tag: int) -> bytes: ...

    @abstractmethod
    def close_channel(self) -> bytes: ...

    @abstractmethod
    def answer(self) -> bytes:
        """To the request for a prefetch."""

    @abstractmethod
    def published(self) -> list[bytes]:
        """The bodies that the broker got."""

    @abstractmethod
    def acked(self) -> list[tuple[int, int]]:
        """(first, last) of what the broker was told; a first of 0: all up to the last."""


def body(lane: int, number: int, size: int) -> bytes:
    return HEAD.pack(MARK, lane, number, 0) + blank_body(size)[HEAD.size :]


class AmqpWire(Wire):
    """AMQP 0-9-1."""

    def __init__(self) -> None:
        super().__init__()
        self.link = AmqpLink(self.socket)  # type: ignore[arg-type]
        self._deliveries = 0

    def deliver(self, messages: list[tuple[int, int]], size: int) -> bytes:
        parts = []
        for lane, number in messages:
            self._deliveries += 1
            deliver = methods.BasicDeliver(
                consumer_tag="0", delivery_tag=self._deliveries, exchange="", routing_key="q"
            )
            parts.append(method_frame(1, deliver))
            parts.append(content_frames(1, NO_PROPERTIES, body(lane, number, size), 131072))
        return b"".join(parts)

    def confirm(self, first: int, last: int) -> bytes:
        return method_frame(1, methods.BasicAck(delivery_tag=last, multiple=first != last))

    def refuse(self, tag: int) -> bytes:
        return method_frame(1, methods.BasicNack(delivery_tag=tag))

    def close_channel(self) -> bytes:
        return method_frame(1, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND"))

    def answer(self) -> bytes:
        return method_frame(1, methods.BasicQosOk())

    def published(self) -> list[bytes]:
        return [payload for kind, payload in self._frames() if kind == 3]

    def acked(self) -> list[tuple[int, int]]:
        sent = [methods.decode_method(payload) for kind, payload in self._frames() if kind == 1]
        acks = [method for method in sent if isinstance(method, methods.BasicAck)]
        return [(0 if ack.multiple else ack.delivery_tag, ack.delivery_tag) for ack in acks]

    def _frames(self) -> list[tuple[int, bytes]]:
        found, at, sent = [], 0, self.socket.sent
        while at < len(sent):
            kind, _, size = FRAME_HEADER.unpack_from(sent, at)
            found.append((kind, sent[at + 7 : at + 7 + size]))
            at += size + 8
        return found


class NativeWire(Wire):
    """The native framing."""

    def __init__(self) -> None:
        super().__init__()
        self.link = NativeLink(self.socket)  # type: ignore[arg-type]
        self._deliveries = 0

    def deliver(self, messages: list[tuple[int, int]], size: int) -> bytes:
        entries = []
        for lane, number in messages:
            self._deliveries += 1
            entries.append([0, self._deliveries, 0, "", "q", NO_PROPERTIES, body(lane, number, size)])
        return encode(FrameType.DELIVER, 1, entries)

    def confirm(self, first: int, last: int) -> bytes:
        return encode(FrameType.CONFIRM, 1, [first if first == last else [first, last]])

    def refuse(self, tag: int) -> bytes:
        return encode(FrameType.REFUSE, 1, [tag], 506, "RESOURCE_ERROR")

    def close_channel(self) -> bytes:
        return encode(FrameType.CHANNEL_CLOSED, 1, 404, "NOT_FOUND")

    def answer(self) -> bytes:
        return encode(FrameType.REPLY, 1, [])

    def published(self) -> list[bytes]:
        found, next_tag = [], 1
        for frame in self._frames():
            if frame[0] == FrameType.PUBLISH:
                assert frame[2] == next_tag
                next_tag += len(frame[3])
                found += [entry[4] for entry in frame[3]]
        return found

    def acked(self) -> list[tuple[int, int]]:
        return [tuple(tags) for frame in self._frames() if frame[0] == FrameType.ACK for tags in frame[3]]

    def _frames(self) -> list[list]:  # type: ignore[type-arg]
        found, at, sent = [], 0, self.socket.sent
        while at < len(sent):
            (size,) = struct.unpack_from(">I", sent, at)
            found.append(msgpack.unpackb(sent[at + 4 : at + 4 + size]))
            at += 4 + size
        return found
