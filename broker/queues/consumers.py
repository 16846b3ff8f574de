"""The consumers of one queue, and whose turn it is.

A queue owns exactly one of these. Consumers of the highest priority take turns (round-robin); lower ones
get something only while every higher one is blocked. A consumer that turns out to be unable to take leaves
the rotation and costs nothing until it is woken. With single active consumer only the one that came first
is in the rotation at all, whatever the priorities; when it goes, the next in order of arrival follows.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from .consumer import Consumer

_NOBODY: Mapping[int, "OrderedDict[Consumer, None]"] = MappingProxyType({})  # for all that have no consumers


class Consumers:
    """See the module's docstring."""

    __slots__ = ("_all", "_rotation", "_single_active", "active")

    def __init__(self, *, single_active: bool) -> None:
        self.active: Consumer | None = None  # the single active consumer; None in a queue without that rule
        self._single_active = single_active
        self._all: dict[Consumer, None] = {}  # in order of arrival
        # By priority, highest first; in each the one in front is next. (Ordered: a consumer leaves in O(1).)
        self._rotation = _NOBODY  # replaced when a priority comes or goes

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._all)

    @property
    def has_exclusive(self) -> bool:
        """Whether a consumer has the queue to itself."""
        return len(self._all) == 1 and next(iter(self._all)).exclusive

    def add(self, consumer: Consumer) -> None:
        self._all[consumer] = None
        if not self._single_active:
            self._enter_rotation(consumer)
        elif self.active is None:
            self._activate(consumer)

    def remove(self, consumer: Consumer) -> bool:
        """Returns whether it was here."""
        if consumer not in self._all:
            return False
        del self._all[consumer]
        lane = self._rotation.get(consumer.priority)
        if lane is not None:
            lane.pop(consumer, None)
            if not lane:
                self._rotation = {at: lane for at, lane in self._rotation.items() if lane}
        consumer.is_blocked = False  # nobody waits for it any more
        if consumer is self.active:
            self.active = None
            successor = next(iter(self._all), None)
            if successor is not None:
                self._activate(successor)
        return True

    def next(self) -> tuple[Consumer, int, int] | None:
        """The consumer whose turn it is, among those that can take a message; None when nobody can.

        And how many messages and octets it is its turn for: of all that it can take, where it is alone.
        """
        for lane in self._rotation.values():
            while lane:
                consumer = next(iter(lane))
                count, room = consumer.credit()
                if count > 0 and room > 0:
                    if len(lane) == 1:
                        return consumer, count, room
                    lane.move_to_end(consumer)
                    return consumer, 1, room
                consumer.is_blocked = True
                del lane[consumer]
        return None

    def wake(self, consumer: Consumer) -> None:
        """A blocked consumer may be able to take again: it goes to the end of its rotation."""
        consumer.is_blocked = False
        self._enter_rotation(consumer)

    def _activate(self, consumer: Consumer) -> None:
        self.active = consumer
        self._enter_rotation(consumer)

    def _enter_rotation(self, consumer: Consumer) -> None:
        lane = self._rotation.get(consumer.priority)
        if lane is None:
            lane = OrderedDict()
            self._rotation = dict(sorted([*self._rotation.items(), (consumer.priority, lane)], reverse=True))
        lane[consumer] = None
