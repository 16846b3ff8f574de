"""The load generator: publishers and consumers that take as little as possible of the machine they share.

Each is a process with one socket. Set-up goes through pamqp; the hot path sends ready-made bytes and walks
over what it receives, frame header by frame header. A body begins with the time at which it was sent.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

from pamqp import base, body, commands, frame, header

from .scenarios import Scenario

FRAME_HEADER = struct.Struct(">BHI")
METHOD_ID = struct.Struct(">I")
CONFIRM = struct.Struct(">IQ?")  # basic.ack and basic.nack: method id, tag, multiple
STAMP = struct.Struct(">Q")
METHOD, BODY = 1, 3
DELIVER, ACK, NACK = (60 << 16 | number for number in (60, 80, 120))
CLOSES = (10 << 16 | 50, 20 << 16 | 40)
FRAME_MAX = 131072
RECEIVE_BYTES = 1 << 18
SILENCE_MAX_S = 30
START_S = 0.5
WARM_UP_S = 1.5
"""The processes start, then the load runs so long before it is measured."""
BURST = 100
"""Without confirms: how many messages a send carries."""
SAMPLE_EVERY = 16
"""One in so many deliveries has its latency measured."""


@dataclass(frozen=True)
class Task:
    """What one process is to do, and when it counts (on the monotonic clock of the system)."""

    scenario: Scenario
    port: int
    queue: str
    size: int
    begin: float
    end: float


@dataclass
class Count:
    """What one process saw between begin and end."""

    messages: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)


class Link:
    """A connection with one open channel."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), SILENCE_MAX_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._has_unread = False  # complete frames in the rest, perhaps
        self.send(b"AMQP\x00\x00\x09\x01")
        self._answer()
        self.send(frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"), 0))
        tune = self._answer()
        self.send(frame.marshal(commands.Connection.TuneOk(tune.channel_max, FRAME_MAX, 0), 0))
        self.send(frame.marshal(commands.Connection.Open(), 0))
        self._answer()
        self.call(commands.Channel.Open())

    def call(self, method: base.Frame) -> Any:
        """Send a synchronous method on the channel and return its answer."""
        self.send(frame.marshal(method, 1))
        return self._answer()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, timeout_s: float = SILENCE_MAX_S) -> Iterator[tuple[bytes, int, int]]:
        """Wait for bytes, then yield (buffer, frame type, start of the payload) of each complete frame."""
        buffer = self._rest if self._has_unread else self._rest + self._receive_some(timeout_s)
        self._rest, self._has_unread = b"", False
        at, length = 0, len(buffer)
        while at + 8 <= length:
            kind, _, size = FRAME_HEADER.unpack_from(buffer, at)
            end = at + 8 + size
            if end > length:
                break
            if kind == METHOD and METHOD_ID.unpack_from(buffer, at + 7)[0] in CLOSES:
                raise ConnectionError(f"the broker said {frame.unmarshal(buffer[at:end])[2]}")
            yield buffer, kind, at + 7
            at = end
        self._rest = buffer[at:]

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> Any:
        """The next method. What came behind it (deliveries may) is left for `receive`."""
        for buffer, _, start in self.receive():
            size, _, method = frame.unmarshal(buffer[start - 7 :])
            self._rest = buffer[start - 7 + size :]
            self._has_unread = bool(self._rest)
            return method
        return self._answer()

    def _receive_some(self, timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the broker closed the connection")
        return received


def run(
    scenario: Scenario, port: int, size: int, seconds: float, observe: Callable[[], None]
) -> tuple[list[Count], list[Count]]:
    """Put the load on the broker; return what publishers and consumers counted.

    `observe` is called at the begin and at the end of the measured time.
    """
    queues = [f"{scenario.name}-{number}" for number in range(scenario.queues)]
    _call_each(port, [commands.Queue.Declare(queue=queue, durable=scenario.persistent) for queue in queues])
    begin = time.monotonic() + START_S + WARM_UP_S
    tasks = [Task(scenario, port, queue, size, begin, begin + seconds) for queue in queues]
    workers = scenario.publishers + scenario.consumers
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        consumers = [pool.submit(consume, task) for task in islice(cycle(tasks), scenario.consumers)]
        publishers = [pool.submit(publish, task) for task in islice(cycle(tasks), scenario.publishers)]
        for moment in (begin, begin + seconds):
            time.sleep(max(0.0, moment - time.monotonic()))
            observe()
        counts = [future.result() for future in publishers], [future.result() for future in consumers]
    _call_each(port, [commands.Queue.Delete(queue=queue) for queue in queues])
    return counts


def _call_each(port: int, methods: Sequence[base.Frame]) -> None:
    link = Link(port)
    for method in methods:
        link.call(method)
    link.close()


class Clock:
    """Begins and ends the measured time of a process."""

    def __init__(self, task: Task) -> None:
        self._begin = task.begin
        self._end = task.end
        self._begun = False
        self._cpu = 0.0

    def is_over(self, count: Count) -> bool:
        """Call often: forgets what was counted before the begin, and says when the end is there."""
        now = time.monotonic()
        if not self._begun and now >= self._begin:
            self._begun = True
            self._cpu = time.process_time()
            count.messages = count.refused = 0
            count.latencies_ms.clear()
        if now < self._end:
            return False
        count.cpu_seconds = time.process_time() - self._cpu
        return True


def publish(task: Task) -> Count:
    """Publish until the time is over; counts confirms, or what was sent if there are none."""
    count, clock, link = Count(), Clock(task), Link(task.port)
    head, tail = _message(task)
    window = task.scenario.window
    if window:
        link.call(commands.Confirm.Select())
    confirms = Confirms(count)
    while not clock.is_over(count):
        free = window - confirms.waiting if window else BURST
        if free:
            now = time.monotonic_ns()
            link.send((head + STAMP.pack(now) + tail) * free)
            confirms.sent(free, now)
        if window:
            confirms.read(link)
        else:
            count.messages += free
    link.close()
    return count


def _message(task: Task) -> tuple[bytes, bytes]:
    """The bytes of a publish, before and after the stamp at the begin of its body."""
    content = bytes(max(task.size, STAMP.size))
    properties = commands.Basic.Properties(delivery_mode=2 if task.scenario.persistent else 1)
    room = FRAME_MAX - 8
    frames = [
        frame.marshal(commands.Basic.Publish(exchange="", routing_key=task.queue), 1),
        frame.marshal(header.ContentHeader(body_size=len(content), properties=properties), 1),
        *[frame.marshal(body.ContentBody(content[at : at + room]), 1) for at in range(0, len(content), room)],
    ]
    stamp_at = len(frames[0]) + len(frames[1]) + FRAME_HEADER.size
    message = b"".join(frames)
    return message[:stamp_at], message[stamp_at + STAMP.size :]


class Confirms:
    """Which publishes are confirmed. Tags may come one by one, out of order, or many at once."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._last_sent = 0
        self._all_up_to = 0
        self._beyond: set[int] = set()
        self._sends: deque[tuple[int, int]] = deque()  # (last tag, time) of each send not fully confirmed

    @property
    def waiting(self) -> int:
        return self._last_sent - self._all_up_to - len(self._beyond)

    def sent(self, messages: int, now: int) -> None:
        self._last_sent += messages
        self._sends.append((self._last_sent, now))

    def read(self, link: Link) -> None:
        """Wait for at least one frame."""
        before = self.waiting
        for buffer, kind, start in link.receive():
            if kind == METHOD and METHOD_ID.unpack_from(buffer, start)[0] in (ACK, NACK):
                method, tag, multiple = CONFIRM.unpack_from(buffer, start)
                self._settle(tag, multiple)
                self._count.refused += method == NACK
        self._count.messages += before - self.waiting
        now = time.monotonic_ns()
        while self._sends and self._sends[0][0] <= self._all_up_to:
            self._count.latencies_ms.append((now - self._sends.popleft()[1]) / 1e6)

    def _settle(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._all_up_to = max(self._all_up_to, tag)
            self._beyond = {one for one in self._beyond if one > tag}
        elif tag > self._all_up_to:
            self._beyond.add(tag)
        while self._all_up_to + 1 in self._beyond:
            self._all_up_to += 1
            self._beyond.remove(self._all_up_to)


def consume(task: Task) -> Count:
    """Consume and ack until the time is over; counts deliveries."""
    count, clock, link = Count(), Clock(task), Link(task.port)
    ack_every = task.scenario.ack_every
    link.call(commands.Basic.Qos(prefetch_count=task.scenario.prefetch))
    link.call(commands.Basic.Consume(queue=task.queue, no_ack=not ack_every))
    tag = 0
    while not clock.is_over(count):
        try:
            tag = _read_deliveries(link, tag, ack_every, count)
        except TimeoutError:
            continue  # an idle queue: look at the clock again
    link.close()
    return count


def _read_deliveries(link: Link, tag: int, ack_every: int, count: Count) -> int:
    """Count and ack what one receive brings; return the last delivery tag (a channel counts them from 1)."""
    before = tag
    stamp_wanted = False
    for buffer, kind, start in link.receive(timeout_s=0.1):
        if kind == METHOD and METHOD_ID.unpack_from(buffer, start)[0] == DELIVER:
            tag += 1
            stamp_wanted = tag % SAMPLE_EVERY == 0
            if ack_every and tag % ack_every == 0:
                link.send(frame.marshal(commands.Basic.Ack(tag, multiple=True), 1))
        elif kind == BODY and stamp_wanted:
            stamp_wanted = False
            count.latencies_ms.append((time.monotonic_ns() - STAMP.unpack_from(buffer, start)[0]) / 1e6)
    count.messages += tag - before
    return tag
