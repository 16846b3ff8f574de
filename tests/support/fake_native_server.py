"""A broker for SDK tests, in memory: the sans-I/O server role, a few queues, and no sockets.

`FakeNativeServer().connect()` gives the SDK's connector, dialled straight into it. It knows the default
exchange and queues, confirms what it is sent, and delivers within the prefetch. A test changes that with the
attributes below, and reads what was received in `frames`.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from leveret.client.address import parse_url
from leveret.client.connection import Connector, Settings
from leveret.protocol.errors import SoftError
from leveret.protocol.native.connection import FAILED, ServerConnection
from leveret.protocol.native.framing import LENGTH, MAGIC
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

Frame = Sequence[Any]


class MemorySocket(asyncio.Transport):
    """The client's end: what is written arrives at the server in the next turn of the loop."""

    def __init__(self, server: "FakeNativeServer", client: asyncio.Protocol) -> None:
        super().__init__()
        self._server = server
        self._client = client
        self._closing = False
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self.writes.append(bytes(data))
            asyncio.get_running_loop().call_soon(self._server.receive, bytes(data))

    def deliver(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._receive, data)

    def _receive(self, data: bytes) -> None:
        if not self._closing:
            self._client.data_received(data)

    def lose(self) -> None:
        """The connection breaks."""
        self.close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._client.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@dataclass
class FakeConsumer:
    channel: int
    number: int
    queue: str
    room: int  # how many more it may be sent


@dataclass
class FakeNativeServer:
    """See the module's docstring."""

    password: str = "guest"
    heartbeat_s: int = 60
    hold_confirms: bool = False
    """Keep publishes unconfirmed until `confirm_all`."""
    silent: set[FrameType] = field(default_factory=set)
    """Requests that get no answer."""
    refusals: deque[OSError] = field(default_factory=deque)
    """What the next attempts to connect raise."""
    errors: dict[FrameType, tuple[ReplyCode, str]] = field(default_factory=dict)
    """Requests that are answered with this error."""

    def __post_init__(self) -> None:
        self.protocol = ServerConnection(heartbeat_s=self.heartbeat_s)
        self.frames: list[Frame] = []
        self.queues: dict[str, deque[tuple[str, str, bytes, bytes]]] = defaultdict(deque)
        self.consumers: dict[tuple[int, int], FakeConsumer] = {}
        self.unacked: dict[
            tuple[int, int], tuple[FakeConsumer | None, str, tuple[str, str, bytes, bytes]]
        ] = {}
        self.unconfirmed: dict[int, list[int]] = defaultdict(list)
        self.delivery_tags: dict[int, int] = defaultdict(int)
        self.socket: MemorySocket | None = None
        self.lives = 1  # connections so far, or the first to come
        self.producers: dict[int, bytes] = {}  # by channel
        self.last_tags: dict[bytes, int] = {}  # by producer, over all lives
        self.names = count(1)  # of queues

    def connect(self, url: str = "leveret://guest:guest@fake/", **options: Any) -> Connector:
        """The SDK's connector to this server."""
        settings: dict[str, Any] = {
            "heartbeat_s": 0,
            "timeout_s": 5.0,
            "name": None,
            "ssl_context": None,
            "reconnect": None,
            **options,
        }
        return Connector(parse_url(url), Settings(dial=self.dial, **settings))

    async def dial(self, make: Callable[[], asyncio.Protocol], _address: object, _ssl: object) -> None:
        """Each connection is a new life, in which the last one's unacked messages are ready again."""
        if self.refusals:
            raise self.refusals.popleft()
        if self.socket is not None:
            self._begin_again()
        client = make()
        self.socket = MemorySocket(self, client)
        client.connection_made(self.socket)

    def _begin_again(self) -> None:
        for _, queue, message in reversed(self.unacked.values()):
            self.queues[queue].appendleft(message)
        for lost in (self.consumers, self.unacked, self.unconfirmed, self.delivery_tags, self.producers):
            lost.clear()
        self.lives += 1
        self.protocol = ServerConnection(
            heartbeat_s=self.heartbeat_s,
            message_max=self.protocol.message_max,
            channel_max=self.protocol.channel_max,
        )

    def lose(self) -> None:
        """The connection breaks."""
        assert self.socket is not None
        self.socket.lose()

    def of_type(self, type_: FrameType) -> list[Frame]:
        """The frames of one type that were received."""
        return [frame for frame in self.frames if frame[0] == type_]

    # The wire

    def receive(self, data: bytes) -> None:
        for piece in _frame_by_frame(data):  # together, publishes would come as one
            for event in self.protocol.receive_data(piece):
                assert event[0] != FAILED, f"the client broke the protocol: {event[1]}"
                frame = _as_sent(event) if event[0] == FrameType.PUBLISH else event
                self.frames.append(frame)
                self._handle(frame)
        self.deliver_ready()
        self.flush()

    def send(self, type_: FrameType, *fields: Any) -> None:
        """Send a frame of the test's own making."""
        self.protocol.send(type_, *fields)
        self.flush()

    def flush(self) -> None:
        output = b"".join(self.protocol.data_to_send())
        if output and self.socket is not None:
            self.socket.deliver(output)

    def _handle(self, frame: Frame) -> None:
        type_ = FrameType(frame[0])
        if type_ is FrameType.HELLO:
            self._log_in(frame)
        elif type_ is FrameType.CLOSE:
            self.protocol.answer_close()
        elif type_ is FrameType.PUBLISH:
            self._publish(*frame[1:])
        elif type_ is not FrameType.CLOSED:
            self._answer(type_, frame)

    def _answer(self, type_: FrameType, frame: Frame) -> None:
        _, request, channel, *fields = frame
        if type_ in self.silent:
            return
        if type_ in self.errors:
            self.protocol.answer_error(request, *self.errors[type_], type_)
            return
        if type_ is FrameType.CHANNEL_CLOSE:
            self.protocol.answer_channel_close(request, channel)
            return
        answer = getattr(self, f"_{type_.name.lower()}", None)
        try:
            values = answer(channel, *fields) if answer is not None else ()
        except SoftError as error:
            code = ReplyCode(error.reply_code)
            self.protocol.answer_error(request, code, error.explanation, type_)
        else:
            self.protocol.answer(request, *values)

    def _log_in(self, hello: Frame) -> None:
        if hello[5] == f"\0guest\0{self.password}".encode():
            self.protocol.welcome(hello, {"product": "fake"})
        else:
            self.protocol.close(ReplyCode.ACCESS_REFUSED, "ACCESS_REFUSED - Login was refused")

    # The broker

    def _channel_open(self, channel: int, _confirm: bool, producer: bytes, _opening: int) -> tuple[int, ...]:
        if not producer:
            return ()
        self.producers[channel] = producer
        return (self.last_tags.setdefault(producer, 0),)

    def _publish(self, channel: int, publish_tag: int, messages: list[list[Any]]) -> None:
        producer = self.producers.get(channel, b"")
        for tag, (exchange, routing_key, flags, properties, body) in enumerate(messages, publish_tag):
            if producer:
                if tag <= self.last_tags[producer]:
                    self.unconfirmed[channel].append(tag)
                    continue
                self.last_tags[producer] = tag
            if exchange:
                text = f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
                self.protocol.send(FrameType.REFUSE, channel, [tag], ReplyCode.NOT_FOUND, text)
                continue
            if routing_key in self.queues:
                self.queues[routing_key].append((exchange, routing_key, properties, body))
            elif flags:
                self.protocol.send(FrameType.RETURN, channel, [[tag, 312, "NO_ROUTE"]])
            self.unconfirmed[channel].append(tag)
        if not self.hold_confirms:
            self.confirm_all()

    def confirm_all(self) -> None:
        for channel, tags in self.unconfirmed.items():
            if tags:
                self.protocol.send(FrameType.CONFIRM, channel, [[0, tags[-1]]])
        self.unconfirmed.clear()
        self.flush()

    def _queue_declare(
        self, _channel: int, queue: str, passive: bool, *_options: Any
    ) -> tuple[str, int, int]:
        if passive and queue not in self.queues:
            raise SoftError(ReplyCode.NOT_FOUND, f"no queue '{queue}' in vhost '/'")
        name = queue or f"amq.gen-{next(self.names)}"
        return name, len(self.queues[name]), 0

    def _queue_purge(self, _channel: int, queue: str) -> tuple[int]:
        count = len(self.queues[queue])
        self.queues[queue].clear()
        return (count,)

    def _queue_delete(self, _channel: int, queue: str, *_options: Any) -> tuple[int]:
        for key, consumer in list(self.consumers.items()):
            if consumer.queue == queue:
                del self.consumers[key]
                self.protocol.send(FrameType.CONSUMER_CANCELLED, consumer.channel, consumer.number)
        return (len(self.queues.pop(queue, ())),)

    def _consume(
        self,
        channel: int,
        queue: str,
        number: int,
        tag: str,
        _no_ack: bool,
        _exclusive: bool,
        prefetch: int,
        _: Any,
    ) -> tuple[str]:
        self.consumers[channel, number] = FakeConsumer(channel, number, queue, prefetch)
        return (tag or f"amq.ctag-{number}",)

    def _cancel(self, channel: int, number: int) -> tuple[()]:
        self.consumers.pop((channel, number), None)
        return ()

    def _get(self, channel: int, queue: str, _no_ack: bool) -> tuple[Any, ...]:
        if not self.queues[queue]:
            return (None,)
        message = self.queues[queue].popleft()
        return self._next_delivery(channel, None, queue, message), 0, *message, len(self.queues[queue])

    def deliver_ready(self) -> None:
        """Give consumers what their prefetch allows, one frame for each."""
        for consumer in self.consumers.values():
            batch = []
            queue = self.queues[consumer.queue]
            while queue and consumer.room:
                message = queue.popleft()
                consumer.room -= 1
                tag = self._next_delivery(consumer.channel, consumer, consumer.queue, message)
                batch.append((consumer.number, tag, 0, *message))
            if batch:
                self.protocol.send_batch(FrameType.DELIVER, consumer.channel, batch)

    def _next_delivery(
        self, channel: int, consumer: FakeConsumer | None, queue: str, message: tuple[str, str, bytes, bytes]
    ) -> int:
        self.delivery_tags[channel] += 1
        self.unacked[channel, self.delivery_tags[channel]] = (consumer, queue, message)
        return self.delivery_tags[channel]

    def _settle(self, channel: int, tags: list[Any]) -> list[tuple[str, tuple[str, str, bytes, bytes]]]:
        settled = []
        for element in tags:
            first, last = (element, element) if isinstance(element, int) else element
            tags_of_range: Iterable[int] = range(first, last + 1)
            if first == 0:
                tags_of_range = [tag for number, tag in self.unacked if number == channel and tag <= last]
            for tag in tags_of_range:
                consumer, queue, message = self.unacked.pop((channel, tag))
                if consumer is not None:
                    consumer.room += 1
                settled.append((queue, message))
        return settled

    def _ack(self, channel: int, tags: list[Any]) -> tuple[()]:
        self._settle(channel, tags)
        return ()

    def _nack(self, channel: int, tags: list[Any], requeue: bool) -> tuple[()]:
        for queue, message in reversed(self._settle(channel, tags)):
            if requeue:
                self.queues[queue].appendleft(message)
        return ()

    _reject = _nack


def _frame_by_frame(data: bytes) -> Iterator[bytes]:
    at = len(MAGIC) if data.startswith(MAGIC) else 0
    yield data[:at]
    while at < len(data):
        end = at + LENGTH.size + LENGTH.unpack_from(data, at)[0]
        yield data[at:end]
        at = end


def _as_sent(publishes: Sequence[Any]) -> Frame:
    """A PUBLISH with all fields in each of its entries."""
    type_, channel, publish_tag, runs = publishes
    return [type_, channel, publish_tag, [[*header, body] for header, bodies in runs for body in bodies]]
