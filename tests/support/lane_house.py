"""A lane for tests, with a log and a spill that remember what the lane gave them. Make one per test."""

from collections import defaultdict

from queue_house import QueueHouse

from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.durability.spilled import SpilledBlob, SpilledBlobs
from leveret.broker.message import CopyState, Message, QueuedMessage
from leveret.broker.queues.lane import READ_AHEAD_BYTES, Lane
from leveret.broker.queues.runs import Row, Run
from leveret.protocol.amqp.properties import read_facts
from leveret.storage.memory_spill import MemorySpill
from leveret.storage.spill import SpillHandle


class LaneHouse:
    """A lane, a log that remembers what the lane gave it, and a spill that does."""

    def __init__(self) -> None:
        self.house = QueueHouse()
        self.queue = self.house.queue()
        self.lane = Lane(self.queue, 0)
        self.blobs = Blobs()
        self.messages: dict[int, Message] = {}
        self.unlogged: list[QueuedMessage] = []
        self.settled: list[QueuedMessage] = []  # since the last commit
        self.logged: set[int] = set()  # sequences that the log has, and no settle of them
        self.last_position = 0
        self.spill = MemorySpill()
        self.spilled = SpilledBlobs(self.spill, lambda: None)
        self.written: dict[int, list[int]] = {}  # sequences, by the position of their blob in the spill

    def publish(self, *bodies: bytes, is_durable: bool = True, expires_at: int | None = None) -> None:
        for body in bodies:
            sequence = len(self.messages) + 1
            message = Message(sequence, 0, "", "q", b"\0\0", read_facts(b"\0\0"), body)
            self.messages[sequence] = message
            copy = QueuedMessage(message, self.queue, expires_at, 0)
            self.lane.add(copy)
            copy.is_durable = is_durable
            if is_durable:
                self.unlogged.append(copy)

    def settle(self, copy: QueuedMessage) -> None:
        copy.state = CopyState.GONE
        if copy in self.unlogged:
            self.unlogged.remove(copy)
        elif copy.is_durable:
            self.settled.append(copy)

    def commit(self) -> StoredBlob:
        """What the journal does at a take: publishes into one blob, then settles."""
        self.last_position += 1
        blob = StoredBlob(self.blobs, self.last_position)
        if self.unlogged:
            self.lane.store(self.unlogged, blob)
            blob.add(len(self.unlogged))
            self.logged.update(copy.message.sequence for copy in self.unlogged)
        blob.size = 1000
        self.blobs.enter(blob)
        by_run: defaultdict[Run, list[int]] = defaultdict(list)
        for copy in self.settled:
            assert copy.run is not None
            by_run[copy.run].append(copy.message.sequence)
            self.lane.live_bytes -= len(copy.message.body)
        for run, sequences in by_run.items():
            self.lane.settle_run(run, sequences)
            self.logged -= set(sequences)
        self.unlogged, self.settled = [], []
        return blob

    def spill_some(self, copies: list[QueuedMessage]) -> SpilledBlob:
        """What the spiller does when these copies, which were `spillable`, are written."""
        blob = self.spilled.enter(SpillHandle(1))
        self.written[blob.position] = [copy.message.sequence for copy in copies]
        self.lane.spill(copies, blob)
        if not blob.live_copies:
            self.spilled.drop(blob)
        return blob

    def live_in(self, row: Row) -> list[int]:
        """The copies that a cold run has, as its blob has them."""
        if row.is_spilled:
            return [sequence for sequence in self.written[row.position] if row.first <= sequence <= row.last]
        return [
            sequence
            for sequence in range(row.first, row.last + 1)
            if sequence in self.logged and not row.gone >> (sequence - row.first) & 1
        ]

    def read(self, bytes_max: int = READ_AHEAD_BYTES, copies_max: int | None = None) -> int:
        """What the reader does with what the lane wants; returns how many runs it brought."""
        rows = self.lane.wanted_rows(bytes_max)
        for row in rows:
            sequences = self.live_in(row)
            assert len(sequences) == row.live
            brought = sequences if copies_max is None else sequences[:copies_max]
            last = row.last if brought == sequences else sequences[len(brought)] - 1
            spilled = self.lane.spilled if row.is_spilled else None
            copies = [self.queue.revive(self.messages[sequence], spilled) for sequence in brought]
            self.lane.admit(row, None if spilled is not None else self.blobs[row.position], copies, last)
        return len(rows)

    def purge(self) -> None:
        emptied = self.lane.empty()
        for copy in emptied.copies:
            self.settle(copy)
        self.lane.live_bytes -= emptied.cold.body_bytes
        for row in emptied.cold:
            self.logged -= set(self.live_in(row))
            self.blobs[row.position].release(row.live)

    @property
    def cold(self) -> list[int]:
        """Sequences that are on the disk only."""
        return [
            sequence for table in self.lane.cold_tables for row in table for sequence in self.live_in(row)
        ]

    @property
    def in_memory(self) -> list[int]:
        return [copy.message.sequence for copy in self.lane]

    def pop_all(self) -> list[int]:
        """Everything, read back where that is needed."""
        sequences = []
        while self.lane.count:
            copy = self.lane.pop()
            if copy is None:
                assert self.read()
            else:
                sequences.append(copy.message.sequence)
        return sequences


def popped(house: LaneHouse) -> QueuedMessage:
    copy = house.lane.pop()
    assert copy is not None
    copy.state = CopyState.UNACKED
    return copy


def give_back(house: LaneHouse, copy: QueuedMessage) -> None:
    copy.state = CopyState.READY
    house.lane.add(copy)
