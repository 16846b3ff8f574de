"""What the messages carry: their queue, their number in it, and filler that only this message has."""

import random
import struct

IDENTITY = struct.Struct(">II")  # queue, number
FRAME_BODY_MAX = 131072 - 8
SEED = 20261101
SPAN = 1 << 16
STRIDE = 7919  # a prime: neighbours differ


class Bodies:
    """Makes and checks bodies of one size. Each fits into a single frame."""

    def __init__(self, size: int) -> None:
        if not IDENTITY.size <= size <= FRAME_BODY_MAX:
            raise ValueError(f"a body has {IDENTITY.size} to {FRAME_BODY_MAX} bytes, not {size}")
        self.size = size
        self._filler = size - IDENTITY.size
        self._pool = random.Random(SEED).randbytes(SPAN + size)

    def body(self, queue: int, number: int) -> bytes:
        """Of the message with this number, from 0, in this queue."""
        at = (number * STRIDE + queue) % SPAN
        return IDENTITY.pack(queue, number) + self._pool[at : at + self._filler]

    def problem(self, queue: int, number: int, buffer: bytes, start: int, size: int) -> str:
        """What is wrong with the body in a buffer; "" if nothing is. Below 0 no message was expected."""
        if number >= 0 and size == self.size and buffer.startswith(self.body(queue, number), start):
            return ""
        wanted = f"message {number}" if number >= 0 else "nothing more"
        if size != self.size:
            return f"queue {queue}: {wanted} expected, {size} bytes came"
        found_queue, found = IDENTITY.unpack_from(buffer, start)
        if (found_queue, found) != (queue, number):
            return f"queue {queue}: {wanted} expected, message {found} of queue {found_queue} came"
        return f"queue {queue}: message {number} is not what was published"
