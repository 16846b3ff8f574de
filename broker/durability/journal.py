"""The journal: what the domain changed since the last group commit, in the order it must be replayed.

The domain calls it synchronously and never waits. The committer takes everything pending as one `Batch`,
makes it durable with one append, and calls `Batch.committed`: only then are publishers confirmed and waiting
replies sent.

Invariants:
- A message published and fully settled before its batch is packed never reaches the disk; its confirm still
  goes through the batch, so that confirms of a channel keep their order.
- Within a batch: topology and publishes in the order they happened, then requeues, then settles. A settle is
  final for a copy, so it may come last; a dead-lettered copy is therefore published again before it is
  settled.
- Whatever one synchronous step of the domain changed is in one batch, and a batch becomes durable whole.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from leveret.storage.engine import Position

from ..message import CopyState, Message, QueuedMessage
from . import records

if TYPE_CHECKING:
    from ..channels.channel import Channel
    from ..queues.queue import Queue

MESSAGE_OVERHEAD_BYTES = 512  # what a message takes besides its body and properties, roughly


class StoredBlob:
    """One blob of the log that may hold live copies; made when a batch is packed, shared by its messages."""

    __slots__ = ("live_copies", "position")

    def __init__(self, position: Position | None = None) -> None:
        self.position = position  # None until its batch is committed
        self.live_copies = 0  # copies published in this blob that no settle has ended yet


class Batch:
    """Everything that one group commit makes durable."""

    __slots__ = ("_confirms", "_waiting", "blobs", "messages", "payloads")

    def __init__(self, confirms: "dict[Channel, int]", waiting: list[Callable[[], None]]) -> None:
        self._confirms = confirms
        self._waiting = waiting
        self.payloads: list[list[bytes]] = []  # the pieces of each blob's payload
        self.blobs: list[StoredBlob] = []  # one per payload
        self.messages = 0  # how many messages it stores

    def committed(self) -> None:
        """The batch is on the disk: confirm to publishers and release what waited. Confirms go first."""
        for channel, publish_tag in self._confirms.items():
            channel.confirm_up_to(publish_tag)
        for callback in self._waiting:
            callback()


class Journal:
    """See the module's docstring. One per broker; the committer is its only reader."""

    def __init__(self, blob_max_bytes: int) -> None:
        self._blob_max_bytes = blob_max_bytes
        self.changes = 0
        """Counts topology changes, delivery marks and transactions: replies to these wait for the commit."""
        self.pending_bytes = 0
        """About how much memory waits for a commit, for back-pressure."""
        self._entries: list[Message | bytes] = []
        self._requeued: list[QueuedMessage] = []
        self._settled: dict[int, list[int]] = {}
        self._confirms: dict[Channel, int] = {}
        self._waiting: list[Callable[[], None]] = []

    # What the domain calls

    def publish(self, message: Message, copies: list[QueuedMessage]) -> None:
        """These copies of a message must survive a crash; called once per message, with all of them."""
        message.durable_copies = copies
        for copy in copies:
            copy.is_durable = True
        self._entries.append(message)
        self.pending_bytes += len(message.body) + len(message.properties) + MESSAGE_OVERHEAD_BYTES

    def settle(self, copy: QueuedMessage) -> None:
        """The copy is gone for good. Does nothing for a copy that was never to be stored."""
        if not copy.is_durable:
            return
        message = copy.message
        blob = message.blob
        if blob is None:
            message.durable_copies.remove(copy)
            return
        blob.live_copies -= 1
        settled = self._settled.get(copy.queue.id)
        if settled is None:
            self._settled[copy.queue.id] = [message.sequence]
        else:
            settled.append(message.sequence)

    def requeue(self, copy: QueuedMessage) -> None:
        """`redelivered` or `delivery_count` of the copy changed."""
        if copy.is_durable:
            self._requeued.append(copy)

    def topology(self, packed: bytes) -> None:
        """A durable exchange, queue or binding came or went: a change that `records.pack_map` has packed."""
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

    def confirm(self, channel: "Channel", publish_tag: int) -> None:
        """Confirm this publish, and all before it on its channel, when what is pending now is durable."""
        self._confirms[channel] = publish_tag

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything pending now is durable."""
        self._waiting.append(callback)

    def forget_channel(self, channel: "Channel") -> None:
        """The channel is closed: its pending confirms are never sent."""
        self._confirms.pop(channel, None)

    # What the committer calls

    @property
    def has_pending(self) -> bool:
        return bool(self._entries or self._settled or self._requeued or self._confirms or self._waiting)

    def take(self) -> Batch:
        """Pack everything pending. Afterwards the in-memory state is exactly the log's state after this
        batch.
        """
        batch = Batch(self._confirms, self._waiting)
        packer = _Packer(batch, self._blob_max_bytes)
        for entry in self._entries:
            if isinstance(entry, Message):
                if entry.durable_copies:
                    packer.add_message(entry)
            else:
                packer.add(entry)
        self._pack_requeued(packer)
        for queue_id, sequences in self._settled.items():
            packer.add(records.pack_settle(queue_id, sequences))
        self._entries = []
        self._requeued = []
        self._settled = {}
        self._confirms = {}
        self._waiting = []
        self.pending_bytes = 0
        return batch

    def _pack_requeued(self, packer: "_Packer") -> None:
        by_queue: dict[int, dict[int, int]] = {}
        for copy in self._requeued:
            if copy.state is not CopyState.GONE:
                by_queue.setdefault(copy.queue.id, {})[copy.message.sequence] = copy.delivery_count
        for queue_id, copies in by_queue.items():
            packer.add(records.pack_requeue(queue_id, list(copies.items())))


class _Packer:
    """Fills a batch's payloads, starting a new blob at a record border when one is full."""

    __slots__ = ("_batch", "_blob", "_blob_max_bytes", "_pieces", "_room")

    def __init__(self, batch: Batch, blob_max_bytes: int) -> None:
        self._batch = batch
        self._blob_max_bytes = blob_max_bytes
        self._room = 0
        self._pieces: list[bytes] = []
        self._blob = StoredBlob()

    def _start_blob(self) -> None:
        self._pieces = []
        self._blob = StoredBlob()
        self._batch.payloads.append(self._pieces)
        self._batch.blobs.append(self._blob)
        self._room = self._blob_max_bytes

    def add(self, record: bytes) -> None:
        if self._room < len(record):
            self._start_blob()
        self._pieces.append(record)
        self._room -= len(record)

    def add_message(self, message: Message) -> None:
        copies = message.durable_copies
        head, body = records.pack_publish(
            message.sequence,
            message.published_at,
            [copy.queue.id for copy in copies],
            message.exchange,
            message.routing_key,
            message.properties,
            message.body,
        )
        size = len(head) + len(body)
        if self._room < size:
            self._start_blob()
        pieces = self._pieces
        pieces.append(head)
        pieces.append(body)
        self._room -= size
        self._blob.live_copies += len(copies)
        message.blob = self._blob
        message.durable_copies = []
        self._batch.messages += 1
