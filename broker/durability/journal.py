"""The journal: what the domain changed since the last group commit, in the order it must be replayed.

The domain calls it synchronously and never waits. The committer takes everything pending as one `Batch`,
makes it durable with one append, and calls `Batch.committed`: only then are publishers confirmed and waiting
replies sent.

It also keeps the runs (`queues/runs.py`): a copy comes into one when it is packed, and leaves it when its
settle is.

Invariants:
- A message published and fully settled before its batch is packed never reaches the disk; its confirm still
  goes through the batch, so that confirms of a channel keep their order.
- Within a batch: topology and publishes in the order they happened, then requeues, then settles and purges,
  then the tags of producers, then what was moved. A settle is final for a copy, so it may come last; a
  dead-lettered copy is therefore published again before it is settled.
- Whatever one synchronous step of the domain changed is in one batch, and a batch becomes durable whole.
- Right after `take`, runs and topology in memory are what the log says up to the end of that batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from leveret.storage.blob import HEADER_BYTES

from ..channels.producers import TagRun
from ..message import CopyState, Message, QueuedMessage
from ..queues.lane import Lane
from ..queues.runs import Run, RunTable
from . import records
from .batch import Batch, Packer
from .blobs import Blobs, StoredBlob

if TYPE_CHECKING:
    from ..channels.channel import Channel
    from ..channels.producers import Producer
    from ..queues.queue import Queue

MESSAGE_OVERHEAD_BYTES = 1024  # what a message takes besides its body and properties, roughly
STRETCHES_MAX = 8192  # in one PURGE or PRODUCER record


class Journal:
    """See the module's docstring. One per broker; the committer is its only reader."""

    def __init__(self, blob_max_bytes: int) -> None:
        self.blobs = Blobs()
        self.changes = 0
        """Counts topology changes, delivery marks and transactions: replies to these wait for the commit."""
        self.pending_bytes = 0
        """About how much memory waits for a commit, for back-pressure."""
        self._payload_max_bytes = blob_max_bytes - HEADER_BYTES
        self._entries: list[Sequence[Message] | bytes] = []
        self._large: list[Message] = []  # of the entries: those whose bodies do not fit into a blob
        self._requeued: list[QueuedMessage] = []
        self._settled: dict[Run, list[int]] = {}
        self._purges: list[bytes] = []
        self._tags: dict[Producer, list[TagRun]] = {}
        self._moves: list[tuple[StoredBlob, bytes]] = []
        self._confirms: dict[Channel, int] = {}
        self._waiting: list[Callable[[], None]] = []

    # What the domain calls

    def publish(self, messages: Sequence[Message], copies: Iterable[QueuedMessage]) -> None:
        """These copies of these messages, and no others of them, must survive a crash. The messages differ in
        their bodies only.
        """
        for copy in copies:
            copy.is_durable = True
            copy.message.durable_copies += (copy,)
        size_max = self._payload_max_bytes // 2
        for message in messages:
            size = len(message.body)
            if size > size_max:
                self._large.append(message)
            self.pending_bytes += size + len(message.properties) + MESSAGE_OVERHEAD_BYTES
        self._entries.append(messages)

    def settle(self, copies: Iterable[QueuedMessage]) -> None:
        """They are gone for good. Does nothing for a copy that was never to be stored."""
        last_run = None
        for copy in copies:
            if not copy.is_durable:
                continue
            message = copy.message
            run = copy.run
            if run is None:  # it is not packed yet, unless its queue was deleted before that
                left = [other for other in message.durable_copies if other is not copy]
                message.durable_copies = tuple(left)
                continue
            if run is not last_run:
                settled = self._settled.setdefault(run, [])
                last_run = run
            settled.append(message.sequence)
            run.lane.settled_bytes += len(message.body)

    def requeue(self, copy: QueuedMessage) -> None:
        """`redelivered` or `delivery_count` of the copy changed."""
        if copy.is_durable:
            self._requeued.append(copy)

    def purge(self, lane: Lane, cold: RunTable) -> None:
        """These runs of the lane, of which nothing is in memory, are gone for good."""
        body_bytes = cold.body_bytes
        lane.live_bytes -= body_bytes
        stretches = cold.stretches()
        for at in range(0, len(stretches), STRETCHES_MAX):
            some = stretches[at : at + STRETCHES_MAX]
            self._purges.append(records.pack_purge(lane.queue.id, lane.priority, body_bytes, some))
            body_bytes = 0
        self.blobs.release_all(cold.live_by_position())

    def close_lane(self, lane: Lane, cold: RunTable) -> None:
        """The lane's queue is deleted (its own record says so), and with it all that it has."""
        lane.is_closed = True
        self.blobs.release_all(cold.live_by_position())
        for run in lane.resident.values():
            run.blob.release(run.live)
            run.end()
        lane.resident.clear()

    def topology(self, packed: bytes) -> None:
        """A durable exchange, queue or binding came or went: `records.pack_map` of what happened."""
        self._entries.append(records.pack_topology(packed))
        self.changes += 1

    def delivering(self, queue: "Queue", delivering: bool) -> None:
        """Copies of a durable queue may from now on be with consumers (or none is any more).

        After a crash, `redelivered` must be true for every copy that a consumer may have seen. Deliveries are
        too many to write down one by one, so the queue is marked, and the first delivery waits until the mark
        is durable.
        """
        queue.delivering = delivering
        self._entries.append(records.pack_delivering(queue.id, delivering))
        self.changes += 1

    def store_tags(self, producer: "Producer", runs: "list[TagRun]") -> None:
        """The messages with these publish tags were given to `publish` just now."""
        pending = self._tags.setdefault(producer, [])
        for run in runs:
            before = pending[-1] if pending else None
            if before is not None and before.last + 1 == run.first and before[2] == run[2]:
                pending[-1] = TagRun(before.first, *run[1:])
            else:
                pending.append(run)

    def forget_producer(self, producer: "Producer") -> None:
        """Nothing is known of it from now on."""
        self._tags.pop(producer, None)
        self._entries.append(records.pack_producer(*producer.key, []))

    def confirm(self, channel: "Channel", publish_tag: int) -> None:
        """Confirm this publish, and all before it on its channel, when what is pending now is durable."""
        self._confirms[channel] = publish_tag

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything pending now is durable."""
        self._waiting.append(callback)

    def forget_channel(self, channel: "Channel") -> None:
        """The channel is closed: its pending confirms are never sent."""
        self._confirms.pop(channel, None)

    # What the cleaner calls

    def move(self, blob: StoredBlob, payload: bytes) -> None:
        """Write what is still alive of this blob anew with the next batch."""
        self._moves.append((blob, payload))

    # What the committer calls

    @property
    def has_pending(self) -> bool:
        return bool(self._settled or self._requeued or self.is_awaited)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody may wait for what is pending: all of it but settles and requeues."""
        return bool(
            self._entries
            or self._confirms
            or self._waiting
            or self._purges
            or self._moves
            or self._tags
            or self.blobs.is_releasing
        )

    def take(self, next_position: int, queues: "Callable[[], Mapping[int, Queue]]") -> Batch:
        """Pack everything pending, into blobs from this position on.

        `queues` gives the durable queues by id; it is called only when something is to be moved.
        """
        batch = Batch(self._confirms, self._waiting)
        packer = Packer(batch, self.blobs, self._payload_max_bytes, next_position)
        for message in self._large:
            if message.durable_copies:
                packer.add_parts(message)
        for entry in self._entries:
            if isinstance(entry, bytes):
                packer.add(entry)
            else:
                packer.add_messages(entry)
        packer.end_messages()
        self._pack_requeued(packer)
        self._pack_settled(packer)
        for record in self._purges:
            packer.add(record)
        self._pack_tags(packer)
        if self._moves:
            by_id = queues()
            for blob, payload in self._moves:
                packer.add_survivors(blob, payload, by_id)
        self._entries, self._large, self._requeued, self._settled = [], [], [], {}
        self._purges, self._tags, self._moves = [], {}, []
        self.blobs.release_more()
        self._confirms, self._waiting = {}, []
        self.pending_bytes = 0
        return batch

    def _pack_requeued(self, packer: Packer) -> None:
        by_queue: dict[Queue, dict[int, int]] = {}
        for copy in self._requeued:
            queue, sequence = copy.queue, copy.message.sequence
            if copy.run is not None and not queue.is_deleted:
                by_queue.setdefault(queue, {})[sequence] = copy.delivery_count
                if copy.state is not CopyState.GONE:  # else it has ended, or its lane has said so, letting go
                    queue.returned[sequence] = copy.delivery_count
        for queue, copies in by_queue.items():
            packer.add(records.pack_requeue(queue.id, list(copies.items())))

    def _pack_settled(self, packer: Packer) -> None:
        by_lane: dict[Lane, list[int]] = {}
        for run, sequences in self._settled.items():
            lane = run.lane
            if lane.is_closed:
                continue
            lane.settle_run(run, sequences)
            if lane in by_lane:
                by_lane[lane] += sequences
            else:
                by_lane[lane] = sequences
        for lane, sequences in by_lane.items():
            body_bytes, lane.settled_bytes = lane.settled_bytes, 0
            lane.live_bytes -= body_bytes
            packer.add(records.pack_settle(lane.queue.id, lane.priority, body_bytes, sequences))

    def _pack_tags(self, packer: Packer) -> None:
        for producer, runs in self._tags.items():
            for at in range(0, len(runs), STRETCHES_MAX):
                packer.add(records.pack_producer(*producer.key, runs[at : at + STRETCHES_MAX]))
