"""Publishers: numbered messages, round robin over queues, confirmed; ready-made bytes but for the body."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pamqp import body as amqp_body
from pamqp import commands, frame, header

from .amqp_link import BODY, FRAME_HEADER, FRAME_MAX, SILENCE_MAX_S, Confirms, Count, Link
from .bodies import Bodies
from .progress import CONFIRMED, TAKEN, Progress

FRAME_END = b"\xce"
POLL_S = 0.001
PARTS = 10
DECLARES_PER_SEND = 500


@dataclass(frozen=True)
class Load:
    """Message k goes to queue k % len(queues), where it has the number k // len(queues)."""

    port: int
    queues: tuple[str, ...]
    messages: int
    size: int
    progress: Path

    def numbers(self) -> dict[int, range]:
        """The numbers that are published to each queue."""
        queues = len(self.queues)
        return {queue: range(len(range(queue, self.messages, queues))) for queue in range(queues)}


@dataclass(frozen=True)
class Published:
    """What a publisher saw."""

    part_seconds: tuple[float, ...]  # how long each tenth took to be confirmed
    refused: int
    confirm_ms: tuple[float, ...]  # from a send to the confirm of all of it; rising

    @property
    def seconds(self) -> float:
        return sum(self.part_seconds)


def declare(port: int, queues: Sequence[str]) -> None:
    """Durable queues, one by one."""
    link = Link(port)
    for queue in queues:
        link.call(commands.Queue.Declare(queue=queue, durable=True))
    link.close()


def declare_at_once(port: int, queues: Sequence[str]) -> None:
    """Durable queues, without waiting for any but the last."""
    link = Link(port)
    declares = [
        frame.marshal(commands.Queue.Declare(queue=queue, durable=True, nowait=True), 1) for queue in queues
    ]
    for at in range(0, len(declares), DECLARES_PER_SEND):
        link.send(b"".join(declares[at : at + DECLARES_PER_SEND]))
    link.call(commands.Queue.Declare(queue=queues[-1], durable=True))
    link.close()


def message_count(port: int, queue: str) -> int:
    """How many messages are ready in a queue."""
    link = Link(port)
    count: int = link.call(commands.Queue.Declare(queue=queue, passive=True)).message_count
    link.close()
    return count


def publish_one(port: int, exchange: str, body: bytes) -> None:
    """A persistent message of any size; returns when it is confirmed."""
    link = Link(port)
    link.call(commands.Confirm.Select())
    room = FRAME_MAX - 8
    frames = [amqp_body.ContentBody(body[at : at + room]) for at in range(0, len(body), room)]
    link.send(_head(exchange, "", len(body)) + b"".join(frame.marshal(content, 1) for content in frames))
    count = Count()
    confirms = Confirms(count)
    confirms.sent(1, time.monotonic_ns())
    while confirms.waiting:
        confirms.read(link)
    link.close()
    if count.refused:
        raise ConnectionError("the broker refused the message")


def publish(load: Load, window: int, ahead_max: int = 0) -> Published:
    """`window` publishes may wait for their confirm.

    With `ahead_max` the publisher waits while so many messages are sent that no consumer has seen.
    """
    link, count, progress = Link(load.port), Count(), Progress(load.progress)
    link.call(commands.Confirm.Select())
    confirms, bodies = Confirms(count), Bodies(load.size)
    body_frame = FRAME_HEADER.pack(BODY, 1, load.size)
    heads = [_head("", queue, load.size) + body_frame for queue in load.queues]
    sent, queues = 0, len(heads)
    marks = [time.monotonic()]
    while count.messages < load.messages:
        if ahead_max:
            _wait_for_consumer(progress, sent - ahead_max)
        end = min(load.messages, sent + window - confirms.waiting)
        if end > sent:
            parts: list[bytes] = []
            for number in range(sent, end):
                queue = number % queues
                parts += (heads[queue], bodies.body(queue, number // queues), FRAME_END)
            now = time.monotonic_ns()
            link.send(b"".join(parts))
            confirms.sent(end - sent, now)
            sent = end
        confirms.read(link)
        progress[CONFIRMED] = count.messages
        while count.messages * PARTS >= load.messages * len(marks):
            marks.append(time.monotonic())
    link.close()
    parts_s = tuple(end - begin for begin, end in pairwise(marks))
    return Published(parts_s, count.refused, tuple(sorted(count.latencies_ms)))


def _wait_for_consumer(progress: Progress, messages: int) -> None:
    """Until so many were taken."""
    deadline = time.monotonic() + SILENCE_MAX_S
    while progress[TAKEN] < messages:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the consumer took {progress[TAKEN]} messages and no more")
        time.sleep(POLL_S)


def _head(exchange: str, routing_key: str, size: int) -> bytes:
    """The frames of a publish before its body's."""
    properties = commands.Basic.Properties(delivery_mode=2)
    return frame.marshal(
        commands.Basic.Publish(exchange=exchange, routing_key=routing_key), 1
    ) + frame.marshal(header.ContentHeader(body_size=size, properties=properties), 1)
