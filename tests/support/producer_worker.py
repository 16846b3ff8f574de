"""The worker of the crash load that is a producer: after each death of the broker, and sometimes in between,
it sends again whatever it has no answer for. It speaks the native framing itself, without the SDK.

Its messages go to a queue that nobody consumes from before the end. So each of them must be found there once.
What it has sent and heard it looks up in the history, for a power cut takes the end of that away.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from crash_worker import UNCONFIRMED_MAX, Worker, body_of
from history import Confirmed, Invoked

from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.protocol.native.connection import BATCH_BYTES, CHANNEL_MAX, FAILED, ClientConnection
from leveret.protocol.native.layouts import FrameType

QUEUE = "backlog"
READ_BYTES = 1 << 16
ALL_MESSAGES = 1 << 25


class ProducerWorker(Worker):
    """Its name is its producer id; the number of a message is its publish tag."""

    _protocol: ClientConnection
    _writer: asyncio.StreamWriter

    async def work(self, port: int) -> None:
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        self._protocol = ClientConnection()
        self._protocol.hello("guest", "guest", "/", heartbeat_s=0, frame_max=ALL_MESSAGES, properties={})
        self._look_up()
        self._channel = 0
        self._opened = asyncio.Event()
        self._flush()
        publishing = asyncio.create_task(self._publish())
        try:
            while data := await reader.read(READ_BYTES):
                for event in self._protocol.receive_data(data):
                    self._received(event)
                self._flush()
        except OSError:
            pass
        finally:
            publishing.cancel()
            self._writer.transport.abort()

    def _look_up(self) -> None:
        self._unanswered: dict[int, None] = {}  # tags, rising
        self._confirmed = 0  # the highest tag that was
        for event in self.journal.history:
            if isinstance(event, Invoked) and event.publisher == self.name:
                self._unanswered[event.number] = None
            elif isinstance(event, Confirmed) and event.publisher == self.name:
                del self._unanswered[event.number]
                self._confirmed = max(self._confirmed, event.number)

    def _size_of(self, number: int) -> int:
        """The same at each attempt: small ones mostly, some that are cut into parts."""
        return 300_000 if number % 211 == 0 else 20_000 if number % 29 == 0 else number % 7 * 50

    def _flush(self) -> None:
        self._writer.writelines(self._protocol.data_to_send())

    # What the broker says

    def _received(self, event: Sequence[Any]) -> None:
        kind = event[0]
        if kind == FrameType.WELCOME:
            self._open()
        elif kind == FrameType.REPLY:
            self._send_again(event[2][0])
        elif kind == FrameType.CONFIRM:
            self._note_confirms(event[2])
        elif kind == FrameType.CLOSE:
            self._protocol.answer_close()
        elif kind == FrameType.CHANNEL_CLOSED:
            if event[1] == self._channel:
                self.journal.complaints.append(f"{self.name}: {event[3]}")
        elif kind not in (FrameType.BLOCKED, FrameType.UNBLOCKED, FAILED):
            self.journal.complaints.append(f"{self.name}: {event}")

    def _note_confirms(self, tags: list[int | list[int]]) -> None:
        for element in tags:
            first, last = (element, element) if isinstance(element, int) else element
            for number in [number for number in self._unanswered if first <= number <= last]:
                del self._unanswered[number]
                self._confirmed = max(self._confirmed, number)
                self.journal.add(Confirmed(self.name, number))

    # What it says

    def _open(self) -> None:
        """Also while it has a channel: the new one takes over."""
        self._opened.clear()
        self._channel += 1
        self._protocol.send(FrameType.CHANNEL_OPEN, self._channel, self._channel, True, self.name.encode())

    def _send_again(self, last_tag: int) -> None:
        if last_tag < self._confirmed:
            self.journal.complaints.append(
                f"{self.name}: {self._confirmed} was confirmed, {last_tag} is last"
            )
        self._send(list(self._unanswered))
        self._opened.set()

    async def _publish(self) -> None:
        while True:
            await self._opened.wait()
            if self._channel < CHANNEL_MAX and self.random.random() < 0.05:
                self._open()
            elif len(self._unanswered) < UNCONFIRMED_MAX:
                numbers = [self.journal.next_number(self.name) for _ in range(self.random.randint(1, 10))]
                for number in numbers:
                    self._unanswered[number] = None
                    self.journal.add(Invoked(self.name, number, (QUEUE,)))
                self._send(numbers)
            self._flush()
            await self.pause(0.02)

    def _send(self, numbers: list[int]) -> None:
        """In batches of neighbours that are not too large."""
        batch: list[list[object]] = []
        first = size = 0
        for number in numbers:
            if batch and (number != first + len(batch) or size > BATCH_BYTES):
                self._protocol.send_batch(FrameType.PUBLISH, self._channel, first, batch)
                batch = []
            if not batch:
                first, size = number, 0
            batch.append(self._message(number))
            size += self._size_of(number)
        if batch:
            self._protocol.send_batch(FrameType.PUBLISH, self._channel, first, batch)

    def _message(self, number: int) -> list[object]:
        size = self._size_of(number)
        name = f"{self.name}/{number}/{size}"
        properties = encode_properties(BasicProperties(delivery_mode=2, message_id=name))
        return ["", QUEUE, 0, properties, body_of(self.name, number, size)]
