"""What a connection has declared, bound and consumes, in order, so that it can be made again on another link.

`Channel.request` notes every success here. What was deleted, unbound or cancelled is forgotten again, and so
is what the broker deletes by itself: an auto-delete queue with its last consumer, an auto-delete exchange
with its last binding. Passive declares leave no trace.

A queue that the broker named, if it is not there any more, gets another name on the next link. Everything
that refers to it follows: the `Queue` objects, bindings, routing keys and arguments with its name in them,
consumers.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from leveret.protocol.native.layouts import FrameType

from .errors import AccessRefused, BrokerError, ResourceLocked
from .link import Link

if TYPE_CHECKING:
    from .channel import Channel
    from .queue import Queue

log = logging.getLogger(__name__)

F = FrameType
RENAMES_MAX = 10_000  # old names that are remembered for those who come with them late
CHANNEL = 1  # the number of a channel of our own, closed again before the application's are opened

_UNDOES = {F.QUEUE_UNBIND: F.QUEUE_BIND, F.EXCHANGE_UNBIND: F.EXCHANGE_BIND}


@dataclass(frozen=True, slots=True)
class Record:
    """A request that succeeded."""

    type: FrameType
    fields: tuple[Any, ...]
    named_by_broker: bool = False  # a queue; the name in `fields` is what it is called now
    channel: "Channel | None" = None  # of a consumer

    @property
    def key(self) -> tuple[Any, ...]:
        """What there can be only one of."""
        if self.type in (F.QUEUE_BIND, F.EXCHANGE_BIND):
            destination, source, binding_key, arguments = self.fields
            return self.type, destination, source, binding_key, repr(sorted(arguments.items()))
        if self.type is F.CONSUME:
            return self.type, self.channel, self.fields[1]
        return self.type, self.fields[0]


class Topology:
    """See the module's docstring. Made and owned by `Connection`."""

    def __init__(self) -> None:
        self._records: dict[tuple[Any, ...], Record] = {}
        self._queues: dict[str, WeakSet[Queue]] = {}  # objects of queues that the broker named
        self._renames: dict[str, str] = {}  # old name -> present name

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    # What happens while a link is up

    def note(self, channel: "Channel", type_: FrameType, fields: tuple[Any, ...], values: list[Any]) -> None:
        """A request succeeded with these values."""
        if type_ is F.QUEUE_DECLARE:
            name, passive, *_ = fields
            if not passive:
                self._add(Record(type_, (values[0], *fields[1:]), named_by_broker=not name))
        elif type_ is F.EXCHANGE_DECLARE:
            if not fields[2]:  # passive
                self._add(Record(type_, fields))
        elif type_ in (F.QUEUE_BIND, F.EXCHANGE_BIND):
            self._add(Record(type_, fields))
        elif type_ is F.CONSUME:
            self._add(Record(type_, fields, channel=channel))
        elif type_ in _UNDOES:
            self._remove(Record(_UNDOES[type_], fields).key)
            self._binding_gone(source=fields[1])
        elif type_ is F.QUEUE_DELETE:
            self.queue_gone(fields[0])
        elif type_ is F.EXCHANGE_DELETE:
            self._exchange_gone(fields[0])
        elif type_ is F.CANCEL:
            self.consumer_gone(channel, fields[0])

    def _add(self, record: Record) -> None:
        before = self._records.get(record.key)
        if before is not None and before.named_by_broker:
            record = replace(record, named_by_broker=True)
        self._records[record.key] = record  # in its old place, if it has one

    def _remove(self, key: tuple[Any, ...]) -> Record | None:
        return self._records.pop(key, None)

    def queue_gone(self, name: str) -> None:
        """It was deleted, by us or by somebody else, and its bindings and consumers with it."""
        self._remove((F.QUEUE_DECLARE, name))
        self._queues.pop(name, None)
        for record in self:
            if record.type is F.QUEUE_BIND and record.fields[0] == name:
                self._remove(record.key)
                self._binding_gone(source=record.fields[1])

    def _exchange_gone(self, name: str) -> None:
        self._remove((F.EXCHANGE_DECLARE, name))
        for record in self:
            if record.type not in (F.QUEUE_BIND, F.EXCHANGE_BIND):
                continue
            destination, source, *_ = record.fields
            if source == name:
                self._remove(record.key)
            elif destination == name and record.type is F.EXCHANGE_BIND:
                self._remove(record.key)
                self._binding_gone(source)

    def _binding_gone(self, source: str) -> None:
        """An auto-delete exchange goes with the last binding to it."""
        exchange = self._records.get((F.EXCHANGE_DECLARE, source))
        if exchange is None or not exchange.fields[4]:  # auto_delete
            return
        bindings = (record for record in self if record.type in (F.QUEUE_BIND, F.EXCHANGE_BIND))
        if not any(binding.fields[1] == source for binding in bindings):
            self._exchange_gone(source)

    def consumer_gone(self, channel: "Channel", number: int, *, with_queue: bool = False) -> None:
        """It was cancelled. An auto-delete queue goes with its last one; `with_queue`: it was deleted."""
        consumer = self._remove((F.CONSUME, channel, number))
        if consumer is None:
            return
        name = consumer.fields[0]
        queue = self._records.get((F.QUEUE_DECLARE, name))
        if with_queue or (queue is not None and queue.fields[4] and not self._is_consumed(name)):
            self.queue_gone(name)

    def _is_consumed(self, queue: str) -> bool:
        return any(record.type is F.CONSUME and record.fields[0] == queue for record in self)

    def channel_gone(self, channel: "Channel") -> None:
        """It was closed, and its consumers with it."""
        for record in self:
            if record.channel is channel:
                self.consumer_gone(channel, record.fields[1])

    # Names that change

    def follow(self, queue: "Queue") -> None:
        """Have this object's name follow when the broker names its queue anew."""
        record = self._records.get((F.QUEUE_DECLARE, queue.name))
        if record is not None and record.named_by_broker:
            self._queues.setdefault(queue.name, WeakSet()).add(queue)

    def renamed(self, fields: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same fields with present names in the place of old ones."""
        return tuple(_translated(field, self._renames) for field in fields) if self._renames else fields

    def _rename(self, old: str, new: str) -> None:
        self._renames = {
            before: new if after == old else after for before, after in self._renames.items()
        } | {old: new}
        while len(self._renames) > RENAMES_MAX:
            del self._renames[next(iter(self._renames))]
        records = [replace(record, fields=_translated(record.fields, {old: new})) for record in self]
        self._records = {record.key: record for record in records}
        queues = self._queues.pop(old, WeakSet())
        for queue in queues:
            queue.name = new
        self._queues[new] = queues

    # Making it again

    async def restore(self, link: Link, *, wait_for_locks: bool) -> None:
        """Declare and bind everything, in order. What the broker refuses now is logged and left out.

        `wait_for_locks`: raise ResourceLocked, for our own broken connection may still have the queue.
        """
        records = [record for record in self if record.type is not F.CONSUME]
        if not records:
            return
        await link.request(F.CHANNEL_OPEN, CHANNEL, False)
        under_way: list[asyncio.Future[list[Any]]] = []
        for record in records:
            fields = self.renamed(record.fields)
            if record.named_by_broker and await _is_there(link, fields):
                continue
            name = "" if record.named_by_broker else fields[0]
            answer = link.start_request(record.type, CHANNEL, name, *fields[1:])
            if record.named_by_broker:
                with suppress(BrokerError):
                    (new, *_) = await answer  # what follows may need the name
                    self._rename(fields[0], new)
            under_way.append(answer)
        _judge(await asyncio.gather(*under_way, return_exceptions=True), ResourceLocked, wait_for_locks)
        await link.request(F.CHANNEL_CLOSE, CHANNEL)

    async def restore_consumers(
        self, link: Link, started: Callable[["Channel", int, Any], None], *, wait_for_locks: bool
    ) -> None:
        """Start all consumers again, in order; `started` is told each one's tag, or the broker's refusal.

        `wait_for_locks`: raise AccessRefused, for our own broken connection may still be the exclusive one.
        """
        records = [record for record in self if record.channel is not None and not record.channel.is_closed]
        answers = [link.start_request(F.CONSUME, r.channel.number, *r.fields) for r in records if r.channel]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        _judge(outcomes, AccessRefused, wait_for_locks)
        for record, outcome in zip(records, outcomes, strict=True):
            assert record.channel is not None
            if isinstance(outcome, BaseException):
                self._remove(record.key)
                started(record.channel, record.fields[1], outcome)
            else:
                started(record.channel, record.fields[1], outcome[0])


async def _is_there(link: Link, declared: tuple[Any, ...]) -> bool:
    """Whether a queue has outlived the connection that declared it: then it may hold messages."""
    name, _, durable, exclusive, *options = declared
    if exclusive:
        return False
    try:
        await link.request(F.QUEUE_DECLARE, CHANNEL, name, True, durable, exclusive, *options)
    except BrokerError:
        return False
    return True


def _judge(outcomes: list[Any], locked: type[BrokerError], wait_for_locks: bool) -> None:
    """Raise what ends this attempt to restore, log what the broker refused."""
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            continue
        if not isinstance(outcome, BrokerError) or (wait_for_locks and isinstance(outcome, locked)):
            raise outcome
        log.error("could not be restored: %s", outcome)


def _translated(value: Any, names: Mapping[str, str]) -> Any:
    """The same value with other names in it, however deep."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple | list):
        return type(value)(_translated(item, names) for item in value)
    if isinstance(value, dict):
        return {key: _translated(item, names) for key, item in value.items()}
    return value
