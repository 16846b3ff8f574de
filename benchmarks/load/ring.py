"""Publishes that are made once and sent again and again: to send some is to stamp them and to write a slice.

A ring has every route of its publisher in turn, in groups: what one frame carries, which is one message on
AMQP 0-9-1 and a batch on the native framing. Only whole groups are sent.
"""

import struct
from collections.abc import Iterator, Sequence
from math import lcm

from .body import IDENTITY, MARK, blank_body
from .link import Link, Route

TAG = struct.Struct(">Q")


class Ring:
    """The messages of one publisher. `numbers` says by lane how many were taken."""

    def __init__(
        self, link: Link, routes: Sequence[Route], size: int, *, persistent: bool, group: int, burst: int
    ) -> None:
        """`burst`: how many messages are usually taken at once."""
        round_trip = lcm(len(routes), group)
        messages = round_trip * -(-burst // round_trip)
        in_turn = [routes[number % len(routes)] for number in range(messages)]
        body = blank_body(size)
        groups = [
            link.publishes(in_turn[at : at + group], body, persistent=persistent)
            for at in range(0, messages, group)
        ]
        self.group = group
        self.numbers = dict.fromkeys((route.lane for route in routes), 0)
        self._data = bytearray().join(groups)
        self._view = memoryview(self._data)
        self._starts = [0]
        for one in groups:
            self._starts.append(self._starts[-1] + len(one))
        identities = _after_each(MARK, self._data)
        self._slots = list(zip(identities, (route.lane for route in in_turn), strict=True))
        self._tag_offset = link.tag_offset
        self._next_tag = 1
        self._at = 0  # the group that is next

    def take(self, groups: int, stamp: int) -> Iterator[memoryview]:
        """The bytes of the next groups, in one slice or a few. Send each before the next one is asked for."""
        while groups > 0:
            first = self._at
            after = min(first + groups, len(self._starts) - 1)
            self._stamp(first, after, stamp)
            yield self._view[self._starts[first] : self._starts[after]]
            groups -= after - first
            self._at = after % (len(self._starts) - 1)

    def _stamp(self, first: int, after: int, stamp: int) -> None:
        data, numbers, pack_into = self._data, self.numbers, IDENTITY.pack_into
        for at, lane in self._slots[first * self.group : after * self.group]:
            number = numbers[lane]
            numbers[lane] = number + 1
            pack_into(data, at, lane, number, stamp)
        if self._tag_offset is not None:
            for start in self._starts[first:after]:
                TAG.pack_into(data, start + self._tag_offset, self._next_tag)
                self._next_tag += self.group


def _after_each(mark: bytes, data: bytearray) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at + len(mark)
        at = data.find(mark, at + len(mark))
